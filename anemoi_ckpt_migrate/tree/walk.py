"""Walk over a tree: every value with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Path = tuple[Any, ...]
"""The keys from the root of a tree to a value."""


def walk(
    tree: Any,
    content: Callable[[Path, Any], Iterable[tuple[Any, Any]]],
    deepest: int | None = None,
    every_place: bool = False,
) -> Iterator[tuple[Path, Any]]:
    """Iterate over the values of a tree, each with its path; a value comes before its content.

    The content of a value is visited once, even if the value stands at several places or contains itself. Python's
    stack does not limit the depth.

    Parameters
    ----------
    tree : object
        The root. Its path is empty.
    content : callable
        Takes a path and the value there, and returns the keys and values in it; nothing if the walk is not to enter it.
    deepest : int, optional
        The length of the longest path to visit.
    every_place : bool
        Whether to yield a value at every place where it stands, instead of at the first one.

    Examples
    --------
    >>> inside = lambda path, value: value.items() if isinstance(value, dict) else ()
    >>> [path for path, value in walk({"model": {"weight": 1}}, inside)]
    [(), ('model',), ('model', 'weight')]
    """
    waiting: list[tuple[Path, Any]] = [((), tree)]
    seen: dict[int, Any] = {}  # stores the values too: an id is unique only while its object exists
    while waiting:
        path, value = waiting.pop()
        known = id(value) in seen
        seen[id(value)] = value
        if not known or every_place:
            yield path, value
        if not known and (deepest is None or len(path) < deepest):
            waiting += [((*path, key), each) for key, each in content(path, value)][::-1]
