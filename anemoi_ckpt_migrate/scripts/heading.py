"""The head of a script: all that stands before its first function, which says everything but what it does.

Parsing a script takes most of the time that reading it does, and its functions most of that. Where there are thousands,
only the heads are parsed, and the functions found by their lines. That is done only where nothing below the head could
mean something else than it seems to; a property test compares it with parsing the whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Heading(NamedTuple):
    """The head of a script, and the functions below it.

    Attributes
    ----------
    text : str
        The head.
    functions : dict of str to int
        Which of ``migrate`` and ``rollback`` are defined below it, and in which line.
    """

    text: str
    functions: dict[str, int]


_BELOW = re.compile(r"^(?:@|def\b)", re.MULTILINE)
_FUNCTION = re.compile(r"^def[ \t]+(migrate|rollback)\b", re.MULTILINE)
_CODING = re.compile(r"\A(?:[^\n]*\n)?[ \t\f]*#[^\n]*coding[:=]")
# A docstring of one line is a string and no more. Any other string that may go on over lines is not looked into.
_DOCSTRING = re.compile(r'^[ \t]+"""[^"\\\n]*"""[ \t]*$', re.MULTILINE)
_HIDING = ('"""', "'''", "\\\n", "\f", "\0")
# Below the head nothing begins a line but functions, what decorates them, the end of what they take, and comments.
_OTHER = re.compile(r"^(?:[^ \t\n#@)\]}d]|d(?!ef\b))", re.MULTILINE)


def heading(source: bytes) -> Heading | None:
    """Return the head of a script; None where only parsing all of it tells.

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
    if begin is None or "\r" in text or _CODING.match(text):
        return None
    below = _DOCSTRING.sub("", text[begin.start() :])
    if any(word in below for word in _HIDING) or _OTHER.search(below):
        return None
    above = text.count("\n", 0, begin.start()) + 1
    functions = {found[1]: above + below.count("\n", 0, found.start()) for found in _FUNCTION.finditer(below)}
    return Heading(text[: begin.start()], functions)
