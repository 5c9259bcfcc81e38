"""The tree of a distributed checkpoint as a list: a path with a tensor, or with another value.

torch flattens nested dicts, and lists that hold a dict or a tensor; the path of a value, joined by dots, is its name.
Source: ``torch/distributed/checkpoint/_traverse.py``, torch 2.13.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.distributed.metadata import FILE, Path, TensorEntry, ValueEntry
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored

RECORD = "ckpt_migrate"
"""The key of the record in a tree, and its attribute in the metadata."""
_SLACK = 1000  # empty places of lists


class TensorItem(NamedTuple):
    """A tensor of the tree.

    Attributes
    ----------
    path : tuple
        Its path.
    dtype, shape
        Its form.
    key : str
        The key of its storage.
    offset : int
        Its first element there.
    entry : TensorEntry or None
        Its chunks, if they all lie in the files; else its content has to be written.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    key: str
    offset: int
    entry: TensorEntry | None


class ValueItem(NamedTuple):
    """Another value of the tree.

    Attributes
    ----------
    path : tuple
        Its path.
    data : bytes or None
        Its pickle; None if it is to be read from its place.
    entry : ValueEntry or None
        Its place in the files; None if it has to be written.
    """

    path: Path
    data: bytes | None
    entry: ValueEntry | None


Item = TensorItem | ValueItem


@dataclass(frozen=True)
class Layout(Pickled):
    """A tree, ready to be written.

    Attributes
    ----------
    items : tuple of Item
        The tensors and other values.
    record : object
        The record: plain data, in which a stash has items in place of values; None if there is none.
    """

    items: tuple[Item, ...] = ()
    record: Any = None


def named(path: Path) -> str:
    """Return the name of a value, from its path."""
    return ".".join(map(str, path))


def nested(leaves: Iterable[tuple[Path, Any]]) -> OrderedDict[str, Any]:
    """Return the tree of values with their paths.

    Raises
    ------
    NotACheckpoint
        The paths contradict each other.
    """
    tree: OrderedDict[str, Any] = OrderedDict()
    left = 0
    for path, value in leaves:
        left += 2
        place: Any = tree
        for key, following in zip(path, (*path[1:], None), strict=True):
            if (type(place) is list) != (type(key) is int):
                raise NotACheckpoint(f"its {FILE} is damaged or hostile (two paths disagree at {named(path):.200})")
            if type(place) is list and key >= len(place):
                left -= key + 1 - len(place)
                if left < -_SLACK:
                    raise NotACheckpoint(f"its {FILE} is damaged or hostile ({named(path):.200} has an impossible index)")
                place += [None] * (key + 1 - len(place))
            empty = type(place) is not list and key not in place or type(place) is list and place[key] is None
            if following is None:
                if not empty:
                    raise NotACheckpoint(f"its {FILE} is damaged or hostile (two values lie at {named(path):.200})")
                place[key] = value
            else:
                if empty:
                    place[key] = [] if type(following) is int else {}
                place = place[key]
                if type(place) not in (list, dict):
                    raise NotACheckpoint(f"its {FILE} is damaged or hostile (a value lies above {named(path):.200})")
    return tree


def leaves(tree: Any, whole: Collection[int], flat: bool) -> Iterator[tuple[Path, Any]]:
    """Yield the values of a tree with their paths, as torch flattens it.

    Parameters
    ----------
    tree : dict
        The tree.
    whole : collection of int
        Containers that are values, by ``id``: an earlier torch stored them in one piece.
    flat : bool
        Whether all values of the dict are stored in one piece.
    """
    for key, value in tree.items():
        if flat:
            yield (str(key),), value
        else:
            yield from _below((str(key),), value, whole)


def _below(path: Path, value: Any, whole: Collection[int]) -> Iterator[tuple[Path, Any]]:
    if id(value) in whole:
        yield path, value
    elif is_a(value, dict):
        for key, item in value.items():
            yield from _below((*path, str(key)), item, whole)
    elif type(value) is list and _is_traversed(value):
        for index, item in enumerate(value):
            yield from _below((*path, index), item, whole)
    else:
        yield path, value


def _is_traversed(value: list[Any]) -> bool:
    return any(
        is_stored(item) or is_real(item) or is_a(item, dict) or (type(item) is list and _is_traversed(item))
        for item in value
    )


def replaced(tree: Any, replace: Callable[[Any], Any]) -> Any:
    """Return a copy of dicts, lists and tuples, with each other value replaced."""
    kind = type(tree)
    if kind is dict:
        return {key: replaced(value, replace) for key, value in tree.items()}
    if kind is list or kind is tuple:
        return kind(replaced(value, replace) for value in tree)
    return replace(tree)
