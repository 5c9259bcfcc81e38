"""Regular expressions that are compiled when they are first used: a call of the program uses few of its patterns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

__all__ = ["lazy_regex"]


class _Pattern:
    """Stands for a compiled pattern, and takes over its methods and attributes."""

    def __init__(self, source: str | bytes, flags: int = 0) -> None:
        self._arguments = source, flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._arguments), name)  # type: ignore[type-var]
        setattr(self, name, found)
        return found


if TYPE_CHECKING:
    from re import compile as lazy_regex
else:
    lazy_regex = _Pattern
