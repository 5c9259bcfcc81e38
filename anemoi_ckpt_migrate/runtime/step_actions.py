"""The action for each step of a plan: functions of the script, its operations, or code that the record carries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.errors import BadOperation, MigrationFailed, NoWayBack
from anemoi_ckpt_migrate.operations import missing_classes, setup
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.tree_operation import functions
from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record.record import Applied, Record, Undo
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Plan, Step
from anemoi_ckpt_migrate.runtime import carried_code, executor
from anemoi_ckpt_migrate.runtime.added_names import NameCheck
from anemoi_ckpt_migrate.runtime.session import applied_of
from anemoi_ckpt_migrate.runtime.trust import Way, check_own_code, recorded_operations, way_back
from anemoi_ckpt_migrate.scripts.load_functions import Function, load_module, load_source, set_up
from anemoi_ckpt_migrate.scripts.source import source_of
from anemoi_ckpt_migrate.storage import Checkpoint


def up(revision: Revision) -> executor.Action:
    """Return the action that applies a revision."""
    operations = operations_of(revision)
    if operations is not None:
        load = _loader(lambda: load_module(revision), revision.path)
        return executor.OperationsAction(revision.id, operations, revision.path, load)
    return _calling(revision, "migrate")


def operations_of(revision: Revision) -> tuple[Operation, ...] | None:
    """Return the operations of a revision, including those from its `migrate_setup`; None if it has none.

    Raises
    ------
    MigrationFailed
        `migrate_setup` raised, or asks for something impossible.
    """
    if not revision.sets_up:
        return revision.operations
    context = set_up(revision)
    try:
        return setup.operations_of(context, revision.migrates, revision.reversible)
    except BadOperation as error:
        raise MigrationFailed(revision.path, revision.line("migrate_setup"), error.sentence) from error


def class_names(graph: Graph, steps: Iterable[Step]) -> list[str]:
    """Return the patterns of names that the operations of these steps spell out; runs `migrate_setup` for it."""
    scripts = [graph[step.revision] for step in steps if step.revision in graph]
    leaves = (leaf for script in scripts for each in operations_of(script) or () for leaf in each.leaves())
    return [name for leaf in leaves for name in leaf.class_names()]


def name_check(file: Checkpoint, project: Project, graph: Graph, plan: Plan, allowed: bool) -> NameCheck:
    """Return the check of the names that a plan adds; `allowed` permits dangerous ones."""
    return NameCheck(file, project.config.trusted, allowed, lambda: class_names(graph, plan.steps))


def down(graph: Graph, entry: Applied, trusted: bool = False) -> executor.Action:
    """Return the action that rolls back a revision of a checkpoint.

    Parameters
    ----------
    graph : Graph
        The scripts.
    entry : Applied
        The entry of the revision in the record.
    trusted : bool
        Whether code that the checkpoint carries may run.

    Raises
    ------
    UntrustedCode
        The rollback is code that the checkpoint carries.
    NoWayBack
        There is no rollback: the record lists the revision, but holds no rollback.
    """
    script, way = graph.get(entry.revision), way_back(graph, entry)
    check_own_code(graph, [entry], trusted=trusted)
    if script is None or way is Way.CHECKPOINT:
        return _carried_back(entry)
    load = _loader(lambda: load_module(script), script.path)
    if way is Way.RECORD:
        return executor.OperationsAction(entry.revision, recorded_operations(entry) or (), script.path, load, back=True)
    if script.undone_by_operations:
        return executor.OperationsAction(entry.revision, _inverses(script), script.path, load, back=True)
    return _calling(script, "rollback")


def _carried_back(entry: Applied) -> executor.Action:
    """Return the rollback that uses only code and operations that the checkpoint carries."""
    shown, operations = carried_code.shown_carried(entry.revision), recorded_operations(entry)
    if operations is None:
        return executor.FunctionAction(lambda: carried_code.carried(entry), "rollback", shown)
    source = "" if entry.undo is None else entry.undo.source
    if not source:
        return executor.OperationsAction(
            entry.revision, operations, shown, lambda name: carried_code.carried(entry), back=True
        )
    load = _loader(lambda: load_source(source, entry.revision, shown), shown)
    return executor.OperationsAction(entry.revision, operations, shown, load, back=True)


def parameters_of(record: Record, undone: Collection[str], configured: str | None) -> str | None:
    """Return the path of the state dict, as of the time when the undone operations were applied."""
    said = [entry.undo.parameters for entry in record.lineage if entry.revision in undone and entry.undo is not None]
    return next((path for path in said if path is not None), configured)


def applied(revisions: Iterable[Revision]) -> list[Applied]:
    """Describe revisions to apply, for the record. The inverses of operations are known only afterwards."""
    return [
        applied_of(revision, None if revision.undone_by_operations else _carried(revision)) for revision in revisions
    ]


def grown(lineage: tuple[Applied, ...], entries: Sequence[Applied]) -> list[tuple[Applied, ...]]:
    """Return the lineage after each of these revisions is applied."""
    return [(*lineage, *entries[: count + 1]) for count in range(len(entries))]


def shrunk(lineage: tuple[Applied, ...], revisions: Sequence[str]) -> list[tuple[Applied, ...]]:
    """Return the lineage after each of these revisions is undone."""
    return [
        tuple(entry for entry in lineage if entry.revision not in revisions[: count + 1])
        for count in range(len(revisions))
    ]


def told(revision: Revision, parameters: str | None, by_value: bool = False) -> Applied:
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
            return applied_of(revision, _carried(revision) if by_value and revision.reversible else None)
        except MigrationFailed:
            return applied_of(revision, None)
    try:
        undo = _undo_of(revision, _inverses(revision), parameters)
    except NoWayBack:
        undo = None
    return replace(applied_of(revision, None), undo=undo)


def with_undo(
    entries: Sequence[Applied], graph: Graph, walk: executor.RunContext, parameters: str | None
) -> tuple[Applied, ...]:
    """Add the rollbacks of operations to revisions that were applied."""
    found = []
    for entry in entries:
        undone = walk.undone.get(entry.revision)
        if undone is not None:
            undo = _undo_of(graph[entry.revision], undone.operations, parameters)
            if undone.losses:
                undo = Undo("", lost=", ".join(together(undone.losses)))
            entry = replace(entry, undo=undo)
        found.append(entry)
    return tuple(found)


def _undo_of(revision: Revision, operations: Sequence[Operation], parameters: str | None) -> Undo:
    """Store operations that undo a revision, with its script if they run one of its functions."""
    data = tuple(operation.to_data() for operation in operations)
    return Undo(source_of(revision) if functions(operations) else "", operations=data, parameters=parameters)


def notes(graph: Graph, entries: Iterable[Applied], walk: executor.RunContext) -> list[str]:
    """Return notes for the user: revisions that cannot be undone here, and placeholders for missing classes."""
    found = [
        f"{entry.revision} ({entry.name}) cannot be undone here: {entry.undo.lost}"
        for entry in entries
        if entry.undo is not None and entry.undo.lost and not _says_so(graph[entry.revision])
    ]
    gone = {name for undone in walk.undone.values() for each in undone.operations for name in _missing(each)}
    places = missing_classes.standing(walk.state.tree, walk.state.stash) if gone else {}
    for name in sorted(gone.intersection(places)):
        first, *more = places[name]
        others = f", and {len(more)} more" if more else ""
        found.append(f"{name} was removed, and a placeholder replaces it at {first}{others}")
    return found


def _says_so(revision: Revision) -> bool:
    """Return whether a script shows that it is irreversible: a missing function does, operations do not."""
    return not revision.reversible and (revision.declared or revision.operations is None)


def _missing(operation: Operation) -> tuple[str, ...]:
    return operation.names if isinstance(operation, missing_classes.ReplacePlaceholders) else ()


def _calling(revision: Revision, name: str) -> executor.FunctionAction:
    def load() -> Function:
        return _function(load_module(revision), name, revision.path)

    return executor.FunctionAction(load, name, revision.path)


def _function(module: Any, name: str, shown: str) -> Function:
    function: Any = getattr(module, name, None)
    if not callable(function):
        raise MigrationFailed(shown, None, f"`{name}` is not a function")
    found: Function = function
    return found


def _loader(module: Callable[[], Any], shown: str) -> Callable[[str], Function]:
    return lambda name: _function(module(), name, shown)


def _inverses(script: Revision) -> tuple[Operation, ...]:
    found = []
    for operation in reversed(operations_of(script) or ()):
        inverse = operation.inverse()
        if inverse is None:
            why = f"it was stamped, not applied, so the record has no rollback of {operation!r:.80}"
            raise NoWayBack(script.id, why)
        found.append(inverse)
    return tuple(found)


def _carried(revision: Revision) -> Any:
    """Run a script under the name that it has in a checkpoint, so that the record does not contain its local path."""
    try:
        return load_source(source_of(revision), revision.id, carried_code.shown_carried(revision.id))
    except MigrationFailed as error:
        raise MigrationFailed(revision.path, error.line, error.what) from error.__cause__
