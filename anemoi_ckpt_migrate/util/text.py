"""Text for people: names that cannot steer a terminal, sizes that can be read."""

from __future__ import annotations

import re


def plain(text: str, keep: str = "") -> str:
    """Spell out what could steer a terminal: names come from checkpoints, and those from anywhere."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)


def sized(count: int) -> str:
    """Spell a number of bytes, in powers of a thousand."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def slug(name: str) -> str:
    """Turn a name into lower-case words joined by underscores, as file names have them."""
    import unicodedata

    simple = name if name.isascii() else unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "_".join(re.findall(r"[a-z0-9]+", simple.lower()))
