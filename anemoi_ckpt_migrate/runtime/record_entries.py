"""The entries of a record: applied and stamped revisions with their rollbacks, and the log of commands."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.errors import MigrationFailed, NoWayBack
from anemoi_ckpt_migrate.operations.tree_operation import functions
from anemoi_ckpt_migrate.other_tools import match_revisions
from anemoi_ckpt_migrate.record.record import Applied, LogEntry, Undo
from anemoi_ckpt_migrate.runtime import carried_code
from anemoi_ckpt_migrate.runtime.step_actions import inverses
from anemoi_ckpt_migrate.scripts.load_functions import load_source
from anemoi_ckpt_migrate.scripts.source import signature_of, source_of
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.engine.runner import UndoResult
    from anemoi_ckpt_migrate.operations.base import Operation
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.revisions.planner import Plan
    from anemoi_ckpt_migrate.runtime.executor import Outcome
    from anemoi_ckpt_migrate.storage.backup_facts import BackupFacts


def log_entry(
    command: str, target: str, plan: Plan, proven: bool = False, backup: BackupFacts | None = None
) -> LogEntry:
    """Return the log entry of a command.

    Parameters
    ----------
    command, target : str
        The command, and its target as it was given.
    plan : Plan
        Its steps.
    proven : bool
        Whether the rollback was verified too.
    backup : BackupFacts, optional
        The backup that writing will leave.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    steps = tuple(step.revision for step in plan.steps)
    return LogEntry(now, command, target, plan.start, plan.end, steps, __version__, proven, backup)


def applied(revisions: Iterable[Revision]) -> list[Applied]:
    """Describe revisions to apply, for the record. The inverses of operations are known only afterwards."""
    return [_entry(revision, None if revision.undone_by_operations else _carried(revision)) for revision in revisions]


def grown(lineage: tuple[Applied, ...], entries: Sequence[Applied]) -> list[tuple[Applied, ...]]:
    """Return the lineage after each of these revisions is applied."""
    return [(*lineage, *entries[: count + 1]) for count in range(len(entries))]


def shrunk(lineage: tuple[Applied, ...], revisions: Sequence[str]) -> list[tuple[Applied, ...]]:
    """Return the lineage after each of these revisions is undone."""
    return [
        tuple(entry for entry in lineage if entry.revision not in revisions[: count + 1])
        for count in range(len(revisions))
    ]


def stamped_entry(revision: Revision, parameters: str | None, by_value: bool = False) -> Applied:
    """Describe a stamped revision for the record, with the rollback from its script.

    Parameters
    ----------
    revision : Revision
        The stamped revision.
    parameters : str or None
        The path of the state dict, if configured.
    by_value : bool
        Whether to run the script and store its rollback by value too. If the script cannot run, only the source is
        stored.
    """
    if revision.operations is None:
        try:
            return _entry(revision, _carried(revision) if by_value and revision.reversible else None)
        except MigrationFailed:
            return _entry(revision, None)
    try:
        undo = _undo_of(revision, inverses(revision), parameters)
    except NoWayBack:
        undo = None
    return replace(_entry(revision, None), undo=undo)


def with_undo(
    entries: Sequence[Applied], graph: Graph, undone: Mapping[str, UndoResult], parameters: str | None
) -> tuple[Applied, ...]:
    """Add the rollbacks of operations to revisions that were applied."""
    found = []
    for entry in entries:
        result = undone.get(entry.revision)
        if result is not None:
            undo = _undo_of(graph[entry.revision], result.operations, parameters)
            if result.losses:
                undo = Undo("", lost=", ".join(together(result.losses)))
            entry = replace(entry, undo=undo)
        found.append(entry)
    return tuple(found)


def _undo_of(revision: Revision, operations: Sequence[Operation], parameters: str | None) -> Undo:
    """Store operations that undo a revision, with its script if they run one of its functions."""
    data = tuple(operation.to_data() for operation in operations)
    return Undo(source_of(revision) if functions(operations) else "", operations=data, parameters=parameters)


def notes(graph: Graph, entries: Iterable[Applied], outcome: Outcome) -> list[str]:
    """Return notes for the user: revisions that cannot be undone here, and placeholders for missing classes."""
    found = [
        f"{entry.revision} ({entry.name}) cannot be undone here: {entry.undo.lost}"
        for entry in entries
        if entry.undo is not None and entry.undo.lost and not _says_so(graph[entry.revision])
    ]
    gone = {name for undone in outcome.undone.values() for each in undone.operations for name in each.placeholders}
    if not gone:
        return found
    from anemoi_ckpt_migrate.operations import missing_classes

    places = missing_classes.standing(outcome.tree, outcome.stash)
    for name in sorted(gone.intersection(places)):
        first, *more = places[name]
        others = f", and {len(more)} more" if more else ""
        found.append(f"{name} was removed, and a placeholder replaces it at {first}{others}")
    return found


def _says_so(revision: Revision) -> bool:
    """Return whether a script shows that it is irreversible: a missing function does, operations do not."""
    return not revision.reversible and (revision.declared or revision.operations is None)


def _entry(revision: Revision, module: Any) -> Applied:
    """Describe a revision for the record; with the loaded script, the rollback is also stored by value."""
    undo = None
    if revision.reversible and not revision.undone_by_operations:
        undo = carried_code.carry(source_of(revision), module)
    return Applied(
        revision.id,
        revision.parents,
        revision.depends_on,
        revision.name,
        signature_of(revision),
        dict(revision.versions),
        revision.final,
        undo,
        known_as=match_revisions.noted_as(revision, {}),
    )


def _carried(revision: Revision) -> Any:
    """Run a script under the name that it has in a checkpoint, so that the record does not contain its local path."""
    try:
        return load_source(source_of(revision), revision.id, carried_code.shown_carried(revision.id))
    except MigrationFailed as error:
        raise MigrationFailed(revision.path, error.line, error.what) from error.__cause__
