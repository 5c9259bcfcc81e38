"""One script in the place of several: each becomes a function of the new one, its text kept.

What a script sets at its top level becomes local to its function, so that the parts do not meet. Nearly everything
means the same there; what would not is refused, and the result is compared with what it was made of. Nothing is run.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from anemoi_ckpt_migrate.errors import Refused, UsageError
from anemoi_ckpt_migrate.plain import plain
from anemoi_ckpt_migrate.scripts.signature import PLACE, assigned

if TYPE_CHECKING:
    import symtable

Ids = str | tuple[str, ...] | None
"""Revisions as a script writes them."""

_WIDTH = 120
_DESCRIBES = PLACE | {"metadata"}
_OURS, _HOISTED = "anemoi_ckpt_migrate", frozenset({"CkptType", "MigrationMetadata"})

# What a module has and a function has not, or not its own.
_OF_MODULES = frozenset({"__file__", "__doc__", "__spec__", "__loader__", "__package__", "globals", "locals"})
_OF_FUNCTIONS = frozenset({"__globals__", "f_globals", "f_locals"})
# With fewer arguments, these take the names around them.
_ARGUMENTS = {"exec": 2, "eval": 2, "vars": 1, "dir": 1}
# Annotations that are text are looked up in a module: by these, and by dataclasses that look for those.
_READERS = frozenset({"__annotations__", "get_annotations", "get_type_hints", "singledispatch", "singledispatchmethod"})
_MARKERS = frozenset({"ClassVar", "InitVar", "KW_ONLY"})
# Built in, but not in every Python that this package runs on.
_LATER = frozenset({"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"})

_SCRIPT = '''"""{title}

{replaced}

Revision ID: {revision}
Revises: {revises}
Create Date: {created}
"""
{future}
from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = {revision_}
down_revision = {down_revision}
branch_labels = {branch_labels}
depends_on = {depends_on}

# What this revision stands for, in order. A checkpoint that has the first of them goes on from there.
replaces = {replaces}

metadata = MigrationMetadata(versions={versions})


{functions}


PARTS = {parts}


def migrate(ckpt: CkptType) -> CkptType:
    """Go up, one part after the other."""
    for up, _ in PARTS:
        ckpt = up(ckpt)
    return ckpt


{rollback}
'''

_ROLLBACK = '''# On their own: the way back that a checkpoint carries then needs nothing of the way up.
WAYS_BACK = tuple(down for _, down in reversed(PARTS))


def rollback(ckpt: CkptType) -> CkptType:
    """Go down, one part after the other."""
    for down in WAYS_BACK:
        ckpt = down(ckpt)
    return ckpt'''


def squashed(
    name: str,
    revision: str,
    down_revision: Ids,
    parts: Sequence[tuple[Mapping[str, Any], str]],
    versions: Mapping[str, str],
    created: str,
    *,
    branch_labels: Ids = None,
    depends_on: Ids = None,
) -> str:
    """Return the text of a script that does what several do.

    Its ``PARTS`` are pairs of functions, the way up and the way down or None, one for each script.

    Parameters
    ----------
    name : str
        What changes, in a line.
    revision : str
        The id of the new script.
    down_revision : str, tuple of str or None
        What it follows.
    parts : sequence of tuple of mapping and str
        What it replaces, in order: the facts about each that ``replaces`` is to hold (at least its ``revision``,
        ``name`` and whether it is ``reversible``), and the whole text of its script.
    versions : mapping of str to str
        For its metadata.
    created : str
        When.
    branch_labels, depends_on : str, tuple of str or None
        As a script writes them.

    Raises
    ------
    UsageError
        There are no parts.
    Refused
        One of the scripts would do something else as a function.
    """
    if not parts:
        raise UsageError("there is nothing to squash; name at least one revision")
    scripts = [_read(facts, source) for facts, source in parts]
    features = sorted({feature for script in scripts for feature in script.features})
    future = f"\nfrom __future__ import {', '.join(features)}\n" if features else ""
    functions = []
    for number, script in enumerate(scripts, 1):
        _check(script, "annotations" in features)
        functions.append(_function(number, script))
        _check_same(script, future + functions[-1])
    return _SCRIPT.format(
        title=_escaped(name.strip()),
        replaced=textwrap.fill(_escaped(_listed(scripts)), _WIDTH, break_long_words=False, break_on_hyphens=False),
        revision=revision,
        revises=down_revision if isinstance(down_revision, str) else ", ".join(down_revision or _NOTHING),
        created=created,
        future=future,
        revision_=_literal(revision),
        down_revision=_literal(down_revision),
        branch_labels=_literal(branch_labels),
        depends_on=_literal(depends_on),
        replaces=_column(_entry(facts) for facts, _ in parts),
        versions=_literal(versions),
        functions="\n\n\n".join(functions),
        parts=_row([f"_part_{number}()" for number in range(1, len(scripts) + 1)], _WIDTH - len("PARTS = ")),
        rollback=_way_back(scripts),
    )


_NOTHING = ("nothing, this is a base",)


@dataclass(frozen=True)
class _Script:
    """A script that is to become a function.

    Attributes
    ----------
    revision, name, reversible
        What is said of it.
    text, module, table
        All of it: its lines, its syntax, its names.
    kept : list of ast.stmt
        The statements that go into the function.
    rows : set of int
        The lines of those that do not.
    features : list of str
        What it imports from ``__future__``.
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
        """The names that it binds at its top level."""
        return {symbol.get_name() for symbol in self.table.get_symbols() if _is_bound(symbol)}

    @property
    def shadowed(self) -> list[str]:
        """Those of them that are built in, and mean that as long as they are not bound."""
        import builtins

        return sorted(name for name in self.bound.intersection(dir(builtins)) if not name.startswith("_"))


def _read(facts: Mapping[str, Any], source: str) -> _Script:
    import symtable

    revision = facts["revision"]
    text = source.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads it
    try:
        module = _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _cannot(revision, f"it is not Python ({error})", "put that right") from error
    kept, rows = _sorted_out(revision, module)
    features = [alias.name for statement in module.body if _is_future(statement) for alias in statement.names]
    table = symtable.symtable(text, "<script>", "exec")
    return _Script(revision, facts["name"], facts["reversible"], text, module, table, kept, rows, features)


def _parsed(text: str) -> ast.Module:
    """Parse a script, and compile it: not all that can be parsed is Python."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the author of the script has seen them
        compile(text, "<script>", "exec", dont_inherit=True)
        return ast.parse(text)


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported()


def _cannot(revision: str, why: str, way: str) -> Refused:
    return Refused(
        f"revision {revision} cannot be squashed: {why}; {way}, or squash only what comes before it or after it"
    )


# What goes into the function.


def _sorted_out(revision: str, module: ast.Module) -> tuple[list[ast.stmt], set[int]]:
    """Return the statements that are kept, and the lines that are not; what shares a line is kept."""
    from collections import Counter

    needless = {*_described(module), *_hoisted(module), *filter(_is_future, module.body)}
    if ast.get_docstring(module) is not None:
        needless.add(module.body[0])
    users = Counter(row for statement in module.body for row in _rows(statement))
    dropped = {statement for statement in needless if all(users[row] == 1 for row in _rows(statement))}
    kept = [statement for statement in module.body if statement not in dropped]
    for statement in filter(_is_future, kept):
        why = f"line {statement.lineno} imports from __future__ beside another statement"
        raise _cannot(revision, why, "give each a line")
    return kept, {row for statement in dropped for row in _rows(statement)}


def _described(module: ast.Module) -> Iterator[ast.stmt]:
    """Give the statements that say what the script is, but for what it looks at itself."""
    said = [statement for statement in module.body if _only_describes(statement)]
    used = {
        node.id
        for statement in module.body
        for node in ast.walk(statement.value if _only_describes(statement) else statement)
        if isinstance(node, ast.Name)
    }
    return (statement for statement in said if used.isdisjoint(assigned(statement)))


def _only_describes(statement: ast.stmt) -> TypeGuard[ast.Assign]:
    names = assigned(statement)
    return bool(names) and _DESCRIBES.issuperset(names) and len(names) == len(getattr(statement, "targets", names))


def _hoisted(module: ast.Module) -> Iterator[ast.stmt]:
    """Give the imports of what the new script imports for all, where the names have no other meaning."""
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == _OURS and statement.level == 0:
            others = {name for other in module.body if other is not statement for name in _binds(other)}
            if all(alias.asname is None and alias.name in _HOISTED - others for alias in statement.names):
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


# What means something else in a function.

_Obstacle = tuple[int, str, str]  # in which line, what, the way out


def _check(script: _Script, textual: bool) -> None:
    """Refuse a script that would do something else; `textual` says whether its annotations become text."""
    bound = script.bound
    if "replaces" in bound:
        raise Refused(f"revision {script.revision} is squashed already; squash what comes after it")
    if "migrate" not in bound:
        raise _cannot(script.revision, "it has no migrate", "write one")
    nodes = list(ast.walk(script.module))
    obstacles = [*_of_modules(nodes), *_of_annotations(nodes, textual), *_of_builtins(nodes, script.shadowed)]
    obstacles += _of_classes(script.table, bound)
    if textual and "annotations" not in script.features:
        obstacles += _of_inner_classes(nodes)
    if obstacles:
        line, what, way = min(obstacles)
        raise _cannot(script.revision, f"line {line} {what}", way)


def _of_modules(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Find what only a module has, or can do."""
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield node.lineno, f"imports * from {node.module}", "name what is imported"
        elif isinstance(node, ast.Global):
            yield node.lineno, f"has `global {', '.join(node.names)}`", "keep what changes in a dict"
        elif isinstance(node, ast.Attribute) and node.attr in _OF_FUNCTIONS:
            yield node.lineno, f"uses {node.attr}, where a part has nothing of its own", "name what is meant"
        elif isinstance(node, ast.Subscript) and _identifier(node.slice) == "__name__":
            yield node.lineno, "looks up its own module", "name what is meant"
        elif isinstance(node, ast.Name) and _asks_around(node, calls.get(node)):
            yield node.lineno, f"uses {node.id}, which is not the same in a function", "write out what is meant"


def _asks_around(name: ast.Name, call: ast.Call | None) -> bool:
    needed = _ARGUMENTS.get(name.id, 0)
    if call is None:
        return name.id in _OF_MODULES or needed > 1  # who passes eval on does not pass the names on
    return name.id in _OF_MODULES or len(call.args) + len(call.keywords) < needed


def _of_annotations(nodes: Iterable[ast.AST], textual: bool) -> Iterator[_Obstacle]:
    """Find what looks up annotations that are text: the names in them are no longer those of a module."""
    quoted = [(line, word) for node in nodes for line, word in _quoted(node)]
    words = {word for _, word in quoted}
    suspects = (_READERS if textual or words else frozenset()) | (_MARKERS if textual else _MARKERS & words)
    if suspects:
        named = [(getattr(node, "lineno", 1), _identifier(node)) for node in nodes]
        for line, word in named + quoted:
            if word in suspects:
                what = f"uses {word}, and annotations are text (in quotes, or by a __future__ import of any part)"
                yield line, what, "let them be none"


def _quoted(node: ast.AST) -> Iterator[tuple[int, str]]:
    for field in ("annotation", "returns"):
        for part in ast.walk(getattr(node, field, None) or ast.Pass()):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield from ((part.lineno, word) for word in re.findall(r"\w+", part.value))


def _of_inner_classes(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Find dataclasses that are made when a function runs: they then look for their module if annotations are text."""
    for function in nodes:
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                what = "decorates a class in a function, and another part makes annotations text"
                yield node.lineno, what, "move the class to the top level"


def _of_builtins(nodes: Iterable[ast.AST], shadowed: Iterable[str]) -> Iterator[_Obstacle]:
    """Find names that are to mean what is built in after they meant something else, or in some Pythons only."""
    for node in nodes:
        name = _identifier(node)
        gone = isinstance(node, ast.ExceptHandler) or isinstance(getattr(node, "ctx", None), ast.Del)
        if name in shadowed and (gone or name in _LATER):
            yield getattr(node, "lineno", 1), f"gives another meaning to {name}", "give it another name"


def _of_classes(table: symtable.SymbolTable, bound: set[str]) -> Iterator[_Obstacle]:
    """Find classes that take a name from the top level, and bind it anew: they would no longer find it."""
    for inner in table.get_children():
        for symbol in inner.get_symbols() if inner.get_type() == "class" else ():
            name = symbol.get_name()
            if name in bound and symbol.is_referenced() and _is_bound(symbol):
                what = f"begins the class {inner.get_name()}, which has {name} and uses that of the script"
                yield inner.get_lineno(), what, "give one another name"
        yield from _of_classes(inner, bound)


def _identifier(node: ast.AST) -> str:
    found = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
    return found if isinstance(found, str) else ""


# The text.


def _function(number: int, script: _Script) -> str:
    """Return a script as a function that returns its migrate and rollback."""
    back = "rollback" if script.reversible else "None"
    lines = [f"def _part_{number}():", *_docstring(script), ""]
    if script.shadowed:
        lines.append(f"    from builtins import {', '.join(script.shadowed)}  # what they mean at first")
    return "\n".join([*lines, *_body(script), "", f"    return migrate, {back}"])


def _docstring(script: _Script) -> list[str]:
    first, _, more = (ast.get_docstring(script.module) or "").partition("\n")
    if first.strip() != script.name:
        more = f"{first}\n{more}"
    title = script.name if script.name.endswith((".", "!", "?")) else f"{script.name}."
    lines = _escaped(f"Revision {script.revision}: {title}\n\n{more.strip()}".strip()).split("\n")
    if len(lines) == 1:
        return [f'    """{lines[0]}"""']
    return [f'    """{lines[0]}', *(f"    {line}".rstrip() for line in lines[1:]), '    """']


def _body(script: _Script) -> list[str]:
    """Return the lines that are kept, indented but for those that begin within a string."""
    within = _within_strings(script.text)
    lines: list[str] = []
    for row, line in enumerate(script.text.split("\n"), 1):
        shown = line if row in within else _indented(line)
        if row not in script.rows and (shown or row in within or (lines and lines[-1])):
            lines.append(shown)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _indented(line: str) -> str:
    code = line.lstrip(" \t\f")
    # A form feed begins the line anew; a tab goes to the next multiple of eight, which is elsewhere now.
    before = line[: len(line) - len(code)].rpartition("\f")[2].expandtabs(8)
    return f"    {before}{code}" if code else ""


def _within_strings(text: str) -> set[int]:
    """Return the lines that begin within a string."""
    import io
    import tokenize

    rows: set[int] = set()
    begun: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind.endswith("STRING_START"):  # from Python 3.12 on, an f-string is several tokens
            begun.append(token.start[0])
        elif kind == "STRING" or kind.endswith("STRING_END"):
            first = token.start[0] if kind == "STRING" else begun.pop()
            rows.update(range(first + 1, token.end[0] + 1))
    return rows


def _check_same(script: _Script, text: str) -> None:
    """Check that a function holds what the script holds, to the letter of each string."""
    # Before it comes the docstring, and what is built in; after it, what is returned.
    before = 2 if script.shadowed else 1
    try:
        function = _parsed(text).body[-1]
        same = _spelled(getattr(function, "body", [])[before:-1]) == _spelled(script.kept)
    except (SyntaxError, RecursionError):
        same = False
    if not same:
        raise _cannot(script.revision, "its text cannot be moved into a function as it is", "format it")


def _spelled(statements: list[ast.stmt]) -> str:
    return ast.dump(ast.Module(statements, type_ignores=[]))


def _way_back(scripts: Iterable[_Script]) -> str:
    lasting = [script.revision for script in scripts if not script.reversible]
    return f"rollback = None  # {' and '.join(lasting)} cannot be undone" if lasting else _ROLLBACK


def _listed(scripts: Iterable[_Script]) -> str:
    return f"Replaces: {', '.join(f'{script.revision} ({script.name})' for script in scripts)}"


def _escaped(text: str) -> str:
    """Spell text as it may stand in a docstring."""
    return plain(text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'), keep="\n")


def _entry(facts: Mapping[str, Any]) -> str:
    return "\n".join(["{", *(f"        {_literal(key)}: {_literal(facts[key])}," for key in facts), "    }"])


def _column(items: Iterable[str]) -> str:
    return "\n".join(["(", *(f"    {item}," for item in items), ")"])


def _row(items: Sequence[str], width: int) -> str:
    row = f"({', '.join(items)}{',' * (len(items) == 1)})"
    return row if len(row) <= width else _column(items)


def _literal(value: object) -> str:
    """Spell a value as code formatters do, with double quotes."""
    if isinstance(value, str):
        return repr(value) if '"' in value else '"' + repr("'" + value)[2:]  # repr prefers what is not in it
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    return repr(value)
