"""Pickle a tree, or name the part of it that cannot be pickled."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import Unpicklable
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_stored
from anemoi_ckpt_migrate.storage.zip_writer import Content
from anemoi_ckpt_migrate.util.dataclass import dataclass, field
from anemoi_ckpt_migrate.util.recursion import deep_recursion


@dataclass(frozen=True)
class Pickled:
    """A tree, ready to be written.

    Attributes
    ----------
    data : bytes
        The pickle.
    keys : mapping of str to None
        Keys of the storages in the pickle.
    payloads : mapping of str to memoryview or Streamed
        Content of those storages that the old file lacks or holds differently.
    names : frozenset of (str, str)
        Modules and names in the pickle, except harmless ones and those of real objects made by a function.
    """

    data: bytes
    keys: Mapping[str, None]
    payloads: Mapping[str, Content] = field(default_factory=dict)
    names: frozenset[tuple[str, str]] = frozenset()


def dumped(
    tree: Any, make: Callable[[io.BytesIO], TreePickler], trusted: Collection[str] = ()
) -> tuple[TreePickler, bytes]:
    """Pickle a tree.

    Parameters
    ----------
    tree : object
        A tree from a checkpoint, changed by a migration.
    make : callable
        Makes a pickler that writes to a stream.
    trusted : collection of str
        Modules whose classes are built for real when the checkpoint is read.

    Returns
    -------
    tuple of TreePickler and bytes
        The pickler, which knows the storages in the pickle, and the pickle.

    Raises
    ------
    Unpicklable
        The tree holds an object that cannot be saved, or that could not be read again.
    """

    def dump(part: Any) -> tuple[TreePickler, bytes]:
        stream = io.BytesIO()
        pickler = make(stream)
        pickler.dump(part)
        if not pickler.plain:
            _read_again(stream.getvalue(), trusted)
        return pickler, stream.getvalue()

    with deep_recursion():
        try:
            return dump(tree)
        except RecursionError as error:
            raise Unpicklable("the checkpoint", "it is nested too deeply") from error
        except Exception as error:  # reducers of any class may raise any error
            found = _culprit(tree, dump, set())
            where, culprit = found or ("", error)
            raise Unpicklable(f"ckpt{where}", short(culprit)) from error


def made_content(pickler: TreePickler) -> dict[str, Content]:
    """Return the content of the storages that a pickler met and that no file holds, by their new keys."""
    made = getattr(pickler, "made", {})  # only one for real tensors has it
    if not made:
        return {}
    from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

    return {key: content_of(storage) for key, storage in made.items()}


def _read_again(data: bytes, trusted: Collection[str]) -> None:
    """Read a new pickle as the next command will; what that would refuse must not be written.

    The limits grow with the length of a pickle, and those of an old one may have been wider.
    """
    try:
        TreeUnpickler(data).load()
    except Exception:
        if not trusted:
            raise
        TreeUnpickler(data, trusted).load()


def short(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _culprit(tree: Any, dump: Callable[[Any], Any], seen: set[int]) -> tuple[str, Exception] | None:
    """Find the innermost part of a tree that cannot be pickled: its path and the error; each part is tried once."""
    seen.add(id(tree))
    try:
        dump(tree)
    except Exception as error:
        for place, child in _children(tree):
            found = None if id(child) in seen else _culprit(child, dump, seen)
            if found is not None:
                return f"{place}{found[0]}", found[1]
        return "", error
    return None


def _children(tree: Any) -> list[tuple[str, Any]]:
    if is_stored(tree):
        return []
    if is_a(tree, dict):
        return [(f"[{_spelled(key)}]", value) for key, value in tree.items()]
    if is_a(tree, (list, tuple)):
        return [(f"[{index}]", value) for index, value in enumerate(tree)]
    return []


def _spelled(key: Any) -> str:
    try:
        return repr(key)
    except ValueError:  # Python does not spell out an integer of several thousand digits
        return "a huge number"
