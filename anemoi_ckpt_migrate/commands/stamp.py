"""The command that records the revisions of a checkpoint: stamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anemoi_ckpt_migrate.project.config import Config
from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import planner, resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime import executor, locate_revision, step_actions
from anemoi_ckpt_migrate.runtime.session import (
    DAMAGED,
    Options,
    Result,
    log_entry,
    reading,
    seen_from,
    unchanged,
    write,
)
from anemoi_ckpt_migrate.scripts.source import signature_of
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output

AUTO = "auto"


def stamp(
    checkpoint: StrPath,
    target: str | Sequence[str],
    *,
    purge: bool = False,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Record the revisions of a checkpoint, without running any migration.

    Parameters
    ----------
    target : str or sequence of str
        ``head``, ``heads``, ``base`` or revisions; several are separated by commas. Revisions of the checkpoint on
        unrelated branches stay. ``auto`` finds the only revision whose manifest fits the checkpoint's parameters; the
        checkpoint must not have a record yet.
    purge : bool
        First discard the whole record of the checkpoint.

    The other parameters, the result and the errors are those of `upgrade`. A damaged record is replaced.
    """
    found = opened(project)
    auto = target == AUTO and not (AUTO in found.graph or AUTO in found.graph.labels)
    wanted = [one for text in ([target] if isinstance(target, str) else target) for one in targets.parse_several(text)]
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options, stamping=True, purge=purge) as (file, tree, record):
        before = Record() if purge else record
        noted: tuple[str, ...] = ()
        if auto:
            target, noted = locate_revision.place(found, file, tree, record if not purge else before)
            wanted = list(targets.parse_several(target))
            tree, _ = embed.unrecorded(file)  # `place` ran revisions on the old tree
        graph = seen_from(found.graph, _without_squashed(found.graph, before), wanted, found.config.package)
        before = _opened(found.graph, graph, before)
        revisions = planner.plan_stamp(graph, before, wanted, found.config.package, purge)
        heads = graph.tips(revision.id for revision in revisions)
        plan = Plan(record.heads, heads, ())
        lineage = _stamped(graph, record, revisions, wanted, found.config, purge)
        same = record.heads == heads and [e.signature for e in record.lineage] == [e.signature for e in lineage]
        # The old entries are not validated: they may be the reason for the purge.
        recorded = not same or record is DAMAGED or (purge and record.lineage != lineage)
        if dry_run or not recorded:
            return replace(unchanged(file, plan, options, noted), recorded=recorded)
        told = target if isinstance(target, str) else ",".join(target)
        # The list of another tool stays and is read again: from here on it belongs to the stamped revisions.
        after = replace(record.logged(log_entry("stamp", told, plan), lineage), migrations_list=None)
        undone = {entry.revision for entry in lineage if entry.undo is not None}
        stash = {revision: values for revision, values in record.stash.items() if revision in undone}
        return write(
            file,
            tree,
            replace(record, stash=stash, migrations_list=None),
            plan,
            [],
            executor.Settings(),
            lambda walk: after,
            options,
            noted,
        )


def _without_squashed(graph: Graph, record: Record) -> Record:
    """Leave out squashed revisions: a stamp may name their parts."""
    lineage = (e for e in record.lineage if not (e.revision in graph and graph[e.revision].replaces))
    return replace(record, lineage=tuple(lineage))


def _opened(graph: Graph, seen: Graph, record: Record) -> Record:
    """Return a record with squashed revisions replaced by their parts, where `seen` counts these separately."""
    lineage: list[Applied] = []
    for entry in record.lineage:
        parts = graph[entry.revision].replaces if entry.revision in graph and entry.revision not in seen else ()
        lineage += [Applied(part.id, seen[part.id].parents) for part in parts] or [entry]
    return Record(tuple(seen.standing(head) for head in record.heads), tuple(lineage), record.log)


def _stamped(
    graph: Graph,
    record: Record,
    revisions: Sequence[Revision],
    wanted: Sequence[targets.Target],
    config: Config,
    purge: bool,
) -> tuple[Applied, ...]:
    """Return the lineage of a stamped checkpoint: named revisions as in the scripts, all others as recorded."""
    told = {rev for target in wanted for rev in resolve.state(graph, target, config.package)}
    applied = {} if purge else {entry.revision: entry for entry in record.lineage}
    # The recorded rollback of this file stays valid for a revision whose script has not changed.
    before = {
        rev: entry
        for rev, entry in applied.items()
        if rev not in told or (entry.undo is not None and entry.signature == signature_of(graph[rev]))
    }
    return tuple(
        # The entry gets the parents from the scripts and is otherwise unchanged.
        replace(before[revision.id], parents=revision.parents, depends_on=revision.depends_on)
        if revision.id in before
        else step_actions.told(revision, config.parameters)
        for revision in revisions
    )
