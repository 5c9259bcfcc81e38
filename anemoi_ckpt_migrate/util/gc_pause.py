"""A pause of Python's garbage collector, which would traverse thousands of small objects without any cycle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resumed() -> Iterator[None]:
    """Run the garbage collector although it may be paused: while code of the user runs, which may need it."""
    collecting = gc.isenabled()
    gc.enable()
    try:
        yield
    finally:
        if not collecting:
            gc.disable()


@contextmanager
def paused() -> Iterator[None]:
    """Pause the garbage collector. Also a decorator."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
