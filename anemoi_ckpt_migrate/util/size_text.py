"""Read sizes, as people write them."""

from __future__ import annotations

import re

from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_SIZE = lazy_regex(r"([0-9]{1,18})\s*(?:([KMGT]?)(I?)B?)", re.IGNORECASE)


def bytes_of(text: str) -> int | None:
    """Return the number of bytes of a size such as ``5GB``, ``512MiB`` or ``1000``; None if it is no size.

    Examples
    --------
    >>> bytes_of("5GB"), bytes_of("1 KiB"), bytes_of("many")
    (5000000000, 1024, None)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    unit: int = (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    return int(found[1]) * unit
