"""Names of parameters with places left open: ``h.{i}.attn.*``.

Matching takes time that grows with the length of a name, not with the ways in which it might match: names and patterns
may come from a checkpoint, and so from anybody.

A placeholder in braces stands for one part of a name, between dots, and for the same text wherever it stands. A star,
where a pattern selects, stands for anything, dots included. ``{*}`` and ``{{}`` stand for a star and a brace
themselves, in names that have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from anemoi_ckpt_migrate.errors import BadOperation

_LONGEST = 1000
"""Characters of a name that is matched with placeholders; nobody has longer ones."""
_MOST_STEPS = 100_000

_OPEN = re.compile(r"\{(?P<place>[A-Za-z_][A-Za-z0-9_]*)\}|\{(?P<itself>[*{])\}|\*")


class Pattern(NamedTuple):
    """A pattern of names.

    Attributes
    ----------
    text : str
        As it was written.
    places : tuple of str
        Its placeholders, in the order in which they first stand.
    stars : int
        How many stars it has.
    regex : re.Pattern
        What names have to match.
    parts : tuple of (str, str)
        What it is made of: ``text``, ``place``, ``again`` (what a placeholder already stands for) or ``star``, and the
        text or the name of the placeholder.
    simple : bool
        Whether `regex` has at most one choice to go back to: a star, and one placeholder between two dots.
    """

    text: str
    places: tuple[str, ...]
    stars: int
    regex: re.Pattern[str]
    parts: tuple[tuple[str, str], ...]
    simple: bool

    @property
    def open(self) -> bool:
        """Whether it may stand for more than one name."""
        return bool(self.places or self.stars)

    def bind(self, name: str) -> dict[str, str] | None:
        """Return what the placeholders stand for in a name; None if it does not match."""
        if self.stars and not self.places:
            return {} if _globs(self.parts, name) else None
        found = self._matched(name, whole=True)
        return None if found is None else found[0]

    def begin(self, name: str) -> tuple[dict[str, str], int] | None:
        """Return what the placeholders stand for where a name begins so, and where that ends; None if it does not."""
        return self._matched(name, whole=False)

    def _matched(self, name: str, whole: bool) -> tuple[dict[str, str], int] | None:
        if self.open and len(name) > _LONGEST:
            raise BadOperation(f"{name[:60]}... has more than {_LONGEST} characters, too many for {self.text[:60]}")
        if not self.simple:
            return _Matching(self.parts, name, whole).found()
        found = self.regex.fullmatch(name) if whole else self.regex.match(name)
        return None if found is None else (found.groupdict(), found.end())

    def fill(self, bound: Mapping[str, str]) -> str:
        """Return the name with something in the place of each placeholder."""
        if "{" not in self.text:
            return self.text
        return _OPEN.sub(lambda found: found["itself"] or bound.get(found["place"], found[0]), self.text)

    def among(self, names: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
        """Go through the names that match, in order, with what the placeholders stand for."""
        if not self.open:
            name = self.fill({})
            if name in names:
                yield name, {}
            return
        for name in list(names):
            bound = self.bind(name)
            if bound is not None:
                yield name, bound


@lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """Read a pattern."""
    places: dict[str, None] = {}
    parts: list[tuple[str, str]] = []
    at = stars = 0
    for found in _OPEN.finditer(text):
        parts.append(("text", text[at : found.start()]))
        at = found.end()
        name = found["place"]
        if name is not None:
            parts.append(("again" if name in places else "place", name))
            places[name] = None
        elif found["itself"] is not None:
            parts.append(("text", found["itself"]))
        else:
            parts.append(("star", ""))
            stars += 1
    parts.append(("text", text[at:]))
    regex = "".join(_SPELLED[kind](value) for kind, value in parts)
    simple = stars < 2 and _is_certain(text)
    return Pattern(text, tuple(places), stars, re.compile(regex, re.DOTALL), tuple(parts), simple)


_SPELLED: dict[str, Callable[[str], str]] = {
    "text": re.escape,
    "place": lambda name: f"(?P<{name}>[^.]+)",
    "again": lambda name: f"(?P={name})",
    "star": lambda _: ".*",
}


def _globs(parts: Sequence[tuple[str, str]], name: str) -> bool:
    """Tell whether a name matches text with stars: each piece is looked for from the left, and never anew."""
    pieces = [""]
    for kind, value in parts:
        if kind == "star":
            pieces.append("")
        else:
            pieces[-1] += value
    first, *between, last = pieces
    end = len(name) - len(last)
    if not name.startswith(first) or not name.endswith(last) or len(first) > end:
        return False
    at = len(first)
    for piece in between:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class _Matching:
    """Matches a name with a pattern as the regular expression does, but goes no way twice that led to nothing."""

    def __init__(self, parts: Sequence[tuple[str, str]], name: str, whole: bool) -> None:
        self._parts, self._name, self._whole = parts, name, whole
        self._repeats = any(kind == "again" for kind, _ in parts)

    def found(self) -> tuple[dict[str, str], int] | None:
        """Return what the placeholders stand for, and where the match ends; None if there is none.

        Raises
        ------
        BadOperation
            There are too many ways to try.
        """
        # Each way: how many parts are matched, up to where, where the open part began, what placeholders stand for.
        ways: list[tuple[int, int, int, tuple[tuple[str, str], ...]]] = [(0, 0, 0, ())]
        tried = set()
        while ways:
            way = place, at, start, bound = ways.pop()
            key = way if self._repeats else (place, at, start)
            if key in tried:
                continue
            tried.add(key)
            if len(tried) > _MOST_STEPS:
                raise BadOperation(f"{self._name[:60]} may match a pattern in too many ways; use fewer placeholders")
            if place == len(self._parts):
                if not self._whole or at == len(self._name):
                    return dict(bound), at
                continue
            ways += self._on(place, at, start, bound)
        return None

    def _on(
        self, place: int, at: int, start: int, bound: tuple[tuple[str, str], ...]
    ) -> list[tuple[int, int, int, tuple[tuple[str, str], ...]]]:
        """Return the ways on from one; the last is to be tried first."""
        kind, value = self._parts[place]
        if kind in ("text", "again"):
            wanted = value if kind == "text" else dict(bound)[value]
            end = at + len(wanted)
            return [(place + 1, end, end, bound)] if self._name.startswith(wanted, at) else []
        ways = []
        if kind == "star" or at > start:
            more = bound if kind == "star" else (*bound, (value, self._name[start:at]))
            ways.append((place + 1, at, at, more))
        if at < len(self._name) and (kind == "star" or self._name[at] != "."):
            ways.append((place, at + 1, at + 1 if kind == "star" else start, bound))
        return ways


def literal(name: str) -> str:
    """Return what stands for a name and for no other."""
    return re.sub(r"[*{]", r"{\g<0>}", name)


def literals(names: Iterable[str]) -> tuple[str, ...]:
    """Return what stands for names and for no others."""
    return tuple(map(literal, names))


def turns(*texts: str) -> bool:
    """Tell whether a name that one pattern stands for tells those that the others do, in one way only."""
    open_in = {(frozenset(pattern(text).places), pattern(text).stars) for text in texts}
    return len(open_in) == 1 and all(map(_is_certain, texts))


def check_stars(kind: str, texts: Iterable[str]) -> None:
    """Check that names of what comes about have no star.

    Raises
    ------
    BadOperation
        One has.
    """
    starred = next((text for text in texts if pattern(text).stars), None)
    if starred is not None:
        raise BadOperation(
            f"{kind}: a star, as in {starred}, says not what becomes of what it stands for; use {{placeholders}}, "
            "or {*} for a star itself"
        )


def _is_certain(text: str) -> bool:
    """Tell whether a name can match in one way only: never is more than one thing open between two dots."""
    return all(sum(found["itself"] is None for found in _OPEN.finditer(part)) < 2 for part in text.split("."))
