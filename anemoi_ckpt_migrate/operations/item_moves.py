"""Operations on items, beyond setting and moving: copied, put a level deeper, replaced by a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, operation, set_fields
from anemoi_ckpt_migrate.operations.items import AtEachPlace, NoOperation, SetItem, is_plain, new_path_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, path_of, shown


@operation
class CopyItem(AtEachPlace):
    """Set what stands at a path to what stands at another: numbers, text, and lists and dicts of these.

    Parameters
    ----------
    path, new : str or list
        As for `MoveItem`.
    overwrite, optional : bool
        As for `SetItem`.
    """

    path: tuple[Any, ...]
    new: tuple[Any, ...]
    overwrite: bool = True
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, new=new_path_of(self, self.path, self.new))

    def inverse(self) -> Operation | None:
        """Return what is done on the way back of a checkpoint that was made with both: nothing."""
        return NoOperation()

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Copy it from one place."""
        value = config_objects.plain(paths.get(tree, path))
        if not is_plain(value):
            raise NoSuchPath(f"{shown(path)} is a {config_objects.named(value)}, of which no copy is made")
        new = paths.filled(self.path, path, self.new)
        setting = SetItem(new, value, self.overwrite, self.optional)
        return [] if self.optional and not setting.fits(tree, new) else setting.at(tree, new, stash)


@operation
class NestItem(AtEachPlace):
    """Put what stands at a path a level deeper, or several: ``{"lr": 1}`` becomes ``{"groups": {"all": {"lr": 1}}}``.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    under : str or list
        Under which keys: ``"groups.all"``.
    optional : bool
        Whether nothing is wrong if it is not there.
    """

    path: tuple[Any, ...]
    under: tuple[Any, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, under=path_of(self, "under", self.under))

    def inverse(self) -> Operation | None:
        """Return what takes it out again."""
        return UnnestItem(self.path, self.under, self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Put it deeper at one place."""
        parent, value = paths.parent(tree, path), paths.get(tree, path)
        path = paths.spelled(tree, path)
        paths.set_new(parent, path[-1], {})
        for key in self.under[:-1]:
            parent, path = paths.get(tree, path), (*path, key)
            paths.set_new(parent, key, {})
        paths.put(paths.get(tree, path), self.under[-1], value)
        return [UnnestItem(path[: len(path) - len(self.under) + 1], self.under, self.optional)]


@operation
class UnnestItem(NestItem):
    """Take out what is alone under some keys: the other way around than `NestItem`, whose parameters it has."""

    def inverse(self) -> Operation | None:
        """Return what puts it back."""
        return NestItem(self.path, self.under, self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Take it out at one place."""
        if self.optional and not paths.there(tree, (*path, *self.under)):
            return []
        value = paths.get(tree, path)
        for place, key in enumerate(self.under):
            others = [name for name in paths.keys(value) if name != key]
            if others:
                raise NoSuchPath(f"{shown((*path, *self.under[:place]))} holds {', '.join(map(str, others))} too")
            value = paths.get(value, (key,))
        path = paths.spelled(tree, path)
        paths.put(paths.parent(tree, path), path[-1], value)
        return [NestItem(path, self.under, self.optional)]


@operation
class MapItem(AtEachPlace):
    """Replace text that stands at a path by a table, as classes that are named there and have moved.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    values : dict of str to str
        By what each is replaced; what is not in it stays.
    optional : bool
        Whether nothing is wrong if there is none of these.
    """

    path: tuple[Any, ...]
    values: Mapping[str, str]
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.values.items() if isinstance(self.values, Mapping) else [(None, None)]
        if not all(isinstance(old, str) and isinstance(new, str) for old, new in pairs):
            raise BadOperation(f"MapItem: values must be a dict of text to text, not {self.values!r:.60}")

    def __hash__(self) -> int:
        return hash((self.path, repr(self.values)))

    def inverse(self) -> Operation | None:
        """Return it the other way around; what two became stays, if it is optional, and has no way back otherwise."""
        new = list(self.values.values())
        back = {value: old for old, value in self.values.items() if new.count(value) == 1}
        if len(back) < len(self.values) and not self.optional:
            return None
        return MapItem(self.path, back, self.optional)

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Tell whether there is something to be replaced."""
        return paths.there(tree, path) and self._new(paths.get(tree, path)) is not None

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Replace it at one place."""
        new = self._new(paths.get(tree, path))
        if new is None:
            raise NoSuchPath(f"{shown(path)} is none of {', '.join(self.values)}")
        return SetItem(path, new, True, self.optional).at(tree, path, stash)

    def _new(self, value: Any) -> str | None:
        value = config_objects.bare(value)
        return self.values.get(value) if is_a(value, str) else None
