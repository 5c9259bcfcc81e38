"""What is done to a checkpoint for each step of a plan: the script's functions, its operations, or what is carried."""

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
    """Return what applies a revision."""
    operations = operations_of(revision)
    if operations is not None:
        load = _loader(lambda: load_module(revision), revision.path)
        return executor.Applying(revision.id, operations, revision.path, load)
    return _calling(revision, "migrate")


def operations_of(revision: Revision) -> tuple[Operation, ...] | None:
    """Return the operations of a revision, those that its `migrate_setup` amounts to included; None if it has none.

    Raises
    ------
    MigrationFailed
        `migrate_setup` raised, or says what cannot be.
    """
    if not revision.sets_up:
        return revision.operations
    context = set_up(revision)
    try:
        return setup.operations_of(context, revision.migrates, revision.reversible)
    except BadOperation as error:
        raise MigrationFailed(revision.path, revision.line("migrate_setup"), error.sentence) from error


def class_names(graph: Graph, steps: Iterable[Step]) -> list[str]:
    """Return the patterns of names that the scripts of steps spell out in their operations; a setup is run for it."""
    scripts = [graph[step.revision] for step in steps if step.revision in graph]
    leaves = (leaf for script in scripts for each in operations_of(script) or () for leaf in each.leaves())
    return [name for leaf in leaves for name in leaf.class_names()]


def name_check(file: Checkpoint, project: Project, graph: Graph, plan: Plan, allowed: bool) -> NameCheck:
    """Return what a plan may add to the names of a checkpoint; `allowed` lets it add dangerous ones."""
    return NameCheck(file, project.config.trusted, allowed, lambda: class_names(graph, plan.steps))


def down(graph: Graph, entry: Applied, trusted: bool = False) -> executor.Action:
    """Return what undoes a revision of a checkpoint.

    Parameters
    ----------
    graph : Graph
        The scripts.
    entry : Applied
        What the record says of the revision.
    trusted : bool
        Whether code that the checkpoint carries may run.

    Raises
    ------
    UntrustedCode
        It is code that the checkpoint carries.
    NoWayBack
        Nothing does: the record says what was applied, but not how it is undone.
    """
    script, way = graph.get(entry.revision), way_back(graph, entry)
    check_own_code(graph, [entry], trusted=trusted)
    if script is None or way is Way.CHECKPOINT:
        return _carried_back(entry)
    load = _loader(lambda: load_module(script), script.path)
    if way is Way.RECORD:
        return executor.Applying(entry.revision, recorded_operations(entry) or (), script.path, load, back=True)
    if script.undone_by_operations:
        return executor.Applying(entry.revision, _inverses(script), script.path, load, back=True)
    return _calling(script, "rollback")


def _carried_back(entry: Applied) -> executor.Action:
    """Return what undoes a revision by what the checkpoint carries alone."""
    shown, operations = carried_code.shown_carried(entry.revision), recorded_operations(entry)
    if operations is None:
        return executor.Calling(lambda: carried_code.carried(entry), "rollback", shown)
    source = "" if entry.undo is None else entry.undo.source
    if not source:
        return executor.Applying(entry.revision, operations, shown, lambda name: carried_code.carried(entry), back=True)
    load = _loader(lambda: load_source(source, entry.revision, shown), shown)
    return executor.Applying(entry.revision, operations, shown, load, back=True)


def parameters_of(record: Record, undone: Collection[str], configured: str | None) -> str | None:
    """Return where the state dict is: as it was when the operations were applied that are undone."""
    said = [entry.undo.parameters for entry in record.lineage if entry.revision in undone and entry.undo is not None]
    return next((path for path in said if path is not None), configured)


def applied(revisions: Iterable[Revision]) -> list[Applied]:
    """Describe revisions that are to be applied, for the record; what undoes operations is known only afterwards."""
    return [
        applied_of(revision, None if revision.undone_by_operations else _carried(revision)) for revision in revisions
    ]


def grown(lineage: tuple[Applied, ...], entries: Sequence[Applied]) -> list[tuple[Applied, ...]]:
    """Return a lineage as it is after each of some revisions was applied."""
    return [(*lineage, *entries[: count + 1]) for count in range(len(entries))]


def shrunk(lineage: tuple[Applied, ...], revisions: Sequence[str]) -> list[tuple[Applied, ...]]:
    """Return a lineage as it is after each of some revisions was undone."""
    return [
        tuple(entry for entry in lineage if entry.revision not in revisions[: count + 1])
        for count in range(len(revisions))
    ]


def told(revision: Revision, parameters: str | None, by_value: bool = False) -> Applied:
    """Describe a revision that a checkpoint is said to have, for the record, with what the script says undoes it.

    Parameters
    ----------
    revision : Revision
        Which.
    parameters : str or None
        Where operations find the state dict, if that was said.
    by_value : bool
        Whether the script is run, so that its rollback goes by value too; the source alone, where it cannot be.
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
    entries: Sequence[Applied], graph: Graph, walk: executor.Walk, parameters: str | None
) -> tuple[Applied, ...]:
    """Describe revisions that were applied: with what undoes their operations."""
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
    """Write down operations that undo a revision, with its script if they run a function of that."""
    data = tuple(operation.to_data() for operation in operations)
    return Undo(source_of(revision) if functions(operations) else "", operations=data, parameters=parameters)


def notes(graph: Graph, entries: Iterable[Applied], walk: executor.Walk) -> list[str]:
    """Say what the user should know: what cannot be undone after all, and for what placeholders stand now."""
    found = [
        f"{entry.revision} ({entry.name}) cannot be undone here: {entry.undo.lost}"
        for entry in entries
        if entry.undo is not None and entry.undo.lost and not _says_so(graph[entry.revision])
    ]
    gone = {name for undone in walk.undone.values() for each in undone.operations for name in _missing(each)}
    places = missing_classes.standing(walk.world.tree, walk.world.stash) if gone else {}
    for name in sorted(gone.intersection(places)):
        first, *more = places[name]
        others = f", and {len(more)} more" if more else ""
        found.append(f"{name} is gone, and a placeholder stands at {first}{others}")
    return found


def _says_so(revision: Revision) -> bool:
    """Tell whether a script says itself that it cannot be undone: a missing function does, operations do not."""
    return not revision.reversible and (revision.declared or revision.operations is None)


def _missing(operation: Operation) -> tuple[str, ...]:
    return operation.names if isinstance(operation, missing_classes.ReplacePlaceholders) else ()


def _calling(revision: Revision, name: str) -> executor.Calling:
    def load() -> Function:
        return _function(load_module(revision), name, revision.path)

    return executor.Calling(load, name, revision.path)


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
            why = f"it was stamped, not applied, so that nothing is known of what undoes {operation!r:.80}"
            raise NoWayBack(script.id, why)
        found.append(inverse)
    return tuple(found)


def _carried(revision: Revision) -> Any:
    """Run a script under the name that it has in a checkpoint: where it lies here is nobody's business there."""
    try:
        return load_source(source_of(revision), revision.id, carried_code.shown_carried(revision.id))
    except MigrationFailed as error:
        raise MigrationFailed(revision.path, error.line, error.what) from error.__cause__
