"""Parse targets as the user writes them. No graph is needed.

target    = [branch "@"] place | package specifier | name
place     = word | steps | (id | "head" | "base") [steps]
steps     = ("+" | "-") digits
branch    = a branch label, or the id of a revision on the branch
specifier = PEP 440, as in "anemoi-models>=0.10,<0.12"
"""

from __future__ import annotations

import re

from anemoi_ckpt_migrate.errors import BadTarget, UsageError
from anemoi_ckpt_migrate.revisions import releases
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex


@dataclass(frozen=True)
class Named:
    """A target that is one word: ``head``, ``heads``, ``base`` or ``barrier``; in a range also ``current``."""

    word: str


@dataclass(frozen=True)
class Relative:
    """``+N`` or ``-N``: a number of steps up (positive) or down (negative)."""

    steps: int


@dataclass(frozen=True)
class Id:
    """A full or partial revision id, a branch label, or a name."""

    text: str


@dataclass(frozen=True)
class Beyond:
    """``REV+N`` or ``REV-N``: a number of steps above or below a revision, ``head`` or ``base``."""

    start: Id | Named
    steps: int


@dataclass(frozen=True)
class OnBranch:
    """``LABEL@TARGET``: a target among the revisions of one branch."""

    branch: str
    target: Named | Relative | Id | Beyond


@dataclass(frozen=True)
class Released:
    """The revisions in released versions of the tracked package, by a PEP 440 specifier."""

    package: str
    specifier: str


Target = Named | Relative | Id | Beyond | OnBranch | Released


@dataclass(frozen=True)
class Range:
    """``A:B``, the revisions from one target up to another; None leaves a side open."""

    start: Target | None
    end: Target | None


WORDS = ("head", "heads", "base", "barrier")
CURRENT = Named("current")
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.]*"
LABEL_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_STEPS_FROM = ("head", "base", "current")  # the words from which steps can be counted
_SPECIFIER = lazy_regex(r"([A-Za-z0-9][A-Za-z0-9._-]*) *([<>=!~].*)", re.DOTALL)
_MOST_DIGITS = 9


def parse(text: str) -> Target:
    """Parse a target.

    Raises
    ------
    BadTarget
        It is not a target; the error points at the wrong part.
    """
    return _parse(text, WORDS)


def parse_several(text: str) -> tuple[Target, ...]:
    """Parse targets separated by commas. The commas in a specifier do not separate.

    Raises
    ------
    BadTarget
        One of them is not a target.
    """
    if _SPECIFIER.fullmatch(text):
        return (parse(text),)
    return tuple(parse(part.strip()) for part in text.split(","))


def parse_range(text: str) -> Range:
    """Parse ``A:B``. Either end may be left out, or be ``current``.

    Raises
    ------
    BadTarget, UsageError
        An end is not a target; there is no colon, or more than one.
    """
    start, colon, end = text.partition(":")
    if not colon or ":" in end:
        raise UsageError(f"{text!r} is not a range: write START:END, START: or :END")
    words = (*WORDS, CURRENT.word)
    return Range(_parse(start, words) if start else None, _parse(end, words) if end else None)


def _parse(text: str, words: tuple[str, ...]) -> Target:
    specifier = _SPECIFIER.fullmatch(text)
    if specifier:
        releases.check(*specifier.groups())
        return Released(*specifier.groups())
    branch, at, rest = text.partition("@")
    if not at:
        return _place(text, 0, words)
    if not re.fullmatch(LABEL_PATTERN, branch):
        raise BadTarget(text, 0, max(len(branch), 1), "a branch label or a revision id must come before the @")
    place = _place(text, len(branch) + 1, words)
    if place in (Named("barrier"), CURRENT):
        raise BadTarget(text, len(branch) + 1, len(text), f"a branch has no {rest}")
    return OnBranch(branch, place)


def _place(text: str, begin: int, words: tuple[str, ...]) -> Named | Relative | Id | Beyond:
    """Parse the part after the branch, if there is a branch."""
    place = text[begin:]
    if place in words:
        return Named(place)
    found = re.fullmatch(rf"({ID_PATTERN})?([+-])(\d*)", place)
    if found:
        return _counted(text, begin, found)
    if place[:1] in ("+", "-"):
        raise BadTarget(text, begin + 1, len(text), f"a number of steps must follow the {place[0]}")
    if not place.strip() or "@" in place or not place.isprintable():
        what = "expected a target: " + ", ".join(words) + ", +N, -N, a revision id (or its start) or a name"
        raise BadTarget(text, begin, len(text), what)
    return Id(place)


def _counted(text: str, begin: int, found: re.Match[str]) -> Relative | Beyond:
    start, sign, digits = found.groups()
    place = begin + found.start(3)
    if not digits:
        raise BadTarget(text, place, place + 1, f"a number of steps must follow the {sign}")
    if not int(digits[: _MOST_DIGITS + 1]):
        raise BadTarget(text, place - 1, len(text), "a step count of 0 does nothing")
    if len(digits) > _MOST_DIGITS:
        raise BadTarget(text, place, len(text), "the step count is too large (9 digits at most)")
    steps = int(sign + digits)
    if start is None:
        return Relative(steps)
    if start in (*WORDS, CURRENT.word) and start not in _STEPS_FROM:
        raise BadTarget(text, begin, begin + len(start), f"steps cannot be counted from {start}")
    return Beyond(Named(start) if start in _STEPS_FROM else Id(start), steps)
