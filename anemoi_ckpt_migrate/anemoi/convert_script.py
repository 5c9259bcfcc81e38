"""Convert a script of anemoi-models' own migration command into one of ours, without running it.

The script stays unchanged, comments included, with three exceptions: imports from the migration command are replaced,
the lines that place the script in the history are added, and a `rollback` that does nothing is removed if `migrate`
does something, because it undoes nothing.
"""

from __future__ import annotations

import ast
import datetime
import os
import re
from collections.abc import Iterator, Mapping

from anemoi_ckpt_migrate.anemoi.digests import digests
from anemoi_ckpt_migrate.errors import Fault, MigrationFailed
from anemoi_ckpt_migrate.other_tools import ForeignScript
from anemoi_ckpt_migrate.scripts.create import in_docstring, literal, one_or_several
from anemoi_ckpt_migrate.scripts.parse_header import FUNCTIONS
from anemoi_ckpt_migrate.scripts.signature import PLACE, assigned
from anemoi_ckpt_migrate.scripts.source import read_source
from anemoi_ckpt_migrate.tree.class_names import inside
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

UPSTREAM, OURS = "anemoi.models.migrations", "anemoi_ckpt_migrate"
_COUNTERPARTS = frozenset({"CkptType", "MigrationContext", "MigrationMetadata"})
_PLACEHOLDER = "%NEXT_ANEMOI_MODELS_VERSION%"
_NAME = lazy_regex(r"(\d+)_(.+)")
_CODING = lazy_regex(r"\A((?:[^\n]*\n)?)[ \t\f]*#.*?coding[:=].*\n")
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_Edit = tuple[int, int, str]


@dataclass(frozen=True)
class Script(ForeignScript):
    """A script of anemoi-models' own migration command.

    Attributes
    ----------
    text : str
        The whole text.
    module : ast.Module
        The parsed text.
    metadata : ast.stmt
        The statement that sets its metadata.
    """

    text: str
    module: ast.Module
    metadata: ast.stmt

    @property
    def unreleased(self) -> ast.Constant | None:
        """The placeholder for the version of the next release, if it still has one."""
        return next((word for word in _words(self.metadata) if word.value == _PLACEHOLDER), None)

    def released_as(self, known: Mapping[str, str]) -> str | None:
        """Return the version with which it was released, if only that differs from a script with these digests.

        Before its release, a script has a placeholder for the version.
        """
        lines = _Lines(self.text)
        for word in _words(self.metadata):
            before = lines.edited([(*lines.span(word), literal(_PLACEHOLDER))])
            if digests(ast.parse(before)) == known:
                return str(word.value)
        return None

    def converted(self, revision: str, parents: tuple[str, ...], next_version: str | None) -> tuple[str, list[str]]:
        """Return the script as one of ours."""
        lines = _Lines(self.text)
        edits, notes = _Imports(self.module, lines).rewritten()
        edits += _placed(self, lines, revision, parents)
        placeholder = self.unreleased
        if placeholder is not None and next_version is not None:
            edits.append((*lines.span(placeholder), literal(next_version)))
        elif placeholder is not None:
            notes.append(f"it notes {placeholder.value!s}, because it was not released: write the version when it is")
        rollback, left_out = _way_back(self.module, lines)
        edits += rollback
        notes += left_out
        text = lines.edited(edits)
        return _CODING.sub(r"\1", text), notes  # it is written as UTF-8, whatever its encoding was


def read_foreign(path: str) -> tuple[Script | None, list[Fault]]:
    """Read a script of anemoi-models' own migration command.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    tuple of Script or None and list of Fault
        The script, and all faults in it.
    """
    try:
        text = read_source(path)
        module = ast.parse(text, filename=path)
    except MigrationFailed as error:
        return None, [Fault(path, error.line or 1, error.what)]
    except SyntaxError as error:
        return None, [Fault(path, error.lineno or 1, f"syntax error: {error.msg}")]
    except (ValueError, RecursionError, MemoryError) as error:
        return None, [Fault(path, 1, f"cannot be parsed: {error}")]
    metadata = [statement for statement in module.body if "metadata" in assigned(statement)]
    if len(metadata) != 1 or not isinstance(getattr(metadata[0], "value", None), ast.Call):
        why = "it does not set `metadata = MigrationMetadata(...)` once, so it is not a migration of anemoi-models"
        return None, [Fault(path, 1, why)]
    name = os.path.splitext(os.path.basename(path))[0]
    script = Script(path, name, _title(name), _created(name, path), digests(module), text, module, metadata[0])
    return script, list(_taken(module, path))


def _title(name: str) -> str:
    """Return a name in words, without the leading time."""
    return re.sub(r"_+", " ", _NAME.sub(r"\2", name)).strip() or name


def _created(name: str, path: str) -> datetime.datetime:
    """Return the time of creation, from the name or the file."""
    found = _NAME.fullmatch(name)
    try:
        seconds = int(found[1]) if found else os.stat(path).st_mtime
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OSError, OverflowError, ValueError):
        return datetime.datetime.fromtimestamp(0, datetime.timezone.utc)


class _Lines:
    """A text with positions in bytes, as the parser counts them."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._starts = [0]
        for line in self._text.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the start and end of a node; a function includes its decorators."""
        first = min([node, *getattr(node, "decorator_list", [])], key=lambda each: each.lineno)
        begin = self._starts[first.lineno - 1] + first.col_offset - (first is not node)  # the @
        return begin, self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    @property
    def end(self) -> int:
        """The end of the text."""
        return len(self._text)

    def start(self, line: int) -> int:
        """Return the start of a line, or the end of the text for the line after the last."""
        return min(self._starts[line - 1], self.end)

    def indent(self, node: ast.stmt) -> str:
        """Return the indentation of a statement that has a line of its own."""
        before = self._text[self._starts[node.lineno - 1] :][: node.col_offset].decode()
        return before[: len(before) - len(before.lstrip())]

    def edited(self, edits: list[_Edit]) -> str:
        """Return the text with edits applied."""
        found = self._text
        for begin, end, new in sorted(edits, reverse=True):
            found = found[:begin] + new.encode() + found[end:]
        return found.decode()


class _Imports:
    """The imports of a script from anemoi."""

    def __init__(self, module: ast.Module, lines: _Lines) -> None:
        self._nodes = [node for node in ast.walk(module) if isinstance(node, (ast.Import, ast.ImportFrom))]
        self._lines = lines

    def rewritten(self) -> tuple[list[_Edit], list[str]]:
        """Return edits that import our counterparts, and notes about remaining imports from anemoi."""
        edits, left = list[_Edit](), list[str]()
        for node in self._nodes:
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif node.level == 0 and inside(node.module or "", UPSTREAM):
                ours = [alias for alias in node.names if alias.name in _COUNTERPARTS]
                others = [alias for alias in node.names if alias.name not in _COUNTERPARTS]
                left += [f"{node.module}.{alias.name}" for alias in others]
                edits += [(*self._lines.span(node), self._spelled(node, ours, others))] if ours else []
            else:
                left.append(node.module or "")
        foreign = dict.fromkeys(name for name in left if inside(name, "anemoi"))
        return edits, [f"it imports {', '.join(foreign)}, which must be installed when it runs"] if foreign else []

    def _spelled(self, node: ast.ImportFrom, ours: list[ast.alias], others: list[ast.alias]) -> str:
        pairs = [(OURS, ours), (node.module, others)]
        imports = [ast.unparse(ast.ImportFrom(module, names, 0)) for module, names in pairs if names]
        return f"\n{self._lines.indent(node)}".join(imports)


def _placed(script: Script, lines: _Lines, revision: str, parents: tuple[str, ...]) -> list[_Edit]:
    """Return edits that place the script in the history: a docstring, and the variables that a script sets."""
    body = script.module.body
    said = ast.get_docstring(script.module, clean=False)
    about = "" if said is None else said.strip("\n ").replace("\\", "\\\\").replace('"""', '\\"\\"\\"') + "\n\n"
    docstring = (
        f'"""{in_docstring(script.title)}\n\n{about}Revision ID: {revision}\n'
        f"Revises: {', '.join(parents) or 'nothing, this is a base'}\n"
        f'Create Date: {script.created.isoformat(" ", "seconds")}\n"""'
    )
    first = lines.start(min(_lines_of(body[0])))
    edits = [(first, first, f"{docstring}\n\n")] if said is None else [(*lines.span(body[0]), docstring)]
    imports = [each for each in body if isinstance(each, (ast.Import, ast.ImportFrom))]
    above = [each for each in imports if (each.end_lineno or 0) < script.metadata.lineno]
    at = lines.start((above[-1].end_lineno or 0) + 1 if above else script.metadata.lineno)
    names = "".join(f"        {literal(python)}: {literal(value)},\n" for python, value in script.digests.items())
    place = (
        f"\nrevision = {literal(revision)}\ndown_revision = {literal(one_or_several(parents))}\n"
        "branch_labels = None\ndepends_on = None\n\n"
        "# Its name in the list `migrations` of a checkpoint, and the digests there.\n"
        f"known_as = {{\n    {literal(script.name)}: {{\n{names}    }},\n}}\n"
    )
    return [*edits, (at, at, place)]


def _lines_of(statement: ast.stmt) -> list[int]:
    """Return the first lines of a statement and its decorators."""
    return [statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))]


def _way_back(module: ast.Module, lines: _Lines) -> tuple[list[_Edit], list[str]]:
    """Return edits that remove a rollback without effect, and mark a missing one."""
    functions = {each.name: each for each in module.body if isinstance(each, _FUNCTION)}
    migrate, rollback = functions.get("migrate"), functions.get("rollback")
    if rollback is None and migrate is not None and not _sets(module, "rollback"):
        return [(lines.end, lines.end, "\n\nrollback = None  # the original has none\n")], []
    if rollback is None or not _does_nothing(rollback) or (migrate is not None and _does_nothing(migrate)):
        return [], []
    if migrate is None:
        return [(*lines.span(rollback), "")], []
    comment = "# The original rollback did nothing, so it cannot undo `migrate`.\nrollback = None"
    note = "its rollback does nothing, but its migrate does something: the rollback was left out"
    return [(*lines.span(rollback), comment)], [note]


def _does_nothing(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function only returns its argument."""
    said = ast.get_docstring(function, clean=False) is not None
    body = function.body[1:] if said else function.body
    given = [*function.args.posonlyargs, *function.args.args]
    value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
    return bool(given) and isinstance(value, ast.Name) and value.id == given[0].arg


def _sets(module: ast.Module, name: str) -> bool:
    return any(name in assigned(statement) for statement in module.body)


def _taken(module: ast.Module, path: str) -> Iterator[Fault]:
    """Yield a fault for each name that has another meaning in our scripts."""
    for statement in module.body:
        names = assigned(statement)
        if isinstance(statement, (*_FUNCTION, ast.ClassDef)) and statement.name not in FUNCTIONS:
            names = [statement.name]
        for name in sorted({*PLACE, "operations"}.intersection(names)):
            what = f"it sets {name}, which has another meaning in a script here; rename it in the original first"
            yield Fault(path, statement.lineno, what)


def _words(statement: ast.stmt) -> Iterator[ast.Constant]:
    return (node for node in ast.walk(statement) if isinstance(node, ast.Constant) and isinstance(node.value, str))
