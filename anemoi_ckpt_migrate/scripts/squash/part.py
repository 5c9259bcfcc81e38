"""A script that becomes a function: the statements to keep, and the descriptive ones to drop."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.scripts.signature import PLACE, assigned
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    import symtable

_DESCRIBES = PLACE | {"metadata", "operations", "migrate_setup"}
_OURS = "anemoi_ckpt_migrate"


@dataclass(frozen=True)
class Part:
    """A script that becomes a function.

    Attributes
    ----------
    revision, name, reversible
        Facts about it.
    text, module, table
        Its whole text, its syntax tree, and its symbol table.
    kept : list of ast.stmt
        The statements that go into the function.
    rows : set of int
        The lines of the statements that are dropped.
    features : list of str
        The features that it imports from ``__future__``.
    """

    revision: str
    name: str
    reversible: bool
    text: str
    module: ast.Module
    table: symtable.SymbolTable
    kept: list[ast.stmt]
    rows: set[int]
    features: list[str]

    @property
    def bound(self) -> set[str]:
        """The names that the script binds at its top level."""
        return {symbol.get_name() for symbol in self.table.get_symbols() if is_bound(symbol)}

    @property
    def shadowed(self) -> list[str]:
        """The bound names that are builtins, and keep that meaning until they are bound."""
        import builtins

        return sorted(name for name in self.bound.intersection(dir(builtins)) if not name.startswith("_"))


def read(facts: Mapping[str, Any], source: str, hoisted: Collection[str]) -> Part:
    """Read a script.

    Parameters
    ----------
    facts : mapping
        The facts about it for ``replaces``.
    source : str
        Its text.
    hoisted : collection of str
        The names of this package that the new script imports for all parts.

    Raises
    ------
    Refused
        The script is not Python, or cannot be split by lines.
    """
    import symtable

    revision = facts["revision"]
    text = source.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads it
    try:
        module = parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise cannot(revision, f"it is not Python ({error})", "fix that") from error
    kept, rows = _sorted_out(revision, module, hoisted)
    features = [alias.name for statement in module.body if _is_future(statement) for alias in statement.names]
    table = symtable.symtable(text, "<script>", "exec")
    return Part(revision, facts["name"], facts["reversible"], text, module, table, kept, rows, features)


def parsed(text: str) -> ast.Module:
    """Parse a script and compile it, because the parser accepts some invalid Python."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the author of the script has seen them
        compile(text, "<script>", "exec", dont_inherit=True)
        return ast.parse(text)


def is_bound(symbol: symtable.Symbol) -> bool:
    """Return whether a scope binds a name."""
    return symbol.is_assigned() or symbol.is_imported()


def cannot(revision: str, why: str, way: str) -> Refused:
    """Return the error for a script that cannot be squashed, with the reason and a remedy."""
    return Refused(
        f"revision {revision} cannot be squashed: {why}; {way}, or squash only the revisions before it or after it"
    )


def _sorted_out(revision: str, module: ast.Module, hoisted: Collection[str]) -> tuple[list[ast.stmt], set[int]]:
    """Return the statements to keep, and the lines to drop. Statements that share a line are kept."""
    from collections import Counter

    needless = {*_described(module), *_hoisted(module, hoisted), *filter(_is_future, module.body)}
    if ast.get_docstring(module) is not None:
        needless.add(module.body[0])
    users = Counter(row for statement in module.body for row in _rows(statement))
    dropped = {statement for statement in needless if all(users[row] == 1 for row in _rows(statement))}
    kept = [statement for statement in module.body if statement not in dropped]
    for statement in filter(_is_future, kept):
        why = f"line {statement.lineno} imports from __future__ beside another statement"
        raise cannot(revision, why, "put each on its own line")
    return kept, {row for statement in dropped for row in _rows(statement)}


def _described(module: ast.Module) -> Iterator[ast.stmt]:
    """Return the descriptive statements, except for those whose names the script uses."""
    said = [statement for statement in module.body if _only_describes(statement)]
    used = {
        node.id
        for statement in module.body
        for node in ast.walk(getattr(statement, "value", statement) if statement in said else statement)
        if isinstance(node, ast.Name)
    }
    return (statement for statement in said if used.isdisjoint(_names(statement)))


def _names(statement: ast.stmt) -> list[str]:
    return [statement.name] if isinstance(statement, ast.FunctionDef) else assigned(statement)


def _only_describes(statement: ast.stmt) -> bool:
    names = _names(statement)
    return bool(names) and _DESCRIBES.issuperset(names) and len(names) == len(getattr(statement, "targets", names))


def _hoisted(module: ast.Module, hoisted: Collection[str]) -> Iterator[ast.stmt]:
    """Yield imports that the new script makes for all parts, if nothing else binds their names."""
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == _OURS and statement.level == 0:
            others = {name for other in module.body if other is not statement for name in _binds(other)}
            if all(alias.asname is None and alias.name in set(hoisted) - others for alias in statement.names):
                yield statement


def _binds(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield "" if isinstance(node.ctx, ast.Load) else node.id
        else:
            yield getattr(node, "asname", None) or getattr(node, "name", None) or ""


def _is_future(statement: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _rows(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
