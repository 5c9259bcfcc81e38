"""Names of parameters with places left open: ``h.{i}.attn.*``.

A placeholder in braces stands for one part of a name, between dots, and for the same text wherever it stands. A star,
where a pattern selects, stands for anything, dots included. ``{*}`` and ``{{}`` stand for a star and a brace
themselves, in names that have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from anemoi_ckpt_migrate.errors import BadOperation

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
    """

    text: str
    places: tuple[str, ...]
    stars: int
    regex: re.Pattern[str]

    @property
    def open(self) -> bool:
        """Whether it may stand for more than one name."""
        return bool(self.places or self.stars)

    def bind(self, name: str) -> dict[str, str] | None:
        """Return what the placeholders stand for in a name; None if it does not match."""
        found = self.regex.fullmatch(name)
        return None if found is None else found.groupdict()

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
    regex = ""
    at = stars = 0
    for found in _OPEN.finditer(text):
        regex += re.escape(text[at : found.start()])
        at = found.end()
        name = found["place"]
        if name is not None:
            regex += f"(?P={name})" if name in places else f"(?P<{name}>[^.]+)"
            places[name] = None
        elif found["itself"] is not None:
            regex += re.escape(found["itself"])
        else:
            regex += ".*"
            stars += 1
    return Pattern(text, tuple(places), stars, re.compile(regex + re.escape(text[at:]), re.DOTALL))


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
