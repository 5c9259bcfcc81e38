"""What stands at a path in a checkpoint, for functions of scripts: ``from anemoi_ckpt_migrate import items``.

Configurations of OmegaConf and pydantic, and classes of dicts, are looked into as the dicts that they are. Their
classes need not be importable. What is put into one becomes part of it.

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
    """Return what stands at a path.

    Parameters
    ----------
    tree : object
        A checkpoint, or a part of it.
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys.
    default : object
        What is returned if nothing does.
    """
    try:
        return config_objects.value_of(paths.get(tree, _keys(path)))
    except NoSuchPath:
        return default


def keys(tree: Any, path: str | Sequence[str | int] = ()) -> list[Any]:
    """Return the keys of what stands at a path; none if nothing does."""
    return list(paths.keys(get(tree, path)))


def put(tree: Any, path: str | Sequence[str | int], value: Any) -> None:
    """Set what stands at a path.

    Raises
    ------
    KeyError
        There is nothing that it could be put into.
    """
    try:
        paths.set_new(paths.parent(tree, _keys(path)), _keys(path)[-1], value)
    except NoSuchPath as error:
        raise KeyError(str(error)) from None


def take(tree: Any, path: str | Sequence[str | int]) -> Any:
    """Take out what stands at a path, and return it, as `put` takes it.

    Raises
    ------
    KeyError
        Nothing does.
    """
    try:
        paths.get(tree, _keys(path))
        return paths.take(paths.parent(tree, _keys(path)), _keys(path)[-1])[0]
    except NoSuchPath as error:
        raise KeyError(str(error)) from None


def plain(value: Any) -> Any:
    """Return a configuration, or a part of one, as plain dicts and lists; a copy."""
    return config_objects.plain(value)


def _keys(path: str | Sequence[str | int]) -> tuple[Any, ...]:
    return tuple(path.split(".")) if isinstance(path, str) else tuple(path)
