"""Operations on what stands at a path in the tree of a checkpoint: set, dropped, moved."""

from __future__ import annotations

import json
from typing import Any

from anemoi_ckpt_migrate.checkpoints.tensors import is_a
from anemoi_ckpt_migrate.operations import paths
from anemoi_ckpt_migrate.operations.base import Operation, operation, set_fields
from anemoi_ckpt_migrate.operations.paths import NoSuchPath, path_of, shown
from anemoi_ckpt_migrate.operations.structure import TreeOperation


def is_plain(value: Any) -> bool:
    """Tell whether a value can stand in a record as it is."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


class _AtPath(TreeOperation):
    """What is about one path."""

    path: tuple[Any, ...]

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))


@operation
class SetItem(_AtPath):
    """Set what stands at a path; a new key goes to the end.

    Parameters
    ----------
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys.
    value : object
        What: text, numbers, None, and lists and dicts of these.
    """

    path: tuple[Any, ...]
    value: Any

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Set it."""
        parent, key = paths.parent(tree, self.path), self.path[-1]
        if not paths.has(parent, key):
            paths.put(parent, key, _own(self.value))
            return [UnsetItem(self.path, self.value, False)]
        path, before = paths.spelled(tree, self.path), paths.get(parent, (key,))
        paths.put(parent, key, _own(self.value))
        if is_plain(before):
            return [UnsetItem(path, self.value, True, before)]
        kept.append(before)
        return [UnsetItem(path, self.value, True, None, len(kept) - 1)]


def _own(value: Any) -> Any:
    """Copy a value: what stands in the tree may be changed there."""
    return json.loads(json.dumps(value)) if is_plain(value) else value


def _is_still(now: Any, value: Any) -> bool:
    """Tell whether something is what was set; a record may have made a list of a tuple."""
    if is_a(now, dict) and isinstance(value, dict):
        return list(now) == list(value) and all(_is_still(now[key], value[key]) for key in value)
    if is_a(now, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(now) == len(value) and all(map(_is_still, now, value))
    return is_plain(now) and repr(now) == repr(value)


@operation
class UnsetItem(_AtPath):
    """Put back what stood where something was set, if that is still what was set."""

    written = False
    path: tuple[Any, ...]
    value: Any
    had: bool
    before: Any = None
    number: int | None = None

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Put it back."""
        parent, key = paths.parent(tree, self.path), self.path[-1]
        there = paths.has(parent, key)
        if not forced and not (there and _is_still(paths.get(tree, self.path), self.value)):
            raise NoSuchPath(f"{shown(self.path)} has changed since it was set; --discard-changes puts back the old")
        if self.had:
            paths.put(parent, key, _own(self.before) if self.number is None else kept[self.number])
        elif there:
            paths.take(parent, key)
        return []


@operation
class DropItem(_AtPath):
    """Take away what stands at a path; it is kept for the way back.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    """

    path: tuple[Any, ...]

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Take it away."""
        paths.get(tree, self.path)
        path = paths.spelled(tree, self.path)
        value, before = paths.take(paths.parent(tree, self.path), self.path[-1])
        kept.append(value)
        return [PutItem(path, len(kept) - 1, before, True)]


@operation
class PutItem(_AtPath):
    """Put back what was kept."""

    written = False
    path: tuple[Any, ...]
    number: int
    before: Any
    placed: bool

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Put it back, where it stood."""
        if self.placed and not forced and paths.stands(tree, self.path):
            raise NoSuchPath(f"{shown(self.path)} is there again; --discard-changes puts back the old")
        paths.put(paths.parent(tree, self.path), self.path[-1], kept[self.number], self.before, self.placed)
        return []


@operation
class MoveItem(TreeOperation):
    """Move what stands at a path to another, where nothing stands.

    Parameters
    ----------
    path, new : str or list
        As for `SetItem`. Under the same parent it keeps its place; else it goes to the end.
    """

    path: tuple[Any, ...]
    new: tuple[Any, ...]
    before: Any = None
    placed: bool = False

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path), new=path_of(self, "new", self.new))

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return MoveItem(self.new, self.path)

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Move it."""
        paths.get(tree, self.path)
        if self.new[: len(self.path)] == self.path:
            raise NoSuchPath(f"{shown(self.path)} cannot be moved into itself")
        parent, target = paths.parent(tree, self.path), paths.parent(tree, self.new)
        # On the way back, into a list, it goes between what stands there.
        if paths.stands(tree, self.new) if self.placed else paths.has(target, self.new[-1]):
            raise NoSuchPath(f"{shown(self.new)} is there already")
        path = paths.spelled(tree, self.path)
        value, before = paths.take(parent, self.path[-1])
        same = target is parent and not self.placed
        paths.put(target, self.new[-1], value, before if same else self.before, same or self.placed)
        return [MoveItem(self.new, path, before, True)]
