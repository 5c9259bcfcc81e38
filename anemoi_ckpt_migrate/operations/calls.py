"""Check that the rollback in a record runs the functions that the script asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.operations.at import At, RestoreEntry
from anemoi_ckpt_migrate.operations.derive import Derive
from anemoi_ckpt_migrate.operations.rewrite import Rewrite
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions
from anemoi_ckpt_migrate.tree.paths import ANY, Path

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.base import Operation

Place = tuple[str, Path]
"""The name of a zip entry beside the pickle (empty for the tree), and a path in it."""


def runs_all(script: Sequence[Operation], recorded: Sequence[Operation]) -> bool:
    """Return whether the rollback in a record runs the functions that the script asks for, in the right order.

    Operations that run no function are ignored. A function may be missing if the checkpoint decides whether it runs:
    for an optional `At` or `Rewrite`, and for `Derive`, whose rollback is data after it was applied.

    Parameters
    ----------
    script : sequence of Operation
        The operations of the script, in the order of the upgrade.
    recorded : sequence of Operation
        The rollback in the record.
    """
    calls = [each for each in recorded if functions([each])]
    # Possible numbers of calls that the operations examined so far account for; optional ones make several possible.
    taken = {0}
    for operation in reversed(script):
        taken = _taken(operation, calls, taken)
    return len(calls) in taken


def _taken(operation: Operation, calls: Sequence[Operation], before: Collection[int]) -> set[int]:
    """Return the possible numbers of calls after one more operation."""
    if not functions([operation]):
        return set(before)
    if isinstance(operation, At):
        return _taken_at_places(operation, calls, before)
    found = {start + 1 for start in before if start < len(calls) and _undoes(calls[start], operation)}
    return found.union(before) if _may_be_missing(operation) else found


def _taken_at_places(operation: At, calls: Sequence[Operation], before: Collection[int]) -> set[int]:
    """Do the same for `At`, where each place has its own rollback in a record, or several share one."""
    wanted = _places(operation)
    needed = not operation.optional and not all(map(_may_be_missing, functions([operation])))
    most = len(wanted) if all(ANY not in path for _, path in wanted) else None
    found, looked_at = set() if needed else set(before), 0
    for start in sorted(before):
        if most is None and start < looked_at:
            continue  # found from an earlier start; avoids quadratic time on hostile records
        there: list[Place] = []
        missing = set(wanted) if needed else set()
        for end in range(start, len(calls)):
            places = _undone_places(calls[end], operation, wanted)
            if not places or (most is not None and len(there) + len(places) > most):
                break
            there += places
            missing -= {each for each in missing if any(_covers(each, place) for place in places)}
            looked_at = end + 1
            if not missing and (not needed or len(there) >= len(wanted)):
                found.add(end + 1)
    return found


def _undoes(call: Operation, operation: Operation) -> bool:
    """Return whether a call undoes an operation that runs a function."""
    if type(call) is not type(operation) or not isinstance(call, Run) or not isinstance(operation, Run):
        return False
    same = not isinstance(call, Rewrite) or not isinstance(operation, Rewrite) or _alike(operation.path, call.path)
    return same and call.migrate == operation.rollback


def _may_be_missing(operation: Operation) -> bool:
    """Return whether the rollback function of an operation may be missing, depending on the checkpoint."""
    return isinstance(operation, Derive) or (isinstance(operation, Rewrite) and operation.optional)


def _undone_places(call: Operation, operation: At, wanted: Sequence[Place]) -> list[Place]:
    """Return the places where a call undoes an `At`; empty if it undoes something else."""
    if not isinstance(call, (At, RestoreEntry)) or not runs_all(operation.operations, call.operations):
        return []
    places = _places(call)
    return places if all(any(_covers(each, place) for each in wanted) for place in places) else []


def _places(operation: At | RestoreEntry) -> list[Place]:
    if isinstance(operation, RestoreEntry):
        return [(operation.record, operation.path)]
    return [*(("", path) for path in operation.paths), *(operation.records or {}).items()]


def _covers(wanted: Place, place: Place) -> bool:
    return wanted[0] == place[0] and _alike(wanted[1], place[1])


def _alike(wanted: Path, path: Path) -> bool:
    """Return whether a path of a script matches a path in a checkpoint, where keys may be numbers."""
    return len(wanted) == len(path) and all(_same(*keys) for keys in zip(wanted, path, strict=True))


def _same(wanted: object, key: object) -> bool:
    return wanted in (ANY, key) or str(wanted) == str(key)


def rollbacks(operations: Sequence[Operation]) -> Iterator[str]:
    """Iterate over the names of the rollback functions, in the order in which they run."""
    return (each.rollback for each in reversed(functions(operations)) if each.rollback is not None)
