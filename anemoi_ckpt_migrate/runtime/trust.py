"""Decide whose code rolls back a revision: its local script, or code in the checkpoint if the user allows it.

Anyone who writes a file also writes its record, so the operations in a record are used as data only. They may call only
functions that the operations of the local script name for the rollback, in the same order. A script of functions is
undone by its own rollback.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import BadOperation, DamagedRecord, NoWayBack, UntrustedCode
from anemoi_ckpt_migrate.operations.base import Operation, from_data
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions
from anemoi_ckpt_migrate.scripts import discover
from anemoi_ckpt_migrate.storage.tensors.refs import ContentNeeded

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Applied
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.revisions.planner import Step
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

Call = tuple[str, str]
"""The kind of an operation that runs a function, and the name of the function."""

_ROLLBACK = (Run.__name__, "rollback")


class Way(Enum):
    """The source of a rollback."""

    SCRIPT = "the script here"
    RECORD = "operations of the record, with functions of the script here"
    CHECKPOINT = "code in the checkpoint"


def way_back(graph: Graph, entry: Applied) -> Way:
    """Return the source of the rollback of a revision.

    Raises
    ------
    DamagedRecord
        The recorded operations cannot be read.
    """
    script, recorded = graph.get(entry.revision), recorded_operations(entry)
    if script is None:
        return Way.CHECKPOINT if recorded is None or functions(recorded) else Way.RECORD
    own = Way.SCRIPT if script.reversible else Way.CHECKPOINT
    if recorded is None or not script.undone_by_operations:
        return own
    if script.sets_up and script.migrates:
        # The rollback also undoes `migrate`, whose effects no operation describes, so nothing can replace it.
        whole = any(type(each) is Run for each in recorded)  # runs on the whole checkpoint, not a part of it
        return Way.RECORD if script.reversible and whole and _calls(recorded) == [_ROLLBACK] else own
    return Way.CHECKPOINT if _strange(script, recorded) or _leaves_out(script, entry, recorded) else Way.RECORD


def recorded_operations(entry: Applied) -> tuple[Operation, ...] | None:
    """Return the recorded operations that undo a revision; None if the record holds none.

    Raises
    ------
    DamagedRecord
        The operations cannot be read.
    """
    if entry.undo is None or entry.undo.operations is None:
        return None
    try:
        return tuple(map(from_data, entry.undo.operations))
    except (BadOperation, TypeError, ValueError, LookupError, AttributeError, RecursionError, ContentNeeded) as error:
        raise DamagedRecord(f"the rollback of {entry.revision}: {error}") from error


def check_own_code(
    graph: Graph, undone: Iterable[Applied], checkpoint: StrPath = "CKPT", trusted: bool = False
) -> None:
    """Check that undoing revisions runs no code that the checkpoint carries, unless that is trusted.

    Raises
    ------
    UntrustedCode
        It runs such code.
    NoWayBack
        It needs such code, but the checkpoint carries none.
    """
    foreign = [entry for entry in undone if way_back(graph, entry) is Way.CHECKPOINT]
    for entry in foreign:
        if not _carries(entry):
            raise NoWayBack(entry.revision, f"{_why(graph, entry)}, and the checkpoint has no rollback; {_ANEW}")
        script, recorded = graph.get(entry.revision), recorded_operations(entry)
        if not trusted and script is not None and recorded is not None and not _strange(script, recorded):
            raise NoWayBack(entry.revision, f"{_why(graph, entry)}; {_ANEW}")
    if foreign and not trusted:
        unknown = ", ".join(entry.revision for entry in foreign if entry.revision not in graph)
        why = f"no script here knows {unknown}" if unknown else _why(graph, foreign[0])
        readable = all(entry.undo is not None and (entry.undo.source or not _runs(entry)) for entry in foreign)
        raise UntrustedCode([entry.revision for entry in foreign], os.fspath(checkpoint), why, readable)


_ANEW = "`ckpt-migrate stamp --purge TARGET CKPT` writes a new record from the scripts"


def marked(graph: Graph, steps: Iterable[Step], entries: Mapping[str, Applied]) -> tuple[Step, ...]:
    """Return the steps of a plan, where each downgrade step says whether it runs code of the checkpoint."""
    return tuple(
        step._replace(carried=way_back(graph, entries[step.revision]) is Way.CHECKPOINT)
        if step.direction == "downgrade"
        else step
        for step in steps
    )


def _runs(entry: Applied) -> bool:
    """Return whether the recorded rollback runs a function."""
    recorded = recorded_operations(entry)
    return recorded is None or bool(functions(recorded))


def _carries(entry: Applied) -> bool:
    """Return whether a checkpoint carries everything that the rollback of a revision needs."""
    return not _runs(entry) or (entry.undo is not None and bool(entry.undo.source or entry.undo.pickle))


def _why(graph: Graph, entry: Applied) -> str:
    script, recorded = graph.get(entry.revision), recorded_operations(entry)
    if script is None:
        return f"no script here knows {entry.revision}"
    if recorded is None or not script.undone_by_operations or script.sets_up:
        return f"the script of {entry.revision} has no rollback"
    names = dict.fromkeys(name for _, name in _strange(script, recorded))
    if not names and not script.reversible:
        return f"the script of {entry.revision} has no rollback"
    if not names:
        from anemoi_ckpt_migrate.operations import calls  # few records need it

        own = ", ".join(dict.fromkeys(calls.rollbacks(script.operations or ())))
        return f"the record of {entry.revision} does not run {own}, which the rollback in its script does"
    return f"the record of {entry.revision} runs {', '.join(names)}, but the operations of its script do not"


def _strange(script: Revision, recorded: Iterable[Operation]) -> list[Call]:
    """Return the calls in a record that the operations of a script do not name for the rollback."""
    own = {(type(each).__name__, each.rollback) for each in functions(script.operations or ())}
    return [call for call in _calls(recorded) if call not in own]


def _leaves_out(script: Revision, entry: Applied, recorded: Sequence[Operation]) -> bool:
    """Return whether a record lacks a call of its unchanged script, or has extra ones.

    If the script has changed since, its earlier calls are unknown; the user gets a warning about that change.
    """
    if script.operations is None or not functions((*script.operations, *recorded)):
        return False
    from anemoi_ckpt_migrate.operations import calls  # few records need it

    return not calls.runs_all(script.operations, recorded) and discover.is_unchanged(script, entry)


def _calls(operations: Iterable[Operation]) -> list[Call]:
    return [(type(each).__name__, each.migrate) for each in functions(operations)]
