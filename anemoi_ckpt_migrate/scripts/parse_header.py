"""Read the head of a plain script from its lines, without parsing the script.

Parsing takes most of the time of reading a script. Among thousands, scripts in the form that `revision` generates are
not parsed: a docstring, then lines that import or set one name each, then functions. For any other script `heading`
returns None, and the caller parses it. A property test compares the two ways.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import NamedTuple

from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex


class Heading(NamedTuple):
    """The head of a script, and the functions below it.

    Attributes
    ----------
    docstring : str
        The docstring; empty if there is none.
    values : dict of str to ast.expr
        The values of the names in `NAMES` that are set.
    lines : dict of str to int
        The lines that set or define those names.
    functions : set of str
        The names in `FUNCTIONS` that are defined.
    """

    docstring: str
    values: dict[str, ast.expr]
    lines: dict[str, int]
    functions: set[str]


FUNCTIONS = ("migrate_setup", "migrate", "rollback")
"""The functions that a script may have."""
NAMES = {
    "revision",
    "down_revision",
    "branch_labels",
    "depends_on",
    "metadata",
    "replaces",
    "known_as",
    "operations",
    *FUNCTIONS,
}
"""The names with a meaning at the top level of a script."""

_BELOW = lazy_regex(r"^(?:@|def\b)", re.MULTILINE)
_FUNCTION = lazy_regex(rf"^def[ \t]+({'|'.join(FUNCTIONS)})\b", re.MULTILINE)
_CODING = lazy_regex(r"[^\n]*\n?[^\n]*coding[:=]")
_TITLE = lazy_regex(r'"""([^"\\]*)"""[ \t]*\n')
# A docstring of one line is harmless. A script with any other string that may span lines is parsed instead.
_DOCSTRING = lazy_regex(r'^[ \t]+"""[^"\\\n]*"""[ \t]*$', re.MULTILINE)
_HIDING = ('"""', "'''", "\\\n", "\f", "\0")
# Below the head, only functions, decorators, closing brackets and comments may begin a line.
_OTHER = lazy_regex(r"^(?:[^ \t\n#@)\]}d]|d(?!ef\b))", re.MULTILINE)
# In the head, each statement has a line of its own.
_IMPORT = lazy_regex(r"(?:from [\w.]+ )?import [\w., ]+")
_ASSIGNMENT = lazy_regex(r"([A-Za-z_]\w*) = (\S.*)")
_NAMED = lazy_regex("|".join(NAMES))
_STRING = lazy_regex(r'"([^"\\]*)"|\'([^\'\\]*)\'')


def heading(source: bytes) -> Heading | None:
    """Read the head of a script from its lines; None if the script has to be parsed.

    Parameters
    ----------
    source : bytes
        The script.
    """
    try:
        text = source.decode()
    except UnicodeDecodeError:
        return None
    begin = _BELOW.search(text)
    title = _TITLE.match(text)
    if begin is None or title is None or "\r" in text or _CODING.match(text):
        return None
    below = _DOCSTRING.sub("", text[begin.start() :])
    head = text[title.end() : begin.start()]
    if any(word in below or word in head for word in _HIDING) or _OTHER.search(below):
        return None
    above = title[0].count("\n") + 1
    found = _assignments(head, above)
    if found is None:
        return None
    values, lines = found
    above += head.count("\n")
    for function in _FUNCTION.finditer(below):
        lines[function[1]] = above + below.count("\n", 0, function.start())
    functions = {name for name in FUNCTIONS if lines.get(name, 0) >= above}
    return Heading(title[1], values, lines, functions)


def _assignments(head: str, number: int) -> tuple[dict[str, ast.expr], dict[str, int]] | None:
    """Read the statements between docstring and functions. They begin at line `number`."""
    values: dict[str, ast.expr] = {}
    lines: dict[str, int] = {}
    for line in head.split("\n"):
        found = _ASSIGNMENT.fullmatch(line)
        if found is None:
            if line and line[0] != "#" and not (_IMPORT.fullmatch(line) and NAMES.isdisjoint(line.split())):
                return None
        elif found[1] in NAMES:
            value = _value(found[2])
            if value is None:
                return None
            values[found[1]], lines[found[1]] = value, number
        elif found[2][-1] in "([{,\\" or ";" in found[2] or _NAMED.search(found[2]):
            return None  # it goes on in the next line, another statement follows, or it sets another name as well
        number += 1
    return values, lines


def _value(text: str) -> ast.expr | None:
    string = _STRING.fullmatch(text)
    if string:
        return ast.Constant(string[1] if string[2] is None else string[2])
    return _expression(text)


@lru_cache(maxsize=1024)
def _expression(text: str) -> ast.expr | None:
    """Parse an expression. The cache helps because thousands of scripts share ``None`` and a few versions."""
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
