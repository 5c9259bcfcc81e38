"""The operations that a script declares, read without running it."""

from __future__ import annotations

import ast
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.op import Operation
from anemoi_ckpt_migrate.operations.base import make

_WRITTEN_OUT = "operations must be written out, as op.Rename(...) and so on: scripts are read without being run"


def read_operations(value: ast.expr) -> tuple[list[Operation], list[tuple[int, str]]]:
    """Read a list of operations.

    Parameters
    ----------
    value : ast.expr
        What the script sets ``operations`` to.

    Returns
    -------
    tuple of list and list
        The operations, and all that is wrong: lines and messages.
    """
    if not isinstance(value, (ast.List, ast.Tuple)):
        return [], [(value.lineno, _WRITTEN_OUT)]
    found, faults = [], []
    for call in value.elts:
        try:
            found.append(_operation(call))
        except BadOperation as error:
            faults.append((call.lineno, error.sentence))
    return found, faults


def _operation(call: ast.expr) -> Operation:
    name = None
    if isinstance(call, ast.Call):
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            name = function.attr
        elif isinstance(function, ast.Name):
            name = function.id
    if name is None or not isinstance(call, ast.Call):
        raise BadOperation(_WRITTEN_OUT)
    args = [_argument(each, name) for each in call.args]
    named = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise BadOperation(_WRITTEN_OUT)
        named[keyword.arg] = _argument(keyword.value, name)
    return make(name, args, named, only_written=True)


def _argument(value: ast.expr, kind: str) -> Any:
    if kind in ("Rewrite", "Run") and isinstance(value, ast.Name):
        return value.id
    if kind == "At" and isinstance(value, (ast.List, ast.Tuple)) and any(isinstance(e, ast.Call) for e in value.elts):
        return [_operation(each) for each in value.elts]
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise BadOperation(f"{kind}: {_WRITTEN_OUT}") from None
