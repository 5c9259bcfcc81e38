"""Join the operations of several scripts in one list, with the wording of each script kept.

Functions that operations run get a prefix with the number of their script, so that their names do not collide.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.at import At
from anemoi_ckpt_migrate.operations.setup import operations_of
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions, takes_functions
from anemoi_ckpt_migrate.scripts.parse_operations import read_operations, read_setup
from anemoi_ckpt_migrate.scripts.signature import assigned
from anemoi_ckpt_migrate.scripts.squash.part import Part, cannot
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.base import Operation

_Edit = tuple[int, int, str]  # start, end, replacement


@dataclass(frozen=True)
class Listed:
    """The operations of a script, ready for the list of the squashed one.

    Attributes
    ----------
    lines : list of str
        The source lines of the operations, in order.
    count : int
        The number of operations.
    functions : tuple of str
        The functions that the operations run on an upgrade or a downgrade, by their names in the script.
    """

    lines: list[str]
    count: int
    functions: tuple[str, ...]


def declares(script: Part) -> bool:
    """Return whether a script has operations, or a setup, which can be written as operations."""
    return _declared(script) is not None or "migrate_setup" in script.bound


def prefix(number: int) -> str:
    """Return the prefix for the function names of a script. Scripts are numbered from 1."""
    return f"_part_{number}_"


def own(operations: Iterable[Operation], number: int) -> tuple[Operation, ...]:
    """Return listed operations with the function names of the original script."""
    return tuple(_changed(each, lambda name: name.removeprefix(prefix(number))) for each in operations)


def listed(script: Part, number: int) -> Listed:
    """Return the operations of a script.

    Parameters
    ----------
    script : Part
        The script.
    number : int
        Its number, from 1.

    Raises
    ------
    Refused
        The script would have to be run to know its operations, or these are faulty or cannot be moved.
    """
    value = _declared(script)
    if value is None:
        found = _of_functions(script)
        lines = [f"op.{_changed(each, lambda name: prefix(number) + name)!r}," for each in found]
    else:
        found, faults = read_operations(value)
        if faults:
            raise cannot(script.revision, f"line {faults[0][0]}: {faults[0][1]}", "fix that")
        lines = _moved(script, value, number)
    _check(script, lines, found, number)
    named = [name for each in functions(found) for name in (each.migrate, each.rollback) if name is not None]
    for name in named:
        if name not in script.bound:
            raise cannot(script.revision, f"its operations run {name}, which it does not define", "write it")
    return Listed(lines, len(found), tuple(dict.fromkeys(named)))


def _of_functions(script: Part) -> list[Operation]:
    """Return the operations equivalent to a script of functions."""
    bound = script.bound
    if "migrate" not in bound and "migrate_setup" not in bound:
        raise cannot(script.revision, "it has no migrate", "write one")
    try:
        context = read_setup(script.module)
        found = operations_of(context, "migrate" in bound, script.reversible and "rollback" in bound)
    except BadOperation as error:
        way = "write one call with literal names on each line of migrate_setup"
        raise cannot(script.revision, error.sentence, way) from error
    return list(found)


def _declared(script: Part) -> ast.expr | None:
    values = [each.value for each in script.module.body if "operations" in assigned(each) and hasattr(each, "value")]
    return values[-1] if values else None


def _changed(operation: Operation, name: Callable[[str], str]) -> Operation:
    """Return an operation with its functions renamed."""
    if isinstance(operation, Run):
        back = operation.rollback and name(operation.rollback)
        return replace(operation, migrate=name(operation.migrate), rollback=back)
    if isinstance(operation, At):
        return replace(operation, operations=tuple(_changed(each, name) for each in operation.operations))
    return operation


def _moved(script: Part, value: ast.expr, number: int) -> list[str]:
    """Return the lines between the brackets of a list, including comments, with functions renamed."""
    data = script.text.encode()
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)

    def span(node: ast.expr) -> tuple[int, int]:
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        return starts[node.lineno - 1] + node.col_offset, end

    (first, last), elements = span(value), getattr(value, "elts", [])
    edits: list[_Edit] = [(*span(node), text) for node, text in _renamed(value, number)]
    bracket = int(data[first : first + 1] in (b"[", b"("))
    if elements and b"," not in re.sub(rb"#.*", b"", data[span(elements[-1])[1] : last - bracket]):
        edits.append((span(elements[-1])[1], span(elements[-1])[1], ","))
    for start, end, text in sorted(edits, reverse=True):
        data = data[:start] + text.encode() + data[end:]
        last += len(text.encode()) - (end - start)
    beside, *below = data[first + bracket : last - bracket].decode().split("\n")
    return [line.rstrip() for line in (beside.strip(), *textwrap.dedent("\n".join(below)).split("\n")) if line.strip()]


def _renamed(value: ast.expr, number: int) -> Iterator[tuple[ast.expr, str]]:
    """Yield expressions to replace, with their new text: operations get ``op.``, and functions their new names."""
    for call in (node for node in ast.walk(value) if isinstance(node, ast.Call)):
        kind = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
        yield call.func, f"op.{kind}"
        if takes_functions(kind):
            named = [each.value for each in call.keywords if each.arg in ("migrate", "rollback")]
            for each in (*call.args[:2], *named):
                name = each.id if isinstance(each, ast.Name) else getattr(each, "value", None)
                if isinstance(name, str):
                    yield each, f'"{prefix(number)}{name}"'


def _check(script: Part, lines: list[str], wanted: list[Operation], number: int) -> None:
    """Check that lines give the operations of a script."""
    try:
        value = ast.parse("\n".join(["[", *lines, *lines, "]"]), mode="eval").body  # other lines may follow them
        found, faults = read_operations(value)
        same = not faults and list(map(repr, own(found, number))) == list(map(repr, [*wanted, *wanted]))
    except SyntaxError:
        same = False
    if not same:
        raise cannot(script.revision, "its operations cannot be copied as they are", "format the script")
