"""The command that says what a checkpoint is: stamp."""

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
    """Say what a checkpoint is, without running anything.

    Parameters
    ----------
    target : str or sequence of str
        ``head``, ``heads``, ``base`` or revisions; several are separated by commas. What the checkpoint has on branches
        that have nothing to do with them stays. ``auto`` is the one place where its parameters fit what is known of the
        project's models; it must not carry a record yet.
    purge : bool
        Forget first what the checkpoint remembers, whatever it is.

    The others are those of `upgrade`, as are the result and the errors. A damaged record is replaced.
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
            tree, _ = embed.unrecorded(file)  # revisions were tried on it
        graph = seen_from(found.graph, _without_squashed(found.graph, before), wanted, found.config.package)
        before = _opened(found.graph, graph, before)
        revisions = planner.plan_stamp(graph, before, wanted, found.config.package, purge)
        heads = graph.tips(revision.id for revision in revisions)
        plan = Plan(record.heads, heads, ())
        lineage = _stamped(graph, record, revisions, wanted, found.config, purge)
        same = record.heads == heads and [e.signature for e in record.lineage] == [e.signature for e in lineage]
        # What was there is not looked at: it may be the very thing that is to be forgotten.
        recorded = not same or record is DAMAGED or (purge and record.lineage != lineage)
        if dry_run or not recorded:
            return replace(unchanged(file, plan, options, noted), recorded=recorded)
        told = target if isinstance(target, str) else ",".join(target)
        # What another tool noted stays, and is looked at anew: from here on it belongs to what was told.
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
    """Leave out what was applied as one: a stamp may say otherwise."""
    lineage = (e for e in record.lineage if not (e.revision in graph and graph[e.revision].replaces))
    return replace(record, lineage=tuple(lineage))


def _opened(graph: Graph, seen: Graph, record: Record) -> Record:
    """Return a record that names the parts of what was applied as one, where the graph has those by now."""
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
    """Describe what a stamped checkpoint has: what was told as the scripts have it, all else as it was recorded."""
    told = {rev for target in wanted for rev in resolve.state(graph, target, config.package)}
    applied = {} if purge else {entry.revision: entry for entry in record.lineage}
    # What undoes them on this very file stays true of what was applied as the script still says.
    before = {
        rev: entry
        for rev, entry in applied.items()
        if rev not in told or (entry.undo is not None and entry.signature == signature_of(graph[rev]))
    }
    return tuple(
        # It stands where the scripts place it by now, and is otherwise what it was.
        replace(before[revision.id], parents=revision.parents, depends_on=revision.depends_on)
        if revision.id in before
        else step_actions.told(revision, config.parameters)
        for revision in revisions
    )
