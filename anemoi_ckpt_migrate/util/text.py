"""Text for people: names without control characters, readable sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable


def plain(text: str, keep: str = "") -> str:
    """Escape characters that could control a terminal: names come from untrusted checkpoints."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)


def sized(count: int) -> str:
    """Return a number of bytes as text, in powers of a thousand."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def numbered(count: int, noun: str) -> str:
    """Return a number with its noun.

    Parameters
    ----------
    count : int
        The number.
    noun : str
        The noun in the singular, to whose plural an s is added.

    Examples
    --------
    >>> numbered(1, "checkpoint"), numbered(9998, "checkpoint")
    ('1 checkpoint', '9,998 checkpoints')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def lasted(seconds: float) -> str:
    """Return a duration as text, in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that stands twice; None if all differ."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def slug(name: str) -> str:
    """Turn a name into lower-case words joined by underscores, for file names."""
    import unicodedata

    simple = name if name.isascii() else unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "_".join(re.findall(r"[a-z0-9]+", simple.lower()))
