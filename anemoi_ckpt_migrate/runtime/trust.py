"""Whose code undoes a revision: that of its script here, or that of the checkpoint, which only the user can let run.

A record is written by whoever wrote the file. What undoes a revision comes from it as data only; functions are those
that the operations of the script here name for the way back, each in its turn, and a script of functions is undone by
its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from anemoi_ckpt_migrate.errors import BadOperation, DamagedRecord, NoWayBack, UntrustedCode
from anemoi_ckpt_migrate.operations import calls
from anemoi_ckpt_migrate.operations.base import Operation, from_data
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions
from anemoi_ckpt_migrate.record.record import Applied
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Step
from anemoi_ckpt_migrate.scripts import discover
from anemoi_ckpt_migrate.storage.path_arguments import StrPath
from anemoi_ckpt_migrate.storage.tensors.refs import ContentNeeded

Call = tuple[str, str]
"""The kind of an operation that runs a function, and the name of that."""

_ROLLBACK = (Run.__name__, "rollback")


class Way(Enum):
    """What undoes a revision."""

    SCRIPT = "what the script here says"
    RECORD = "operations of the record, with functions that the script here names"
    CHECKPOINT = "code that the checkpoint carries"


def way_back(graph: Graph, entry: Applied) -> Way:
    """Tell what undoes a revision of a checkpoint.

    Raises
    ------
    DamagedRecord
        Its operations cannot be read.
    """
    script, recorded = graph.get(entry.revision), recorded_operations(entry)
    if script is None:
        return Way.CHECKPOINT if recorded is None or functions(recorded) else Way.RECORD
    own = Way.SCRIPT if script.reversible else Way.CHECKPOINT
    if recorded is None or not script.undone_by_operations:
        return own
    if script.sets_up and script.migrates:
        # The rollback undoes what migrate did, which no operation tells: nothing stands in for it.
        whole = any(type(each) is Run for each in recorded)  # and not of a part of the checkpoint
        return Way.RECORD if script.reversible and whole and _calls(recorded) == [_ROLLBACK] else own
    return Way.CHECKPOINT if _strange(script, recorded) or _leaves_out(script, entry, recorded) else Way.RECORD


def recorded_operations(entry: Applied) -> tuple[Operation, ...] | None:
    """Return the operations that undo a revision, by the record; None if it holds none.

    Raises
    ------
    DamagedRecord
        They cannot be read.
    """
    if entry.undo is None or entry.undo.operations is None:
        return None
    try:
        return tuple(map(from_data, entry.undo.operations))
    except (BadOperation, TypeError, ValueError, LookupError, AttributeError, RecursionError, ContentNeeded) as error:
        raise DamagedRecord(f"what undoes {entry.revision}: {error}") from error


def check_own_code(
    graph: Graph, undone: Iterable[Applied], checkpoint: StrPath = "CKPT", trusted: bool = False
) -> None:
    """Check that undoing revisions runs no code that the checkpoint carries, unless that is trusted.

    Raises
    ------
    UntrustedCode
        It does.
    NoWayBack
        It would, if the checkpoint carried it.
    """
    foreign = [entry for entry in undone if way_back(graph, entry) is Way.CHECKPOINT]
    for entry in foreign:
        if not _carries(entry):
            raise NoWayBack(entry.revision, f"{_why(graph, entry)}, and the checkpoint carries no rollback; {_ANEW}")
        script, recorded = graph.get(entry.revision), recorded_operations(entry)
        if not trusted and script is not None and recorded is not None and not _strange(script, recorded):
            raise NoWayBack(entry.revision, f"{_why(graph, entry)}; {_ANEW}")
    if foreign and not trusted:
        unknown = ", ".join(entry.revision for entry in foreign if entry.revision not in graph)
        why = f"no script here knows {unknown}" if unknown else _why(graph, foreign[0])
        readable = all(entry.undo is not None and (entry.undo.source or not _runs(entry)) for entry in foreign)
        raise UntrustedCode([entry.revision for entry in foreign], os.fspath(checkpoint), why, readable)


_ANEW = "`ckpt-migrate stamp --purge TARGET CKPT` writes the record anew, as the scripts say"


def marked(graph: Graph, steps: Iterable[Step], entries: Mapping[str, Applied]) -> tuple[Step, ...]:
    """Return the steps of a plan, of which those on the way down say whether they run code of the checkpoint."""
    return tuple(
        step._replace(carried=way_back(graph, entries[step.revision]) is Way.CHECKPOINT)
        if step.direction == "downgrade"
        else step
        for step in steps
    )


def _runs(entry: Applied) -> bool:
    """Tell whether what the record says of the way back runs a function."""
    recorded = recorded_operations(entry)
    return recorded is None or bool(functions(recorded))


def _carries(entry: Applied) -> bool:
    """Tell whether a checkpoint carries all that it takes to undo a revision."""
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
        own = ", ".join(dict.fromkeys(calls.rollbacks(script.operations or ())))
        return f"the record of {entry.revision} does not run {own} as its script does on the way back"
    return f"the record of {entry.revision} runs {', '.join(names)}, which the operations of its script do not name"


def _strange(script: Revision, recorded: Iterable[Operation]) -> list[Call]:
    """Return the calls of a record that the operations of a script do not ask for on the way back."""
    own = {(type(each).__name__, each.rollback) for each in functions(script.operations or ())}
    return [call for call in _calls(recorded) if call not in own]


def _leaves_out(script: Revision, entry: Applied, recorded: Sequence[Operation]) -> bool:
    """Tell whether a record leaves out a call of a script that is still as it was applied, or has others.

    If the script has changed since, nothing tells what it asked for then, and the user is warned of that.
    """
    if script.operations is None or not functions((*script.operations, *recorded)):
        return False
    return not calls.runs_all(script.operations, recorded) and discover.is_unchanged(script, entry)


def _calls(operations: Iterable[Operation]) -> list[Call]:
    return [(type(each).__name__, each.migrate) for each in functions(operations)]
