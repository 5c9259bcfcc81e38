"""Names of classes and functions that are not imported: their spelling, and where a tree holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored, reduced

Name = tuple[str, str]
"""Module and qualified name, as a pickle spells them."""


def spelled(name: Name) -> str:
    """Spell a name so that `split` reads it."""
    return f"{name[0]}{':' if '.' in name[1] else '.'}{name[1]}"


def inside(module: str, outer: str) -> bool:
    """Return whether a module is `outer` or lies below it."""
    return module == outer or module.startswith(f"{outer}.")


def covers(pattern: str, name: Name) -> bool:
    """Return whether a pattern covers a name.

    Parameters
    ----------
    pattern : str
        A name, which also covers the classes within it; ``pkg.mod.*`` for everything in one module; ``pkg.mod.**`` for
        everything in a module and the modules below it.
    name : tuple of (str, str)
        The name.
    """
    if pattern.endswith(".**"):
        return inside(name[0], pattern[:-3])
    if pattern.endswith(".*"):
        return name[0] == pattern[:-2]
    module, colon, _ = pattern.partition(":")
    if colon and module != name[0]:
        return False
    # Without a colon, the end of the module is unknown. A class name is longer than the name of its module.
    return len(pattern) > len(name[0]) and inside(".".join(name), pattern.replace(":", "."))


def closeness(pattern: str) -> tuple[int, int]:
    """Return how specific a pattern is: a class ranks above a module, a long pattern above a short one."""
    return -pattern.count("*"), len(pattern)


def names_in(tree: Any) -> list[OpaqueName]:
    """Return all names in a tree, at any depth."""
    return [value for value in reachable(tree) if is_a(value, OpaqueName)]


def reachable(tree: Any) -> Iterator[Any]:
    """Yield every object in a tree once. Text, numbers and real tensors are left out."""
    waiting, seen = [tree], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or is_a(value, (str, int, float, bytes, type(None))) or is_real(value):
            continue
        seen.add(id(value))
        yield value
        if not is_a(value, OpaqueName):
            waiting += inner(value)


def rename(found: list[OpaqueName], new: Callable[[Name], Name]) -> None:
    """Rename names found in a tree."""
    for name in found:
        name.__name_and_calls__ = (new(name.pickled_name), name.__name_and_calls__[1])


def inner(value: Any) -> list[Any]:
    """Return the objects directly inside a value of a tree."""
    if is_stored(value):
        function, args, state = reduced(value)
        # torch chooses the name of a storage's class, so it is left out.
        return [*args, state] if function.pickled_name[1] not in ("_rebuild_tensor_v2", "_rebuild_tensor") else []
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        made = [type(value)] if type(value) is not Opaque else []
        return [*made, parts.function, parts.args, parts.kwargs, parts.state, parts.items, parts.pairs, parts.setter]
    if is_a(value, dict):
        factory = value.default_factory if is_a(value, defaultdict) else None
        return [*value.keys(), *value.values(), *getattr(value, "__dict__", {}).values(), factory]
    if is_a(value, (list, tuple, set, frozenset)):
        return list(value)
    return []
