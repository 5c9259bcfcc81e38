"""Operations on values at a path in the tree of a checkpoint: set, drop, move."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, operation, set_fields
from anemoi_ckpt_migrate.operations.tree_operation import TreeOperation
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, path_of, shown


def new_path_of(kind: Operation, path: paths.Path, new: Any) -> paths.Path:
    """Read a target path: each ``*`` in it stands for the same key as in the old path.

    Raises
    ------
    BadOperation
        It is not a path, or has another number of ``*``.
    """
    found = path_of(kind, "new", new)
    if found.count(paths.ANY) != path.count(paths.ANY):
        raise BadOperation(f"{type(kind).__name__}: path and new must have the same number of *")
    return found


def is_plain(value: Any) -> bool:
    """Return whether a record can contain a value as it is."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


UNKNOWN = ...
"""Stands for a default that an author does not give, since None is a value."""


class AtPath(TreeOperation):
    """Base class of operations on one path, or on all that a path with ``*`` matches."""

    path: tuple[Any, ...]

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))
        for flag in ("overwrite", "optional"):
            if hasattr(self, flag):
                flag_of(self, flag, getattr(self, flag))


class AtEachPlace(AtPath):
    """Base class of operations at each match of a path; an optional one may have no match."""

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Change each match, and return the rollback."""
        optional = getattr(self, "optional", False)
        places = paths.matching(tree, self.path)
        if optional:
            places = [place for place in places if self.fits(tree, place)]
        elif not places:
            raise NoSuchPath(f"there is no {shown(self.path)}")
        undo: list[Operation] = []
        for place in places:
            undo[:0] = self.at(tree, place, stash)
        return undo

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Return whether an optional operation applies to a place."""
        return paths.there(tree, path)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Change one place, and return the rollback."""
        raise NotImplementedError


@operation
class SetItem(AtEachPlace):
    """Set the value at a path; a new key goes to the end.

    Parameters
    ----------
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys; ``*`` stands for any key. Paths go into configurations of
        OmegaConf and pydantic as they go into dicts.
    value : object
        The value: text, numbers, None, and lists and dicts of these.
    overwrite : bool
        Whether to replace an existing value; otherwise that stays.
    optional : bool
        Whether the parent of the path may be missing.
    """

    path: tuple[Any, ...]
    value: Any
    overwrite: bool = True
    optional: bool = False

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def check_written(self) -> None:
        """Refuse a value that the rollback could not recognise in the checkpoint."""
        _check_value("SetItem: value", self.value)

    def inverse(self) -> Operation | None:
        """Return the operation that removes the value; None with `overwrite`, which may replace an old value."""
        return None if self.overwrite else UnsetItem(self.path, self.value, False, optional=True)

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Return whether the parent of the path exists and can contain a key."""
        return paths.there(tree, path[:-1]) and paths.holds(paths.parent(tree, path))

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Set the value at one place, and return the rollback."""
        parent, key = paths.parent(tree, path), path[-1]
        if not paths.has(parent, key):
            paths.set_new(parent, key, _own(self.value))
            return [UnsetItem(path, self.value, False, optional=self.optional)]
        if not self.overwrite:
            return []
        path, before = paths.spelled(tree, path), paths.get(parent, (key,))
        paths.set_new(parent, key, _own(self.value))
        if is_plain(before):
            return [UnsetItem(path, self.value, True, before, optional=self.optional)]
        stash.append(config_objects.detached(before, parent))
        return [UnsetItem(path, self.value, True, None, len(stash) - 1, self.optional)]


def _check_value(what: str, value: Any) -> None:
    odd = next(_odd_values(value), None)
    if odd is not None:
        raise BadOperation(f"{what} holds a {type(odd).__name__}; use a function, op.Run(migrate, rollback)")


def _odd_values(value: Any) -> Iterator[Any]:
    """Give the values in a value that are neither text, numbers, None, nor lists and dicts."""
    if type(value) is dict:
        yield from (odd for each in value.values() for odd in _odd_values(each))
    elif type(value) in (list, tuple):
        yield from (odd for each in value for odd in _odd_values(each))
    elif value is not None and type(value) not in (str, int, float, bool):
        yield value


def _own(value: Any) -> Any:
    """Return a copy of a value, since later changes to the tree must not reach the operation."""
    return json.loads(json.dumps(value)) if is_plain(value) else value


def _is_still(now: Any, value: Any) -> bool:
    """Return whether a value is still the one that was set; a record may have turned tuples into lists."""
    now = config_objects.plain(now)
    if is_a(now, dict) and isinstance(value, dict):
        return list(now) == list(value) and all(_is_still(now[key], value[key]) for key in value)
    if is_a(now, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(now) == len(value) and all(map(_is_still, now, value))
    return is_plain(now) and repr(now) == repr(value)


@operation
class UnsetItem(AtPath):
    """Restore the old value at a path where `SetItem` set one, if that has not changed."""

    written = False
    path: tuple[Any, ...]
    value: Any
    had: bool
    before: Any = None
    number: int | None = None
    optional: bool = False

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Restore the old value; a dict that was added for other values goes only if it is empty."""
        for path in paths.matching(tree, self.path):
            there = paths.there(tree, path)
            if self.optional and not there:
                continue
            now = paths.get(tree, path) if there else None
            if (
                self.value == {}
                and not self.had
                and there
                and config_objects.plain(now) not in ({}, None)
                and not discard_changes
            ):
                continue
            if not discard_changes and not (there and _is_still(now, self.value)):
                raise NoSuchPath(f"{shown(path)} has changed since it was set; --discard-changes restores the old")
            parent, key = paths.parent(tree, path), path[-1]
            if self.had:
                paths.put(parent, key, _own(self.before) if self.number is None else stash[self.number])
            elif there:
                paths.take(parent, key)
        return []


@operation
class DropItem(AtEachPlace):
    """Remove the value at a path; it is stashed for the downgrade.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    optional : bool
        Whether the value may be missing. A downgrade of a stamped checkpoint then works without it.
    default : object, optional
        The value that a downgrade of a stamped checkpoint sets, if older code needs one: text, numbers, None, and
        lists and dicts of these.

    Examples
    --------
    >>> from anemoi_ckpt_migrate import op
    >>> op.DropItem("hyper_parameters.cache", default={}).inverse()
    SetItem("hyper_parameters.cache", {}, overwrite=False)
    """

    path: tuple[Any, ...]
    optional: bool = False
    default: Any = UNKNOWN

    def __hash__(self) -> int:
        return hash((self.path, repr(self.default)))

    def check_written(self) -> None:
        """Refuse a default that `SetItem` could not set."""
        if self.default is not UNKNOWN:
            _check_value("DropItem: default", self.default)

    def inverse(self) -> Operation | None:
        """Return the operation that sets the default; without one, `NoOperation` if it is optional, else None."""
        if self.default is not UNKNOWN:
            return SetItem(self.path, self.default, overwrite=False, optional=self.optional)
        return NoOperation() if self.optional else None

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Remove the value at one place, and return the rollback."""
        paths.get(tree, path)
        path = paths.spelled(tree, path)
        parent = paths.parent(tree, path)
        value, before = paths.take(parent, path[-1])
        stash.append(config_objects.detached(value, parent))
        return [RestoreItem(path, len(stash) - 1, before, True, self.optional)]


@operation
class RestoreItem(AtPath):
    """Put back a stashed value."""

    written = False
    path: tuple[Any, ...]
    number: int
    before: Any
    placed: bool
    optional: bool = False

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Put the value back at its old position."""
        if self.optional and not paths.there(tree, self.path[:-1]):
            return []
        if self.placed and not discard_changes and paths.stands(tree, self.path):
            raise NoSuchPath(f"{shown(self.path)} exists again; --discard-changes restores the old")
        paths.put(paths.parent(tree, self.path), self.path[-1], stash[self.number], self.before, self.placed)
        return []


@operation
class MoveItem(AtEachPlace):
    """Move the value at a path to another path, which must be free.

    Parameters
    ----------
    path, new : str or list
        As for `SetItem`. Each ``*`` of `new` stands for the same key as in `path`, in order. Under the same parent
        the value keeps its position; otherwise it goes to the end, and missing dicts are created.
    optional : bool
        Whether the value may be missing.
    """

    noted = ("before", "placed")
    path: tuple[Any, ...]
    new: tuple[Any, ...]
    before: Any = None
    placed: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, new=new_path_of(self, self.path, self.new))

    def inverse(self) -> Operation | None:
        """Return the inverse: `path` and `new` exchanged."""
        return MoveItem(self.new, self.path, optional=self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Move the value from one place, and return the rollback."""
        new = paths.filled(self.path, path, self.new)
        paths.get(tree, path)
        if new[: len(path)] == path:
            raise NoSuchPath(f"{shown(path)} cannot be moved into itself")
        made = () if self.placed else _make(tree, new[:-1])
        parent, target = paths.parent(tree, path), paths.parent(tree, new)
        # A downgrade inserts it between the items of a list.
        if paths.stands(tree, new) if self.placed else paths.has(target, new[-1]):
            raise NoSuchPath(f"{shown(new)} already exists")
        path = paths.spelled(tree, path)
        value, before = paths.take(parent, path[-1])
        same = target is parent and not self.placed
        paths.put(target, new[-1], value, before if same else self.before, same or self.placed)
        return [MoveItem(new, path, before, True, self.optional), *made]


def _make(tree: Any, path: tuple[Any, ...]) -> list[Operation]:
    """Create the missing dicts of a path, and return the operations that remove them once they are empty."""
    undo: list[Operation] = []
    for length in range(1, len(path) + 1):
        if not paths.there(tree, path[:length]):
            paths.set_new(paths.parent(tree, path[:length]), path[length - 1], {})
            undo.insert(0, UnsetItem(path[:length], {}, False, optional=True))
    return undo


@operation
class NoOperation(TreeOperation):
    """Do nothing: the rollback of operations that need none."""

    written = False

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Return an empty rollback."""
        return []
