"""Operations that put placeholders for removed classes, and the originals back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anemoi_ckpt_migrate.operations.base import Operation, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.tree_operation import TreeOperation
from anemoi_ckpt_migrate.storage.pickle import placeholders
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName, class_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.tree.class_names import Name, covers, inner, spelled
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, Path, shown


@operation
class PutPlaceholders(TreeOperation):
    """Replace remaining objects of removed classes by placeholders, so that the file loads without these classes.

    Parameters
    ----------
    gone : list of str
        Patterns of removed names; see `class_names.covers`.
    """

    everywhere = True
    gone: tuple[str, ...]

    def __post_init__(self) -> None:
        set_fields(self, gone=names_of(self, "gone", self.gone))

    def inverse(self) -> Operation | None:
        """Return the operation that puts the originals back."""
        return ReplacePlaceholders(self.gone)

    def class_names(self) -> tuple[str, ...]:
        """Return the removed names, which a downgrade needs again, and the names that placeholders use."""
        return *self.gone, *map(spelled, placeholders.MADE_OF)

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Put the placeholders, and return the rollback."""
        found: dict[Name, None] = {}
        known: dict[Name, OpaqueName] = {}

        def swap(value: Any, path: Path, fixed: str) -> Any:
            name = _named(value)
            if name is None or not any(covers(pattern, name) for pattern in self.gone):
                return value
            if fixed:
                raise NoSuchPath(
                    f"{spelled(name)} was removed, but it is {fixed} in {_place(path)}, which cannot be a placeholder; "
                    "replace it in `migrate`"
                )
            found[name] = None
            if is_a(value, OpaqueName):
                return placeholders.of_name(name, known)
            if placeholders.stands_for(value) is None:
                placeholders.put(value, known)
            return value

        _swapped(tree, swap)
        return [ReplacePlaceholders(tuple(map(spelled, found)))] if found else []


@operation
class ReplacePlaceholders(TreeOperation):
    """Replace placeholders by the originals.

    Parameters
    ----------
    names : list of str
        Patterns of the original names.
    """

    written = False
    everywhere = True
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        set_fields(self, names=names_of(self, "names", self.names))

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Names of the classes whose placeholders it replaces."""
        return self.names

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Put the originals back, and return the inverse."""
        known: dict[Name, OpaqueName] = {}

        def swap(value: Any, path: Path, fixed: str) -> Any:
            name = placeholders.stands_for(value)
            if name is None or not any(covers(pattern, name) for pattern in self.names):
                return value
            return placeholders.take(value, known)

        _swapped(tree, swap)
        return [PutPlaceholders(self.names)]


def standing(tree: Any, stash: Any) -> dict[str, list[str]]:
    """Return the paths of placeholders in a tree and a stash, by original name; not those inside other placeholders."""
    found: dict[str, list[str]] = {}

    def note(value: Any, path: Path, fixed: str) -> Any:
        name = placeholders.stands_for(value)
        if name is not None and placeholders.KEY not in path:
            found.setdefault(spelled(name), []).append(_place(path))
        return value

    _swapped([tree, stash], note)
    return found


def _named(value: Any) -> Name | None:
    """Return the name of a class or function, of the class of an object, or of the original of a placeholder."""
    if is_a(value, OpaqueName):
        return value.pickled_name
    return (placeholders.stands_for(value) or class_of(value)) if is_a(value, Opaque) else None


def _place(path: Path) -> str:
    """Return a path as text; its first key tells the checkpoint from the stashes."""
    holder, keys = path[0], path[1:]
    if holder == 1:
        return f"the stash of {keys[0]}"
    if holder == 2:
        return "the stash of this revision"
    return shown(keys) or "the checkpoint itself"


Swap = Callable[[Any, Path, str], Any]
"""Returns the replacement of a value, given its path and the reason why it cannot be replaced (empty if it can)."""


def _swapped(tree: Any, swap: Swap) -> None:
    """Replace values everywhere in a tree; the outermost object stays."""
    try:
        _Swapping(swap).of(tree, (), "")
    except RecursionError:
        raise NoSuchPath("the checkpoint is nested too deeply") from None


class _Swapping:
    """Replaces values everywhere in a tree, each once; containers are changed in place where possible.

    Parameters
    ----------
    swap : callable
        See `Swap`.
    """

    def __init__(self, swap: Swap) -> None:
        self._swap = swap
        # Stores the values too: an id is unique only while its object exists.
        self._seen: dict[tuple[int, bool], tuple[Any, Any]] = {}

    def of(self, value: Any, path: Path, fixed: str) -> Any:
        """Return the replacement of a value, with replacements in its contents."""
        if is_a(value, (str, int, float, bytes, type(None))) or is_real(value):
            return value
        key = (id(value), bool(fixed))
        if key in self._seen:
            return self._seen[key][1]
        made = self._swap(value, path, fixed)
        self._seen[key] = (value, made)
        if is_stored(made):
            self._all(inner(made), path, "part of a tensor")
        elif is_a(made, Opaque):
            self._opaque(made, path, fixed)
        elif is_a(made, dict):
            self._dict(made, path)
        elif is_a(made, (set, frozenset)):
            self._all(made, path, "a member of a set")
        elif type(made) is list:
            made[:] = self._items(made, path, fixed)
        elif type(made) is tuple:
            items = self._items(made, path, fixed)
            if any(one is not other for one, other in zip(items, made, strict=True)):
                made = tuple(items)
                self._seen[key] = (value, made)
        return made

    def _all(self, values: Iterable[Any], path: Path, fixed: str) -> None:
        for value in values:
            self.of(value, path, fixed)

    def _items(self, value: Sequence[Any], path: Path, fixed: str) -> list[Any]:
        found = []
        for place, item in enumerate(value):
            found.append(self.of(item, (*path, place), fixed))
        return found

    def _dict(self, value: dict[Any, Any], path: Path) -> None:
        self._all(value, path, "a key")
        for holder in (value, getattr(value, "__dict__", {})):
            for key, item in holder.items():
                made = self.of(item, (*path, key), "")
                if made is not item:
                    holder[key] = made
        if is_a(value, defaultdict):
            value.default_factory = self.of(value.default_factory, path, "")

    def _opaque(self, value: Opaque, path: Path, fixed: str) -> None:
        parts = value.__opaque_parts__
        for name in ("function", "args", "kwargs", "setter", "state", "items", "pairs"):
            setattr(parts, name, self.of(getattr(parts, name), path, fixed if name == "args" else ""))
