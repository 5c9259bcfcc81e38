"""Walk through deeply nested trees."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_FRAMES = 6000


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Allow as deep a nesting as torch's own pickler; ours needs several frames per level."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
