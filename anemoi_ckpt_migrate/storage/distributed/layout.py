"""The tree of a distributed checkpoint as a list: a path with a tensor, or with another value.

torch flattens nested dicts, and lists that hold a dict or a tensor; the path of a value, joined by dots, is its name.
Source: ``torch/distributed/checkpoint/_traverse.py``, torch 2.13.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.distributed.metadata import Path, TensorEntry, ValueEntry, named
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.util.dataclass import dataclass

RECORD = "ckpt_migrate"
"""The key of the record in a tree, and its attribute in the metadata."""
CONSTANTS = (int, float, bool, str, type(None))
"""Types of values that nobody can change."""
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
    rest : bytes or None
        The pickle of the file beside the metadata, in which a framework keeps everything else; None if there is none.
    """

    items: tuple[Item, ...] = ()
    record: Any = None
    rest: bytes | None = None


def nested(leaves: Iterable[tuple[Path, Any]]) -> OrderedDict[str, Any]:
    """Return the tree of values with their paths.

    Raises
    ------
    NotACheckpoint
        The paths contradict each other.
    """
    building = _Building()
    for path, value in leaves:
        building.add(path, value)
    return building.tree


class _Building:
    """Builds a tree from paths, which anyone can have written."""

    def __init__(self) -> None:
        self.tree: OrderedDict[str, Any] = OrderedDict()
        self._left = _SLACK

    def add(self, path: Path, value: Any) -> None:
        self._left += 2
        place: Any = self.tree
        for key, following in itertools.pairwise(path):
            if not self._holds(place, key, path):
                place[key] = [] if type(following) is int else {}
            place = place[key]
            if type(place) not in (list, dict):
                self._refuse("a value lies above", path)
        if self._holds(place, path[-1], path):
            self._refuse("two values lie at", path)
        place[path[-1]] = value

    def _holds(self, place: Any, key: str | int, path: Path) -> bool:
        """Return whether a container has something at a key; a list gets room for it."""
        if type(key) is int and type(place) is list:
            more = key + 1 - len(place)
            self._left -= max(0, more)
            if self._left < 0:
                self._refuse("there is an impossible index in", path)
            place += [None] * more
            return place[key] is not None
        if type(key) is int or type(place) is list:
            self._refuse("two paths disagree at", path)
        return key in place

    def _refuse(self, why: str, path: Path) -> NoReturn:
        raise NotACheckpoint(f"its {METADATA} is damaged or hostile ({why} {named(path):.200})")


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


def has_tensor(value: Any) -> bool:
    """Return whether a value holds a tensor, as torch flattens it."""
    return any(is_stored(each) or is_real(each) for _, each in _below((), value, ()))


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
