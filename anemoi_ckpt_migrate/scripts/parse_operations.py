"""Read the operations of a script without running it."""

from __future__ import annotations

import ast
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, make
from anemoi_ckpt_migrate.operations.setup_context import MigrationContext
from anemoi_ckpt_migrate.operations.tree_operation import takes_functions

_WRITTEN_OUT = "operations must be literal calls such as op.Rename(...): scripts are read without being run"
_MORE = "its migrate_setup cannot be read without running it"
_SAID = ("delete_attribute", "delete_module", "move_attribute", "move_module")


def read_operations(value: ast.expr) -> tuple[list[Operation], list[tuple[int, str]]]:
    """Read a list of operations.

    Parameters
    ----------
    value : ast.expr
        The value of ``operations`` in the script.

    Returns
    -------
    tuple of list and list
        The operations, and all faults as lines and messages.
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


def read_setup(module: ast.Module) -> MigrationContext:
    """Read the ``migrate_setup`` of a script without running it, and return the context that it would fill.

    Parameters
    ----------
    module : ast.Module
        The script. Without a setup, the context stays empty.

    Raises
    ------
    BadOperation
        The setup has to be run to know its effect, or has a faulty call.
    """
    context = MigrationContext()
    for statement in module.body:
        setup = statement if isinstance(statement, ast.FunctionDef) and statement.name == "migrate_setup" else None
        if setup is not None and not setup.decorator_list:
            for line in setup.body:
                _say(context, line, setup.args.args)
        elif "migrate_setup" in _names_in(statement):
            raise BadOperation(_MORE)
    return context


def _names_in(statement: ast.stmt) -> set[str]:
    return {getattr(node, field, "") or "" for node in ast.walk(statement) for field in ("asname", "id", "name")}


def _say(context: MigrationContext, line: ast.stmt, names: list[ast.arg]) -> None:
    """Apply the call in a line of ``migrate_setup`` to a context."""
    value = getattr(line, "value", None)
    if isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(value, ast.Constant)):
        return
    if not isinstance(line, ast.Expr) or not isinstance(value, ast.Call):
        raise BadOperation(_MORE)
    function, given = value.func, getattr(value.func, "value", None)
    known = isinstance(given, ast.Name) and [given.id] == [name.arg for name in names]
    if not isinstance(function, ast.Attribute) or not known or function.attr not in _SAID:
        raise BadOperation(_MORE)
    try:
        words = [ast.literal_eval(each) for each in value.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in value.keywords}
        getattr(context, function.attr)(*words, **named)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise BadOperation(_MORE) from None


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
    if takes_functions(kind) and isinstance(value, ast.Name):
        return value.id
    if kind == "At" and isinstance(value, (ast.List, ast.Tuple)) and any(isinstance(e, ast.Call) for e in value.elts):
        return [_operation(each) for each in value.elts]
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise BadOperation(f"{kind}: {_WRITTEN_OUT}") from None
