"""Further operations on items: copy, nest, and replace text by a table."""

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
    """Copy the value at a path to another path: numbers, text, and lists and dicts of these.

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
        """Return `NoOperation`: a checkpoint that was saved with both values keeps them."""
        return NoOperation()

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Copy the value from one place, and return the rollback."""
        value = config_objects.plain(paths.get(tree, path))
        if not is_plain(value):
            raise NoSuchPath(f"{shown(path)} is a {config_objects.named(value)}, which cannot be copied")
        new = paths.filled(self.path, path, self.new)
        setting = SetItem(new, value, self.overwrite, self.optional)
        return [] if self.optional and not setting.fits(tree, new) else setting.at(tree, new, stash)


@operation
class NestItem(AtEachPlace):
    """Move the value at a path one or several levels down: ``{"lr": 1}`` becomes ``{"groups": {"all": {"lr": 1}}}``.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    under : str or list
        The new keys above the value: ``"groups.all"``.
    optional : bool
        Whether the value may be missing.
    """

    path: tuple[Any, ...]
    under: tuple[Any, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, under=path_of(self, "under", self.under))

    def inverse(self) -> Operation | None:
        """Return the `UnnestItem` that undoes it."""
        return UnnestItem(self.path, self.under, self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Nest the value at one place, and return the rollback."""
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
    """Move a value up that is alone under some keys: the inverse of `NestItem`, with the same parameters."""

    def inverse(self) -> Operation | None:
        """Return the `NestItem` that undoes it."""
        return NestItem(self.path, self.under, self.optional)

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Move the value up at one place, and return the rollback."""
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
    """Replace text at a path by a table, for example the names of moved classes.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    values : dict of str to str
        New text by old text. Other text stays if `optional`; otherwise it is an error.
    optional : bool
        Whether the value may be missing, or not in the table.
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
        """Return the reversed table. With equal new texts, these stay if `optional`; otherwise it returns None."""
        new = list(self.values.values())
        back = {value: old for old, value in self.values.items() if new.count(value) == 1}
        if len(back) < len(self.values) and not self.optional:
            return None
        return MapItem(self.path, back, self.optional)

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Return whether the value at a path is in the table."""
        return paths.there(tree, path) and self._new(paths.get(tree, path)) is not None

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Replace the text at one place, and return the rollback."""
        new = self._new(paths.get(tree, path))
        if new is None:
            raise NoSuchPath(f"{shown(path)} is not one of {', '.join(self.values)}")
        return SetItem(path, new, True, self.optional).at(tree, path, stash)

    def _new(self, value: Any) -> str | None:
        value = config_objects.bare(value)
        return self.values.get(value) if is_a(value, str) else None
