"""The command that records the revisions of a checkpoint: stamp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import NothingInCommon, Refused, Unrelated
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import planner, resolve, targets
from anemoi_ckpt_migrate.revisions.expand_squashed import expand_squashed_for
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime import locate_revision
from anemoi_ckpt_migrate.runtime.model_check import ModelCheck
from anemoi_ckpt_migrate.runtime.record_entries import stamped_entry
from anemoi_ckpt_migrate.runtime.session import MigrationSession, open_session_to_stamp
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, folder_options
from anemoi_ckpt_migrate.scripts.source import signature_of
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.runtime.result import Result

AUTO = "auto"


def stamp(
    checkpoint: StrPath,
    target: str | Sequence[str],
    *,
    purge: bool = False,
    keep_record: bool = False,
    project: Project | StrPath | None = None,
    chain: str | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    hard_link: bool = False,
    max_shard_size: int | str | None = None,
    known_only: bool = False,
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
    keep_record : bool
        With ``auto``, leave a checkpoint that has a record as it is. Otherwise it is refused.

    The other parameters, the result and the errors are those of `upgrade`. A damaged record is replaced.
    """
    found = resolve_project(project, chain)
    text, texts = (target, [target]) if isinstance(target, str) else (",".join(target), target)
    wanted = [each for one in texts for each in targets.parse_several(one)]
    auto = target == AUTO and not (AUTO in found.graph or AUTO in found.graph.labels)
    options = WriteOptions(
        output=checked_output(output),
        backup=backup,
        in_place=in_place,
        verify=verify,
        dry_run=dry_run,
        folder=folder_options(hard_link, max_shard_size),
        known_only=known_only,
        progress=progress,
    )
    with open_session_to_stamp(checkpoint, found, options, purge) as session:
        if auto and keep_record and session.record.lineage:
            return session.unchanged(Plan(session.record.heads, session.record.heads, ()), session.notes)
        if auto:
            if known_only:
                session.check_parameters()
            session, text = _located(session, purge)
            wanted = list(targets.parse_several(text))
        record = session.record
        lineage, heads = _stamped(session, wanted, purge)
        if known_only and not auto:
            session.check_known()
            if ModelCheck(found, found.graph, heads, session.file, wanted=True).misses(session.tree, heads):
                place = ", ".join(heads) or "base"
                raise Refused(f"its parameters are those of no model at {place}; `stamp auto` finds its revision")
        plan = Plan(record.heads, heads, ())
        same = record.heads == heads and [e.signature for e in record.lineage] == [e.signature for e in lineage]
        # The old entries are not validated: they may be the reason for the purge.
        recorded = not same or session.damaged or (purge and record.lineage != lineage)
        if dry_run or not recorded:
            return replace(session.unchanged(plan, session.notes), recorded=recorded)
        # The list of another tool stays and is read again: from here on it belongs to the stamped revisions.
        stamped = replace(record.logged(session.log_entry("stamp", text, plan), lineage), migrations_list=None)
        undone = {entry.revision for entry in lineage if entry.undo is not None}
        stash = {revision: values for revision, values in record.stash.items() if revision in undone}
        return session.write_record(plan, stamped, stash)


def _located(session: MigrationSession, purge: bool) -> tuple[MigrationSession, str]:
    """Find the revision that a checkpoint fits; return the session with a new tree, and the target."""
    record = Record() if purge else session.record
    try:
        target, notes = locate_revision.place(session.project, session.file, session.tree, record)
    except NothingInCommon as error:
        if session.options.known_only and not session.record.lineage:
            raise Unrelated("it has no record, and no parameter of a known model") from error
        raise
    tree, _ = embed.unrecorded(session.file)  # `place` ran revisions on the old tree
    return replace(session, tree=tree, notes=notes), target


def _without_squashed(graph: Graph, record: Record) -> Record:
    """Leave out squashed revisions: a stamp may name their parts."""
    lineage = (e for e in record.lineage if not (e.revision in graph and graph[e.revision].replaces))
    return replace(record, lineage=tuple(lineage))


def _expanded(graph: Graph, seen: Graph, record: Record) -> Record:
    """Return a record with squashed revisions replaced by their parts, where `seen` counts these separately."""
    lineage: list[Applied] = []
    for entry in record.lineage:
        parts = graph[entry.revision].replaces if entry.revision in graph and entry.revision not in seen else ()
        lineage += [Applied(part.id, seen[part.id].parents) for part in parts] or [entry]
    return Record(tuple(seen.standing(head) for head in record.heads), tuple(lineage), record.log)


def _stamped(
    session: MigrationSession, wanted: Sequence[targets.Target], purge: bool
) -> tuple[tuple[Applied, ...], tuple[str, ...]]:
    """Return the lineage and the heads of a stamped checkpoint.

    Named revisions are as in the scripts, all others as recorded.
    """
    config, scripts = session.project.config, session.project.graph
    record = Record() if purge else session.record
    graph = expand_squashed_for(scripts, _without_squashed(scripts, record), wanted, config.package)
    revisions = planner.plan_stamp(graph, _expanded(scripts, graph, record), wanted, config.package, purge)
    named = {rev for target in wanted for rev in resolve.state(graph, target, config.package)}
    # The recorded rollback of this file stays valid for a revision whose script has not changed.
    recorded = {
        entry.revision: entry
        for entry in record.lineage
        if entry.revision not in named
        or (entry.undo is not None and entry.signature == signature_of(graph[entry.revision]))
    }
    lineage = tuple(
        # The entry gets the parents from the scripts and is otherwise unchanged.
        replace(recorded[revision.id], parents=revision.parents, depends_on=revision.depends_on)
        if revision.id in recorded
        else stamped_entry(revision, config.parameters)
        for revision in revisions
    )
    return lineage, graph.tips(revision.id for revision in revisions)
