"""How much work a call is: counted, not timed, so that a busy machine changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def work_of(action: Callable[[], object]) -> int:
    """Return the number of calls that an action makes, of functions in Python and in C; a generator's steps count."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def growth(made: Callable[[int], Callable[[], object]], size: int) -> float:
    """Return by how much more work an action grows than its input, if that is four times as large: 4 if quadratic.

    Parameters
    ----------
    made : callable
        Makes the action for a size; this is not counted.
    size : int
        The smaller size.
    """
    small, large = made(size), made(4 * size)
    return work_of(large) / work_of(small) / 4
