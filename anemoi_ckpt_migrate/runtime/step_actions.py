"""The action for each step of a plan: functions of the script, its operations, or code that the record carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation, MigrationFailed, NoWayBack
from anemoi_ckpt_migrate.runtime import carried_code, executor
from anemoi_ckpt_migrate.runtime.trust import Way, check_own_code, recorded_operations, way_back
from anemoi_ckpt_migrate.scripts.load_functions import Function, load_module, load_source, set_up

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.base import Operation
    from anemoi_ckpt_migrate.record.record import Applied
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.revisions.planner import Step


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
    from anemoi_ckpt_migrate.operations import setup  # few scripts need it

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
        return executor.OperationsAction(entry.revision, inverses(script), script.path, load, back=True)
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


def parameters_of(undone: Sequence[Applied], configured: str | None) -> str | None:
    """Return the path of the state dict, as of the time when the undone operations were applied.

    Parameters
    ----------
    undone : sequence of Applied
        The revisions to undo, last applied first.
    configured : str or None
        The configured path, if none was recorded.
    """
    paths = [entry.undo.parameters for entry in reversed(undone) if entry.undo is not None]
    return next((path for path in paths if path is not None), configured)


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


def inverses(script: Revision) -> tuple[Operation, ...]:
    """Return the operations that undo those of a script.

    Raises
    ------
    NoWayBack
        What undoes an operation is known only once it was applied to a checkpoint.
    """
    found = []
    for operation in reversed(operations_of(script) or ()):
        inverse = operation.inverse()
        if inverse is None:
            why = f"it was stamped, not applied, so the record has no rollback of {operation!r:.80}"
            raise NoWayBack(script.id, why)
        found.append(inverse)
    return tuple(found)
