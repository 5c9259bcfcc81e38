"""Read and change values in a checkpoint by path, in migration scripts: ``from anemoi_ckpt_migrate import items``.

Configurations of OmegaConf and pydantic, and custom dict classes, are treated as dicts. Their classes need not be
importable. A value that you put into a configuration becomes part of it.

>>> from anemoi_ckpt_migrate import items
>>> ckpt = {"hyper_parameters": {"config": {"lr": 1}}}
>>> items.put(ckpt, "hyper_parameters.config.warmup", 100)
>>> items.get(ckpt, "hyper_parameters.config")
{'lr': 1, 'warmup': 100}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath

__all__ = ["get", "keys", "plain", "put", "take"]


def get(tree: Any, path: str | Sequence[str | int], default: Any = None) -> Any:
    """Return the value at a path.

    Parameters
    ----------
    tree : object
        A checkpoint, or part of one.
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys.
    default : object
        Returned if the path does not exist.
    """
    try:
        return config_objects.value_of(paths.get(tree, _keys(path)))
    except NoSuchPath:
        return default


def keys(tree: Any, path: str | Sequence[str | int] = ()) -> list[Any]:
    """Return the keys at a path; an empty list if the path does not exist."""
    return list(paths.keys(get(tree, path)))


def put(tree: Any, path: str | Sequence[str | int], value: Any) -> None:
    """Set the value at a path.

    Raises
    ------
    KeyError
        The parent of the path does not exist or cannot hold the value.
    """
    try:
        paths.set_new(paths.parent(tree, _keys(path)), _keys(path)[-1], value)
    except NoSuchPath as error:
        raise KeyError(str(error)) from None


def take(tree: Any, path: str | Sequence[str | int]) -> Any:
    """Remove the value at a path and return it in a form that `put` accepts.

    Raises
    ------
    KeyError
        The path does not exist.
    """
    try:
        paths.get(tree, _keys(path))
        return paths.take(paths.parent(tree, _keys(path)), _keys(path)[-1])[0]
    except NoSuchPath as error:
        raise KeyError(str(error)) from None


def plain(value: Any) -> Any:
    """Return a configuration, or part of one, as a copy of plain dicts and lists."""
    return config_objects.plain(value)


def _keys(path: str | Sequence[str | int]) -> tuple[Any, ...]:
    return tuple(path.split(".")) if isinstance(path, str) else tuple(path)
