"""The changes to a module: each is small, and leaves a module that can be imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
SKIPPED = {
    "annotation",
    "returns",
    "decorator_list",
    "type_params",
    "bases",
    "values of JoinedStr",  # the text of a message
    "format_spec",
}


@dataclass(frozen=True)
class Change:
    """A change at one place.

    Attributes
    ----------
    line : int
        Where.
    function : str
        The function or the method, as ``Class.method``; the class outside of one, or ``module``.
    before, after : str
        The smallest piece of code that tells what changes.
    """

    line: int
    function: str
    before: str
    after: str
    tree: ast.Module
    holder: ast.AST
    field: str
    index: int | None
    new: ast.AST

    @property
    def key(self) -> tuple[str, str, str]:
        """The function, and the code before and after: what stays the same if lines move."""
        return self.function, self.before, self.after

    def source(self) -> str:
        """Return the changed module."""
        old = self.put(self.new)
        try:
            return ast.unparse(self.tree)
        finally:
            self.put(old)

    def put(self, new: ast.AST) -> ast.AST:
        """Put something in its place, and return what was there."""
        found = getattr(self.holder, self.field)
        if self.index is None:
            setattr(self.holder, self.field, new)
            return found
        old = found[self.index]
        found[self.index] = new
        return old


def changes(source: str) -> list[Change]:
    """Return all changes to a module, from its first line to its last."""
    tree = ast.parse(source)
    return sorted(_within(tree, tree, (), "module"), key=lambda change: change.line)


def _within(tree: ast.Module, holder: ast.AST, around: tuple[ast.AST, ...], function: str) -> Iterator[Change]:
    if isinstance(holder, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{holder.name}".removeprefix("module.")
    for field, value in ast.iter_fields(holder):
        if field in SKIPPED or f"{field} of {type(holder).__name__}" in SKIPPED:
            continue
        for index, old in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(old, ast.AST) or _is_left_out(old):
                continue
            for new in _instead(old, holder, field):
                change = Change(0, function, "", "", tree, holder, field, index, new)
                seen = _seen(old, (holder, *around))
                line = getattr(old, "lineno", 0) or getattr(holder, "lineno", 0)
                before = ast.unparse(seen or old)
                change.put(new)
                after = ast.unparse(seen or new)
                change.put(old)
                yield Change(line, function, before, after, tree, holder, field, index, new)
            yield from _within(tree, old, (holder, *around), function)


def _is_left_out(node: ast.AST) -> bool:
    """Return whether a change would be of no consequence by intention."""
    if isinstance(node, ast.keyword):
        return node.arg == "strict"  # it is there so that a mistake elsewhere is seen
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Name) and node.exc.id == "NotImplementedError"
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _instead(old: ast.AST, holder: ast.AST, field: str) -> Iterator[ast.AST]:
    """Yield what could stand in place of a node."""
    if type(old) in OTHERS:
        yield OTHERS[type(old)]()
    elif isinstance(old, ast.Constant) and isinstance(old.value, bool):
        yield ast.Constant(not old.value)
    elif isinstance(old, ast.Constant) and isinstance(old.value, int):
        yield ast.Constant(old.value + 1)
        yield ast.Constant(old.value - 1)
    elif isinstance(old, ast.UnaryOp) and isinstance(old.op, ast.Not):
        yield old.operand
    elif field == "test" or (field == "ifs" and isinstance(holder, ast.comprehension)):
        if not isinstance(old, (ast.Compare, ast.Constant)):  # a comparison is turned round anyway
            yield ast.UnaryOp(ast.Not(), old)
    elif isinstance(old, (ast.Raise, ast.Break, ast.Continue, ast.AugAssign)) or _is_effect(old):
        yield ast.Pass()


def _is_effect(node: ast.AST) -> bool:
    """Return whether a statement only has an effect, without which those that follow can still run."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _seen(old: ast.AST, around: tuple[ast.AST, ...]) -> ast.AST | None:
    """Return the code around a node that makes a change readable; None if the node itself does."""
    if isinstance(old, ast.stmt):
        return None
    for node in around:
        if isinstance(node, (ast.keyword, ast.Slice, ast.UnaryOp, ast.Tuple, ast.Starred)):
            continue
        if isinstance(node, (ast.expr, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign)):
            return node
        break
    return None
