"""Read and change values in a checkpoint by path, in migration scripts: ``from anemoi_ckpt_migrate import items``.

Configurations of OmegaConf and pydantic, and custom dict classes, are treated as dicts. Their classes need not be
importable. A value that you put into a configuration becomes part of it.

>>> from anemoi_ckpt_migrate import items
>>> ckpt = {"hyper_parameters": {"config": {"lr": 1}}}
>>> items.put(ckpt, "hyper_parameters.config.warmup", 100)
>>> items.get(ckpt, "hyper_parameters.config")
{'lr': 1, 'warmup': 100}

A class that the checkpoint names is a stand-in: `class_named` makes one, `class_name` returns the name of one.

>>> items.class_name(items.class_named("mypackage.models.Model"))
'mypackage.models.Model'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, OpaqueName, opaque_name
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath

__all__ = ["class_name", "class_named", "get", "keys", "plain", "put", "take"]


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


def class_named(name: str) -> type:
    """Return the stand-in of a class, to put into a checkpoint that is to name this class. Nothing is imported.

    Two stand-ins of one class are not equal, so look for one in the checkpoint first if the class is a key there.

    Parameters
    ----------
    name : str
        ``"package.module.Class"``, or ``"package.module:Outer.Inner"`` for a nested class.
    """
    module, colon, inner = name.partition(":")
    if not colon:
        module, _, inner = name.rpartition(".")
    calls = Calls()
    calls.loading = False
    return opaque_name(module, inner, calls)


def class_name(value: Any) -> str | None:
    """Return the name of a class that the checkpoint names, with dots; None if the value is no class."""
    if isinstance(value, OpaqueName):
        return ".".join(value.pickled_name)
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else None


def _keys(path: str | Sequence[str | int]) -> tuple[Any, ...]:
    return tuple(path.split(".")) if isinstance(path, str) else tuple(path)
