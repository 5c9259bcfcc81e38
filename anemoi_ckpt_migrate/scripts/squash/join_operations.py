"""Operations of several scripts in one list: what each script does, as operations, in the words of the script.

Functions that operations run get the number of their script before their name, so that no two meet.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.at import At
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.setup import operations_of
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions, takes_functions
from anemoi_ckpt_migrate.scripts.parse_operations import read_operations, read_setup
from anemoi_ckpt_migrate.scripts.signature import assigned
from anemoi_ckpt_migrate.scripts.squash.part import Part, cannot

_Edit = tuple[int, int, str]  # from where to where, and what is to stand there


@dataclass(frozen=True)
class Listed:
    """What a script does, as operations.

    Attributes
    ----------
    lines : list of str
        The operations as they are to be written, one after the other.
    count : int
        How many they are.
    functions : tuple of str
        Which functions of the script they run, one way or the other, as the script calls them.
    """

    lines: list[str]
    count: int
    functions: tuple[str, ...]


def declares(script: Part) -> bool:
    """Tell whether a script has operations, or a setup, which amounts to some."""
    return _declared(script) is not None or "migrate_setup" in script.bound


def prefix(number: int) -> str:
    """Return what stands before the names of the functions of a script, which are numbered from 1."""
    return f"_part_{number}_"


def own(operations: Iterable[Operation], number: int) -> tuple[Operation, ...]:
    """Return operations that were listed as the script of a number had them."""
    return tuple(_changed(each, lambda name: name.removeprefix(prefix(number))) for each in operations)


def listed(script: Part, number: int) -> Listed:
    """Return what a script does.

    Parameters
    ----------
    script : Part
        The script.
    number : int
        Which it is, from 1.

    Raises
    ------
    Refused
        It cannot be told without running it, or not be written in another place.
    """
    value = _declared(script)
    if value is None:
        found = _of_functions(script)
        lines = [f"op.{_changed(each, lambda name: prefix(number) + name)!r}," for each in found]
    else:
        found, faults = read_operations(value)
        if faults:
            raise cannot(script.revision, f"line {faults[0][0]}: {faults[0][1]}", "put that right")
        lines = _moved(script, value, number)
    _check(script, lines, found, number)
    named = [name for each in functions(found) for name in (each.migrate, each.rollback) if name is not None]
    for name in named:
        if name not in script.bound:
            raise cannot(script.revision, f"its operations run {name}, which it does not have", "write that")
    return Listed(lines, len(found), tuple(dict.fromkeys(named)))


def _of_functions(script: Part) -> list[Operation]:
    """Return what a script of functions amounts to."""
    bound = script.bound
    if "migrate" not in bound and "migrate_setup" not in bound:
        raise cannot(script.revision, "it has no migrate", "write one")
    try:
        context = read_setup(script.module)
        found = operations_of(context, "migrate" in bound, script.reversible and "rollback" in bound)
    except BadOperation as error:
        way = "let migrate_setup say it, line by line, with names written out"
        raise cannot(script.revision, error.sentence, way) from error
    return list(found)


def _declared(script: Part) -> ast.expr | None:
    values = [each.value for each in script.module.body if "operations" in assigned(each) and hasattr(each, "value")]
    return values[-1] if values else None


def _changed(operation: Operation, name: Callable[[str], str]) -> Operation:
    """Return an operation that runs functions of other names."""
    if isinstance(operation, Run):
        back = operation.rollback and name(operation.rollback)
        return replace(operation, migrate=name(operation.migrate), rollback=back)
    if isinstance(operation, At):
        return replace(operation, operations=tuple(_changed(each, name) for each in operation.operations))
    return operation


def _moved(script: Part, value: ast.expr, number: int) -> list[str]:
    """Return the lines between the brackets of a list, comments and all, with functions by their new names."""
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
    """Give what is to be called otherwise: operations by ``op``, and functions by their new names."""
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
    """Check that lines say what a script does."""
    try:
        value = ast.parse("\n".join(["[", *lines, *lines, "]"]), mode="eval").body  # something may follow them
        found, faults = read_operations(value)
        same = not faults and list(map(repr, own(found, number))) == list(map(repr, [*wanted, *wanted]))
    except SyntaxError:
        same = False
    if not same:
        raise cannot(script.revision, "its operations cannot be moved as they are", "format it")
