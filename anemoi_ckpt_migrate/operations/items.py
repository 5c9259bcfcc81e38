"""Operations on what stands at a path in the tree of a checkpoint: set, dropped, moved."""

from __future__ import annotations

import json
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, operation, set_fields
from anemoi_ckpt_migrate.operations.tree_operation import TreeOperation
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, path_of, shown


def new_path_of(kind: Operation, path: paths.Path, new: Any) -> paths.Path:
    """Read the path to which something goes: each ``*`` in it is what that of the old path stands for.

    Raises
    ------
    BadOperation
        It is none, or has more of them, or less.
    """
    found = path_of(kind, "new", new)
    if found.count(paths.ANY) != path.count(paths.ANY):
        raise BadOperation(f"{type(kind).__name__}: path and new must have the same number of *")
    return found


def is_plain(value: Any) -> bool:
    """Tell whether a value can stand in a record as it is."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


class AtPath(TreeOperation):
    """What is about one path, or about all that a path with ``*`` stands for."""

    path: tuple[Any, ...]

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))
        for flag in ("overwrite", "optional"):
            if hasattr(self, flag):
                flag_of(self, flag, getattr(self, flag))


class AtEachPlace(AtPath):
    """What is done at each place that a path stands for; what is optional may be nowhere."""

    def change(self, tree: Any, stash: list[Any], forced: bool = False) -> list[Operation]:
        """Do it everywhere."""
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
        """Tell whether there is something to be done at a place."""
        return paths.there(tree, path)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Change one place, and return what undoes it."""
        raise NotImplementedError


@operation
class SetItem(AtEachPlace):
    """Set what stands at a path; a new key goes to the end.

    Parameters
    ----------
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys; ``*`` stands for any key. Configurations of OmegaConf and pydantic
        are looked into as dicts are.
    value : object
        What: text, numbers, None, and lists and dicts of these.
    overwrite : bool
        Whether what stands there already gives way to it; otherwise that stays.
    optional : bool
        Whether nothing is wrong if there is nothing to put it into.
    """

    path: tuple[Any, ...]
    value: Any
    overwrite: bool = True
    optional: bool = False

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def inverse(self) -> Operation | None:
        """Return what takes it away again, if it cannot have given something else its place."""
        return None if self.overwrite else UnsetItem(self.path, self.value, False, optional=True)

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Tell whether there is something to put it into."""
        return paths.there(tree, path[:-1]) and paths.holds(paths.parent(tree, path))

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Set it at one place."""
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


def _own(value: Any) -> Any:
    """Copy a value: what stands in the tree may be changed there."""
    return json.loads(json.dumps(value)) if is_plain(value) else value


def _is_still(now: Any, value: Any) -> bool:
    """Tell whether something is what was set; a record may have made a list of a tuple."""
    now = config_objects.plain(now)
    if is_a(now, dict) and isinstance(value, dict):
        return list(now) == list(value) and all(_is_still(now[key], value[key]) for key in value)
    if is_a(now, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(now) == len(value) and all(map(_is_still, now, value))
    return is_plain(now) and repr(now) == repr(value)


@operation
class UnsetItem(AtPath):
    """Put back what stood where something was set, if that is still what was set."""

    written = False
    path: tuple[Any, ...]
    value: Any
    had: bool
    before: Any = None
    number: int | None = None
    optional: bool = False

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def change(self, tree: Any, stash: list[Any], forced: bool = False) -> list[Operation]:
        """Put it back; what was made to hold other things goes only when it holds none."""
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
                and not forced
            ):
                continue
            if not forced and not (there and _is_still(now, self.value)):
                raise NoSuchPath(f"{shown(path)} has changed since it was set; --discard-changes puts back the old")
            parent, key = paths.parent(tree, path), path[-1]
            if self.had:
                paths.put(parent, key, _own(self.before) if self.number is None else stash[self.number])
            elif there:
                paths.take(parent, key)
        return []


@operation
class DropItem(AtEachPlace):
    """Take away what stands at a path; it is kept for the way back.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    optional : bool
        Whether nothing is wrong if it is not there; then a checkpoint that was stamped goes back without it.
    """

    path: tuple[Any, ...]
    optional: bool = False

    def inverse(self) -> Operation | None:
        """Return what is done on the way back of a checkpoint that never had it: nothing, if it may do without."""
        return NoOperation() if self.optional else None

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Take it away at one place."""
        paths.get(tree, path)
        path = paths.spelled(tree, path)
        parent = paths.parent(tree, path)
        value, before = paths.take(parent, path[-1])
        stash.append(config_objects.detached(value, parent))
        return [RestoreItem(path, len(stash) - 1, before, True, self.optional)]


@operation
class RestoreItem(AtPath):
    """Put back what was kept."""

    written = False
    path: tuple[Any, ...]
    number: int
    before: Any
    placed: bool
    optional: bool = False

    def change(self, tree: Any, stash: list[Any], forced: bool = False) -> list[Operation]:
        """Put it back, where it stood."""
        if self.optional and not paths.there(tree, self.path[:-1]):
            return []
        if self.placed and not forced and paths.stands(tree, self.path):
            raise NoSuchPath(f"{shown(self.path)} is there again; --discard-changes puts back the old")
        paths.put(paths.parent(tree, self.path), self.path[-1], stash[self.number], self.before, self.placed)
        return []


@operation
class MoveItem(AtEachPlace):
    """Move what stands at a path to another, where nothing stands.

    Parameters
    ----------
    path, new : str or list
        As for `SetItem`. Each ``*`` of `new` is what that of `path` stands for, in order. Under the same parent
        it keeps its place; else it goes to the end, in dicts that are made if they are not there.
    optional : bool
        Whether nothing is wrong if it is not there.
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
        """Return it the other way around."""
        return MoveItem(self.new, self.path, optional=self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Move it from one place."""
        new = paths.filled(self.path, path, self.new)
        paths.get(tree, path)
        if new[: len(path)] == path:
            raise NoSuchPath(f"{shown(path)} cannot be moved into itself")
        made = () if self.placed else _make(tree, new[:-1])
        parent, target = paths.parent(tree, path), paths.parent(tree, new)
        # On the way back, into a list, it goes between what stands there.
        if paths.stands(tree, new) if self.placed else paths.has(target, new[-1]):
            raise NoSuchPath(f"{shown(new)} is there already")
        path = paths.spelled(tree, path)
        value, before = paths.take(parent, path[-1])
        same = target is parent and not self.placed
        paths.put(target, new[-1], value, before if same else self.before, same or self.placed)
        return [MoveItem(new, path, before, True, self.optional), *made]


def _make(tree: Any, path: tuple[Any, ...]) -> list[Operation]:
    """Make the dicts that are missing on the way to a path, and return what takes them away when they are empty."""
    undo: list[Operation] = []
    for length in range(1, len(path) + 1):
        if not paths.there(tree, path[:length]):
            paths.set_new(paths.parent(tree, path[:length]), path[length - 1], {})
            undo.insert(0, UnsetItem(path[:length], {}, False, optional=True))
    return undo


@operation
class NoOperation(TreeOperation):
    """Do nothing: what undoes something that a checkpoint may do without."""

    written = False

    def change(self, tree: Any, stash: list[Any], forced: bool = False) -> list[Operation]:
        """Do so."""
        return []
