"""Names of parameters with places left open: ``h.{i}.attn.*``.

A placeholder in braces stands for one part of a name, between dots, and for the same text wherever it stands. A star,
where a pattern selects, stands for anything, dots included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")


class Pattern(NamedTuple):
    """A pattern of names.

    Attributes
    ----------
    text : str
        As it was written.
    places : tuple of str
        Its placeholders, in the order in which they first stand.
    open : bool
        Whether it may stand for more than one name.
    regex : re.Pattern
        What names have to match.
    """

    text: str
    places: tuple[str, ...]
    open: bool
    regex: re.Pattern[str]

    def bind(self, name: str) -> dict[str, str] | None:
        """Return what the placeholders stand for in a name; None if it does not match."""
        found = self.regex.fullmatch(name)
        return None if found is None else found.groupdict()

    def fill(self, bound: Mapping[str, str]) -> str:
        """Return the name with something in the place of each placeholder."""
        return _PLACE.sub(lambda place: bound.get(place[1], place[0]), self.text) if self.places else self.text

    def among(self, names: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
        """Go through the names that match, in order, with what the placeholders stand for."""
        if not self.open:
            if self.text in names:
                yield self.text, {}
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
    at = 0
    for place in _PLACE.finditer(text):
        regex += _literal(text[at : place.start()])
        name = place[1]
        regex += f"(?P={name})" if name in places else f"(?P<{name}>[^.]+)"
        places[name] = None
        at = place.end()
    regex += _literal(text[at:])
    return Pattern(text, tuple(places), bool(places) or "*" in text, re.compile(regex, re.DOTALL))


def _literal(text: str) -> str:
    return ".*".join(map(re.escape, text.split("*")))


def selected(texts: Iterable[str], names: Mapping[str, object]) -> Iterator[tuple[str, list[str]]]:
    """Give for each pattern the names that it selects."""
    for text in texts:
        yield text, [name for name, _ in pattern(text).among(names)]
