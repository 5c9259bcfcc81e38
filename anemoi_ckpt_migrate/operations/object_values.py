"""Copies of objects in the tree, and comparison with them; tensors are shared, and compared by their memory."""

from __future__ import annotations

import copy
from typing import Any

from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.tensor_values import memory_of
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName, class_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.class_names import inner, reachable
from anemoi_ckpt_migrate.tree.paths import NoSuchPath


def copied(value: Any) -> Any:
    """Return a copy of a value, with all that it holds except tensors: these are the same in both.

    Raises
    ------
    NoSuchPath
        The value is nested too deeply.
    """
    shared = {id(each): each for holder in reachable([value]) for each in inner(holder) if is_tensor(each)}
    try:
        return copy.deepcopy(value, shared)
    except RecursionError:
        raise NoSuchPath("it is nested too deeply to be copied") from None


def same_value(one: Any, other: Any) -> bool:
    """Return whether two values are equal: objects by their class and contents, tensors by their memory."""
    return _same(one, other, set())


def _same(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if is_tensor(one) or is_tensor(other):
        return is_tensor(one) and is_tensor(other) and memory_of(one) == memory_of(other)
    if is_a(one, OpaqueName) and is_a(other, OpaqueName):
        return one.pickled_name == other.pickled_name
    if (id(one), id(other)) in seen:
        return True  # an object that holds itself
    if is_a(one, (Opaque, dict, list, tuple)):
        seen.add((id(one), id(other)))
    if is_a(one, Opaque) and is_a(other, Opaque):
        mine, its = one.__opaque_parts__, other.__opaque_parts__
        parts = ("args", "kwargs", "state", "items", "pairs")
        return class_of(one) == class_of(other) and all(
            _same(getattr(mine, part), getattr(its, part), seen) for part in parts
        )
    if type(one) is not type(other):
        return False
    if is_a(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(
            _same_key(key, its) and _same(value, its_value, seen) for (key, value), (its, its_value) in pairs
        )
    if is_a(one, (list, tuple)):
        return len(one) == len(other) and all(_same(*pair, seen) for pair in zip(one, other, strict=True))
    return repr(one) == repr(other)


def _same_key(one: Any, other: Any) -> bool:
    """Return whether two keys are equal; a class is a stand-in of its own in each tree."""
    if is_a(one, OpaqueName) and is_a(other, OpaqueName):
        return one.pickled_name == other.pickled_name
    return bool(one == other)
