"""Paths into the tree of a checkpoint: dict keys, list indices, attributes and items of opaque objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_stored
from anemoi_ckpt_migrate.tree import config_objects

Path = tuple[Any, ...]


class NoSuchPath(Exception):
    """The path does not exist; the message names the first missing part."""


def path_of(kind: object, what: str, value: Any) -> Path:
    """Parse a path: text with dots between the keys, or a list where a key has dots or is not text.

    Raises
    ------
    BadOperation
        The value is not a path.
    """
    keys = tuple(value.split(".")) if isinstance(value, str) else value
    right = isinstance(keys, (tuple, list)) and keys and all(isinstance(key, (str, int)) and key != "" for key in keys)
    if right and keys[0] == KEY:
        raise BadOperation(f"{type(kind).__name__}: {KEY} is the place of the record of the checkpoint")
    if not right:
        raise BadOperation(
            f"{type(kind).__name__}: {what} must be a path such as a.b.c, or a list of keys, not {value!r:.60}"
        )
    return tuple(keys)


ANY = "*"


def matching(tree: Any, path: Path) -> list[Path]:
    """Return the paths that match a path with ``*`` in place of some keys. They exist up to the last ``*``."""
    if ANY not in path:
        return [path]
    place = path.index(ANY)
    try:
        inner = keys(get(tree, path[:place]))
    except NoSuchPath:
        return []
    rest = path[place + 1 :]
    return [found for key in inner for found in matching(tree, (*path[:place], key, *rest))]


def filled(pattern: Path, path: Path, new: Path) -> Path:
    """Fill each ``*`` in `new` with the key of `path` that the ``*`` of `pattern` matched, in order."""
    values = iter([key for wanted, key in zip(pattern, path, strict=True) if wanted == ANY])
    return tuple(next(values) if key == ANY else key for key in new)


def keys(value: Any) -> Iterator[Any]:
    """Return the keys or indices of a container; none for any other value."""
    holder = _holder(value, ANY)
    return iter(range(len(holder)) if is_a(holder, (list, tuple)) else list(holder or ()))


def shown(path: Sequence[Any]) -> str:
    """Format a path with dots."""
    return ".".join(map(str, path))


def get(tree: Any, path: Sequence[Any]) -> Any:
    """Return the value at a path.

    Raises
    ------
    NoSuchPath
        The path does not exist.
    """
    for place, key in enumerate(path):
        if not has(tree, key):
            raise NoSuchPath(f"there is no {shown(path[: place + 1])}")
        tree = _holder(tree, key)[_key(tree, key)]
    return tree


def there(tree: Any, path: Sequence[Any]) -> bool:
    """Return whether a path exists."""
    try:
        get(tree, path)
    except NoSuchPath:
        return False
    return True


def holds(value: Any) -> bool:
    """Return whether a value can hold items under keys."""
    return _holder(value, ANY) is not None


def parent(tree: Any, path: Sequence[Any]) -> Any:
    """Return the parent of a path. Errors are those of `get`."""
    return get(tree, path[:-1])


def has(parent: Any, key: Any) -> bool:
    """Return whether a value has a key, an index or an attribute."""
    holder = _holder(parent, key)
    key = _key(parent, key)
    if holder is None:
        return False
    return 0 <= key < len(holder) if is_a(holder, (list, tuple)) and isinstance(key, int) else _in(key, holder)


def _in(key: Any, holder: Any) -> bool:
    return not is_a(holder, (list, tuple)) and key in holder


def spelled(tree: Any, path: Sequence[Any]) -> Path:
    """Return a path with the keys of the tree itself, such as the number 0 for the text "0"."""
    found = []
    for key in path:
        found.append(_key(tree, key))
        tree = _holder(tree, key)[found[-1]]
    return tuple(found)


def stands(tree: Any, path: Sequence[Any]) -> bool:
    """Return whether a dict holds this very key, so that a new value would overwrite the old one; False for lists."""
    holder = _holder(get(tree, path[:-1]), path[-1])
    return is_a(holder, dict) and path[-1] in holder


def put(parent: Any, key: Any, value: Any, before: Any = None, placed: bool = False) -> None:
    """Set the value under a key. A new key goes to the end, or behind `before`.

    Raises
    ------
    NoSuchPath
        The parent cannot take the value.
    """
    holder, own = _holder(parent, key), key if placed and not is_a(parent, (list, Opaque)) else _key(parent, key)
    _check_single(parent)
    value = config_objects.fitting(value, parent, own)
    if holder is None or is_a(holder, tuple):
        raise NoSuchPath(f"a {type(parent).__name__} takes no items")
    if is_a(holder, list):
        if placed:
            holder.insert(own, value)
        elif isinstance(own, int) and 0 <= own < len(holder):
            holder[own] = value
        else:
            raise NoSuchPath(f"the list has no index {key}")
    elif placed and own not in holder:
        items = list(holder.items())
        index = next((place + 1 for place, (name, _) in enumerate(items) if name == before), 0)
        items.insert(index, (own, value))
        holder.clear()
        holder.update(items)
    else:
        holder[own] = value


def set_new(parent: Any, key: Any, value: Any) -> None:
    """Set the value under a key to new plain dicts and lists, converted to the class of their parent.

    Raises
    ------
    NoSuchPath
        The parent cannot take the value.
    """
    put(parent, key, config_objects.nested(value, parent))


def take(parent: Any, key: Any) -> tuple[Any, Any]:
    """Remove the value under a key; return it and the preceding key."""
    holder, own = _holder(parent, key), _key(parent, key)
    _check_single(parent)
    if is_a(holder, tuple):
        raise NoSuchPath("items of a tuple cannot be removed")
    if is_a(holder, list):
        return holder.pop(own), None
    keys = list(holder)
    place = keys.index(own)
    return holder.pop(own), keys[place - 1] if place else None


def _check_single(parent: Any) -> None:
    """Check that an object does not store keys twice, as attributes and as items: both would have to change."""
    parts = parent.__opaque_parts__ if is_a(parent, Opaque) else None
    if parts is not None and any(key in parts.pairs for attributes in parts.attributes() for key in attributes):
        name = config_objects.named(parent)
        raise NoSuchPath(f"a {name} also stores each item as an attribute; convert it to a dict with ConvertItem first")


def _holder(parent: Any, key: Any) -> Any:
    """Return the container in which a key of an object is looked up."""
    if is_a(parent, Opaque):
        inner = config_objects.content(parent, key)
        if inner is not None and not (is_a(key, str) and key in parent.__opaque_parts__.attributes()[0]):
            return inner
        parts = parent.__opaque_parts__
        for attributes in parts.attributes():
            if key in attributes:
                return attributes
        if key in parts.pairs:
            return parts.pairs
        if isinstance(_number(key), int) and parts.items:
            return parts.items
        return parts.attributes()[0] if parts.attributes() else parts.pairs
    if is_a(parent, (dict, list, tuple)):
        return parent
    if is_stored(parent):
        return None
    return vars(parent) if hasattr(parent, "__dict__") and not is_a(parent, type) else None


def _key(parent: Any, key: Any) -> Any:
    holder = _holder(parent, key)
    if is_a(holder, (list, tuple)):
        return _number(key)
    if is_a(holder, dict) and key not in holder and _number(key) in holder:
        return _number(key)
    return key


def _number(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


KEY = "ckpt_migrate"
"""The key of the record in a checkpoint."""
