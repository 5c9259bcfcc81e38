"""Write one script that replaces several. Each becomes a function of the new script, with its text kept.

Top-level names of a script become local to its function, so that the parts do not collide. Nearly all code means the
same there. Code that would not is refused, and the result is compared with the original scripts. Nothing is run.

If one of the scripts has operations, all of them become one list of operations, which run the functions.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.scripts.create import literal
from anemoi_ckpt_migrate.scripts.squash import join_operations
from anemoi_ckpt_migrate.scripts.squash.part import Part, cannot, parsed, read
from anemoi_ckpt_migrate.scripts.squash.safety import check
from anemoi_ckpt_migrate.util.text import plain

Ids = str | tuple[str, ...] | None
"""Revisions as a script writes them."""

_WIDTH = 120
_SCRIPT = '''"""{title}

{replaced}

Revision ID: {revision}
Revises: {revises}
Create Date: {created}
"""
{future}
from anemoi_ckpt_migrate import {imported}

revision = {revision_}
down_revision = {down_revision}
branch_labels = {branch_labels}
depends_on = {depends_on}

# The revisions that this one replaces, in order. A checkpoint that has the first of them continues from there.
replaces = {replaces}

metadata = MigrationMetadata(versions={versions})
{does}
'''

_FUNCTIONS = '''

{functions}


PARTS = {parts}


def migrate(ckpt: CkptType) -> CkptType:
    """Upgrade, one part after the other."""
    for up, _ in PARTS:
        ckpt = up(ckpt)
    return ckpt


{rollback}'''

_OPERATIONS = """
operations = [
{operations}
]
{lasting}{functions}"""

_PARTS = """

{functions}


# The functions that the operations of each revision run: their new names, and their old ones.
PARTS = {parts}
{names}"""

_ROLLBACK = '''# Separate from PARTS, so that the rollback that a checkpoint carries does not need the upgrades.
WAYS_BACK = tuple(down for _, down in reversed(PARTS))


def rollback(ckpt: CkptType) -> CkptType:
    """Downgrade, one part after the other."""
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
    """Return the text of a script that does the work of several.

    Its ``PARTS`` hold for each script a pair: the upgrade function, and the downgrade function or None. If the new
    script has operations, they hold the functions of each script by name.

    Parameters
    ----------
    name : str
        A one-line description of the change.
    revision : str
        The id of the new script.
    down_revision : str, tuple of str or None
        The parents of the new script.
    parts : sequence of tuple of mapping and str
        The replaced revisions, in order: the facts about each for ``replaces`` (at least ``revision``, ``name`` and
        ``reversible``), and the whole text of its script.
    versions : mapping of str to str
        The versions for its metadata.
    created : str
        The time of creation.
    branch_labels, depends_on : str, tuple of str or None
        As a script writes them.

    Raises
    ------
    UsageError
        There are no parts.
    Refused
        A script would behave differently as a function.
    """
    if not parts:
        raise UsageError("nothing to squash; name at least one revision")
    scripts = [read(facts, source, _IMPORTED) for facts, source in parts]
    if any(map(join_operations.declares, scripts)):
        scripts = [read(facts, source, (*_IMPORTED, "op")) for facts, source in parts]
        does, said, imported, features = _operations(scripts)
    else:
        does, features = _functions(scripts)
        said, imported = [{}] * len(scripts), _IMPORTED
    future = _future(features)
    return _SCRIPT.format(
        title=_escaped(name.strip()),
        replaced=textwrap.fill(_escaped(_listed(scripts)), _WIDTH, break_long_words=False, break_on_hyphens=False),
        revision=revision,
        revises=down_revision if isinstance(down_revision, str) else ", ".join(down_revision or _NOTHING),
        created=created,
        future=future,
        revision_=literal(revision),
        down_revision=literal(down_revision),
        branch_labels=literal(branch_labels),
        depends_on=literal(depends_on),
        replaces=_column(_entry({**facts, **more}) for (facts, _), more in zip(parts, said, strict=True)),
        versions=literal(versions),
        imported=", ".join(imported),
        does=does,
    )


_NOTHING = ("nothing, this is a base",)
_IMPORTED = ("CkptType", "MigrationMetadata")


def _functions(scripts: Sequence[Part]) -> tuple[str, list[str]]:
    """Return the body of the new script for scripts of functions, and the ``__future__`` features it needs."""
    for script in scripts:
        if "migrate" not in script.bound:
            raise cannot(script.revision, "it has no migrate", "write one")
    ends = [f"migrate, {'rollback' if script.reversible else 'None'}" for script in scripts]
    functions, features = _moved(scripts, ends)
    parts = _row([f"_part_{number}()" for number in range(1, len(scripts) + 1)], _WIDTH - len("PARTS = "))
    text = _FUNCTIONS.format(functions="\n\n\n".join(functions), parts=parts, rollback=_way_back(scripts))
    return text, features


def _operations(scripts: Sequence[Part]) -> tuple[str, list[dict[str, int]], Sequence[str], list[str]]:
    """Return the body of the new script with operations.

    It comes with more facts about each script, the names to import, and the ``__future__`` features it needs.
    """
    found = [join_operations.listed(script, number) for number, script in enumerate(scripts, 1)]
    lines = []
    for script, listed in zip(scripts, found, strict=True):
        lines += [f"    {line}".rstrip() for line in (*_comment(script, not listed.functions), *listed.lines)]
    ends = [f"{{{', '.join(f'{literal(name)}: {name}' for name in listed.functions)}}}" for listed in found]
    functions, features = _moved(scripts, ["" if end == "{}" else end for end in ends])
    below = ""
    if functions:
        calls = ["{}" if end == "{}" else f"_part_{number}()" for number, end in enumerate(ends, 1)]
        names = [
            f"{join_operations.prefix(place + 1)}{name} = PARTS[{place}][{literal(name)}]"
            for place, listed in enumerate(found)
            for name in listed.functions
        ]
        parts = _row(calls, _WIDTH - len("PARTS = "))
        below = _PARTS.format(functions="\n\n\n".join(functions), parts=parts, names="\n".join(names))
    said = [{"operations": listed.count} for listed in found]
    imported = (*_IMPORTED, "op") if functions else ("MigrationMetadata", "op")
    text = _OPERATIONS.format(operations="\n".join(lines), lasting=_lasting(scripts), functions=below).rstrip()
    return text, said, imported, features


def _comment(script: Part, whole: bool) -> list[str]:
    """Return the comment above the operations of a script: its id and name, and with `whole` the docstring's text."""
    name, more = f"{script.revision}: {script.name}", ast.get_docstring(script.module) or ""
    text = more.partition("\n")[2].partition("Revision ID:")[0].strip() if whole else ""
    return [f"# {plain(line)}".rstrip() for line in (name, *text.splitlines())]


def _moved(scripts: Sequence[Part], ends: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return scripts as functions, and the ``__future__`` features they need. Skip scripts with nothing to return."""
    moved = [(number, script, end) for number, (script, end) in enumerate(zip(scripts, ends, strict=True), 1) if end]
    features = sorted({feature for _, script, _ in moved for feature in script.features})
    functions = []
    for number, script, end in moved:
        check(script, "annotations" in features)
        functions.append(_function(number, script, end))
        _check_same(script, _future(features) + functions[-1])
    return functions, features


def _future(features: Sequence[str]) -> str:
    return f"\nfrom __future__ import {', '.join(features)}\n" if features else ""


def _function(number: int, script: Part, end: str) -> str:
    """Return a script as a function that returns `end`."""
    lines = [f"def _part_{number}():", *_docstring(script), ""]
    if script.shadowed:
        lines.append(f"    from builtins import {', '.join(script.shadowed)}  # the original meaning")
    return "\n".join([*lines, *_body(script), "", f"    return {end}"])


def _docstring(script: Part) -> list[str]:
    first, _, more = (ast.get_docstring(script.module) or "").partition("\n")
    if first.strip() != script.name:
        more = f"{first}\n{more}"
    title = script.name if script.name.endswith((".", "!", "?")) else f"{script.name}."
    lines = _escaped(f"Revision {script.revision}: {title}\n\n{more.strip()}".strip()).split("\n")
    if len(lines) == 1:
        return [f'    """{lines[0]}"""']
    return [f'    """{lines[0]}', *(f"    {line}".rstrip() for line in lines[1:]), '    """']


def _body(script: Part) -> list[str]:
    """Return the lines to keep, indented except for those that begin within a string."""
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
    # A form feed restarts the indentation. A tab would end at another column now, so it becomes spaces.
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


def _check_same(script: Part, text: str) -> None:
    """Check that a function has the same statements as the script, including the text of each string."""
    # The body begins with a docstring, and with an import of builtins if any; it ends with the return.
    before = 2 if script.shadowed else 1
    try:
        function = parsed(text).body[-1]
        same = _spelled(getattr(function, "body", [])[before:-1]) == _spelled(script.kept)
    except (SyntaxError, RecursionError):
        same = False
    if not same:
        raise cannot(script.revision, "its text cannot be moved into a function as it is", "format the script")


def _spelled(statements: list[ast.stmt]) -> str:
    return ast.dump(ast.Module(statements, type_ignores=[]))


def _way_back(scripts: Iterable[Part]) -> str:
    return _lasting(scripts) or _ROLLBACK


def _lasting(scripts: Iterable[Part]) -> str:
    """Return a line that names the scripts that cannot be undone; empty if there are none."""
    lasting = [script.revision for script in scripts if not script.reversible]
    return f"rollback = None  # {' and '.join(lasting)} cannot be undone" if lasting else ""


def _listed(scripts: Iterable[Part]) -> str:
    return f"Replaces: {', '.join(f'{script.revision} ({script.name})' for script in scripts)}"


def _escaped(text: str) -> str:
    """Return text, escaped for a docstring."""
    return plain(text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'), keep="\n")


def _entry(facts: Mapping[str, Any]) -> str:
    return "\n".join(["{", *(f"        {literal(key)}: {literal(facts[key])}," for key in facts), "    }"])


def _column(items: Iterable[str]) -> str:
    return "\n".join(["(", *(f"    {item}," for item in items), ")"])


def _row(items: Sequence[str], width: int) -> str:
    row = f"({', '.join(items)}{',' * (len(items) == 1)})"
    return row if len(row) <= width else _column(items)
