"""Patterns for names of parameters: ``h.{i}.attn.*``.

The time for matching grows only with the length of a name, not with the number of possible matches, because names and
patterns may come from an untrusted checkpoint.

A placeholder in braces matches one part of a name, between dots, and the same text everywhere in a pattern. A star
matches anything, dots included; only patterns that select may have one. ``{*}`` and ``{{}`` match a literal star and
brace in a name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice, takewhile

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_LONGEST = 1000
"""The longest name, in characters, that is matched with placeholders; real names are shorter."""
_MOST_STEPS = 100_000
_FEW = 3

_OPEN = lazy_regex(r"\{(?P<place>[A-Za-z_][A-Za-z0-9_]*)\}|\{(?P<itself>[*{])\}|\*")


@dataclass(frozen=True)
class Pattern:
    """A pattern of names.

    Attributes
    ----------
    text : str
        The pattern as written.
    places : tuple of str
        Its placeholders, in the order of their first occurrence.
    stars : int
        The number of stars.
    parts : tuple of (str, str)
        Its parts as pairs. The kind is ``text``, ``place``, ``again`` (a later occurrence of a placeholder) or
        ``star``; the second item is the text or the name of the placeholder.
    simple : bool
        Whether `regex` backtracks over at most one choice: a star, and one placeholder between two dots.
    """

    text: str
    places: tuple[str, ...]
    stars: int
    parts: tuple[tuple[str, str], ...]
    simple: bool

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The regular expression for names. Most patterns are names and need none."""
        return re.compile("".join(_SPELLED[kind](value) for kind, value in self.parts), re.DOTALL)

    @cached_property
    def open(self) -> bool:
        """Whether it may match more than one name."""
        return bool(self.places or self.stars)

    @cached_property
    def itself(self) -> str:
        """The only name that it matches, if it is not open."""
        return self.fill({})

    def bind(self, name: str) -> dict[str, str] | None:
        """Return the values of the placeholders in a name; None if the name does not match."""
        if not self.open:
            return {} if name == self.itself else None
        if self.stars and not self.places:
            return {} if _globs(self.parts, name) else None
        found = self._matched(name, whole=True)
        return None if found is None else found[0]

    def begin(self, name: str) -> tuple[dict[str, str], int] | None:
        """Return the placeholder values at the start of a name, and the end of the match; None without a match."""
        if not self.open:
            return ({}, len(self.itself)) if name.startswith(self.itself) else None
        return self._matched(name, whole=False)

    def beginnings(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, str], int]]:
        """Yield the names of which it matches the start, with the placeholder values and the end of the match."""
        if not self.open:
            yield from ((name, {}, len(self.itself)) for name in names if name.startswith(self.itself))
            return
        if not self.simple:
            matched = ((name, self.begin(name)) for name in names)
            yield from ((name, *begun) for name, begun in matched if begun is not None)
            return
        match = self.regex.match
        for name in names:
            if len(name) > _LONGEST:
                raise self._too_long(name)
            found = match(name)
            if found is not None:
                yield name, found.groupdict(), found.end()

    def _too_long(self, name: str) -> BadOperation:
        return BadOperation(f"{name[:60]}... has more than {_LONGEST} characters, too many for {self.text[:60]}")

    def _matched(self, name: str, whole: bool) -> tuple[dict[str, str], int] | None:
        if self.open and len(name) > _LONGEST:
            raise self._too_long(name)
        if not self.simple:
            return _Matching(self.parts, name, whole).found()
        found = self.regex.fullmatch(name) if whole else self.regex.match(name)
        return None if found is None else (found.groupdict(), found.end())

    def fill(self, bound: Mapping[str, str]) -> str:
        """Return the name with each placeholder replaced by its value."""
        if "{" not in self.text:
            return self.text
        try:
            return _template(self.text) % bound
        except KeyError:  # a placeholder without a value stays
            return _OPEN.sub(lambda found: found["itself"] or bound.get(found["place"], found[0]), self.text)

    def among(self, names: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the names that match, in order, with the values of the placeholders."""
        if not self.open:
            if self.itself in names:
                yield self.itself, {}
            return
        if self.simple and self.places:
            match, start = self.regex.fullmatch, self.parts[0][1]
            for name in list(names):
                if len(name) > _LONGEST:
                    raise self._too_long(name)
                found = match(name) if name.startswith(start) else None
                if found is not None:
                    yield name, found.groupdict()
            return
        for name in list(names):
            bound = self.bind(name)
            if bound is not None:
                yield name, bound


Match = tuple[str, dict[str, str]]
"""A name, and the values of the placeholders of a pattern in it."""


@lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """Parse a pattern."""
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
    simple = stars < 2 and _is_certain(text)
    return Pattern(text, tuple(places), stars, tuple(parts), simple)


@lru_cache(maxsize=4096)
def _template(text: str) -> str:
    """Return a pattern as a template for the operator ``%``."""
    places = ("place", "again")
    parts = pattern(text).parts
    return "".join(
        f"%({value})s" if kind in places else _LITERAL.get(kind, value.replace("%", "%%")) for kind, value in parts
    )


_LITERAL = {"star": "*"}
_SPELLED: dict[str, Callable[[str], str]] = {
    "text": re.escape,
    "place": lambda name: f"(?P<{name}>[^.]+)",
    "again": lambda name: f"(?P={name})",
    "star": lambda _: ".*",
}


def _globs(parts: Sequence[tuple[str, str]], name: str) -> bool:
    """Return whether a name matches text with stars; searches for each piece once, from left to right."""
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
    """Matches a name like the regular expression, but tries no failed path twice."""

    def __init__(self, parts: Sequence[tuple[str, str]], name: str, whole: bool) -> None:
        self._parts, self._name, self._whole = parts, name, whole
        self._repeats = any(kind == "again" for kind, _ in parts)

    def found(self) -> tuple[dict[str, str], int] | None:
        """Return the values of the placeholders, and the end of the match; None without a match.

        Raises
        ------
        BadOperation
            There are too many paths to try.
        """
        # Each path: the number of matched parts, their end, the start of the open part, and the placeholder values.
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
        """Return the continuations of a path; the last one is tried first."""
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
            further = at + 1
            ways.append((place, further, further if kind == "star" else start, bound))
        return ways


def among(texts: Sequence[str], names: Mapping[str, object]) -> Iterator[tuple[str, list[Match]]]:
    """Yield patterns, each with the names that match it, in order, and the values of the placeholders.

    Each of many patterns is tried only on names that begin as it does, so that many cost little more than a few.

    >>> names = {"h.0.w": 1, "h.1.w": 2, "head.w": 3}
    >>> [found for _, found in among(["h.1.*", "head.w"], names)]
    [[('h.1.w', {})], [('head.w', {})]]
    """
    few = sum(pattern(text).open for text in texts) <= _FEW
    starts = [] if few else sorted((name, place) for place, name in enumerate(names))
    few = few or any(len(name) > _LONGEST for name, _ in starts)  # a name that is too long is refused
    for text in texts:
        each = pattern(text)
        begin = each.parts[0][1]
        if few or not each.open or not begin:
            yield text, list(each.among(names))
            continue
        found = ((name, each.bind(name)) for name in _beginning(starts, begin))
        yield text, [(name, bound) for name, bound in found if bound is not None]


def _beginning(starts: Sequence[tuple[str, int]], begin: str) -> list[str]:
    """Return the names that begin with a text, by their places, of sorted names with their places."""
    near = islice(starts, bisect_left(starts, (begin,)), None)
    found = takewhile(lambda each: each[0].startswith(begin), near)
    return [name for name, _ in sorted(found, key=lambda each: each[1])]


def literal(name: str) -> str:
    """Return a pattern that matches only this name."""
    return re.sub(r"[*{]", r"{\g<0>}", name)


def literals(names: Iterable[str]) -> tuple[str, ...]:
    """Return patterns that match only these names."""
    return tuple(map(literal, names))


def turns(*texts: str) -> bool:
    """Return whether a match of one pattern determines the matches of the others, in one way only."""
    open_in = {(frozenset(pattern(text).places), pattern(text).stars) for text in texts}
    return len(open_in) == 1 and all(map(_is_certain, texts))


def check_stars(kind: str, texts: Iterable[str]) -> None:
    """Check that patterns for new names have no star.

    Raises
    ------
    BadOperation
        A pattern has one.
    """
    starred = next((text for text in texts if pattern(text).stars), None)
    if starred is not None:
        raise BadOperation(
            f"{kind}: `*` is not allowed in {starred}, because the matched text would be lost; use {{placeholders}}, "
            "or {*} for a literal star"
        )


def _is_certain(text: str) -> bool:
    """Return whether a name can match in one way only: there is never more than one wildcard between two dots."""
    return all(sum(found["itself"] is None for found in _OPEN.finditer(part)) < 2 for part in text.split("."))
