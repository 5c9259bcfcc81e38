"""Limit how often the keys of one dict or set collide: time would grow with the square of their number.

Python's hash of a number, or of a tuple of numbers, is no secret. So a file may hold any number of keys with one hash,
as ``hash(-1) == hash(-2)``. It may also hold numbers of different hashes that all try the same slots of a table. Texts
and bytes cannot be chosen like this, because Python adds a secret to their hashes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Protocol

from anemoi_ckpt_migrate.storage.tensors.refs import is_a

_FEW = 8  # keys that fit into the smallest table
_USUAL, _ALWAYS = 10, 1000  # collisions for each byte of a pickle, and in any; numbers at random collide far less often
_KEY = 9  # bytes of a number
_UNSIGNED = (1 << 64) - 1
_NOTHING: Any = object()  # equal to no key
_THERE = -1


class KeyLimit:
    """A limit on the collisions of all keys in one pickle.

    Parameters
    ----------
    length : int
        The length of the pickle, in bytes.
    weigh : callable
        Returns the number of objects that a comparison of a key visits.
    """

    def __init__(self, length: int, weigh: Callable[[Any], int]) -> None:
        self._left = _USUAL * length + _ALWAYS
        self._weigh = weigh
        self._filled: dict[int, tuple[Any, tuple[_Table, _Table]]] = {}
        self._made: dict[int, tuple[Any, int, int]] = {}

    def fill(self, container: Any, keys: Collection[Any]) -> None:
        """Check keys before they are put into a container, beside those that it has.

        Raises
        ------
        pickle.UnpicklingError
            They collide too often, or those of other containers did.
        """
        known = self._filled.get(id(container))
        own = container if known is None and is_a(container, (dict, set)) else ()
        if known is None and (own is not container or len(own) + len(keys) > _FEW):
            known = self._filled[id(container)] = container, self._tables(own)
        if known is not None:
            self._add(known[1], keys)

    def make(self, keys: Collection[Any], source: Any = None) -> None:
        """Check keys before a new container is made of them.

        Parameters
        ----------
        keys : collection
            The keys.
        source : object, optional
            The object that they come from. A pickle may make many containers of one: the tables are filled once, and
            their collisions count each time.
        """
        source = keys if source is None else source
        known, count, cost = self._made.get(id(source), (None, 0, 0))
        if known is source and count == len(keys):
            self.take(cost)
        elif len(keys) > _FEW and not all(type(key) is str for key in keys):
            before = self._left
            self._tables(keys)
            self._made[id(source)] = source, len(keys), before - self._left

    def take(self, count: int) -> None:
        """Count collisions."""
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError("too many keys in its dicts and sets have hashes that collide")

    def compare(self, one: Any, other: Any) -> bool:
        """Return whether two keys with the same hash are equal, and count what that visits."""
        if one is other:
            return True
        self.take(self._weigh(one))
        return bool(one == other)

    def _tables(self, keys: Iterable[Any]) -> tuple[_Table, _Table]:
        """Return the tables for keys: whoever reads the keys of a dict may put them into a set, and the reverse."""
        made = _Table(self, near=1), _Table(self, near=10)
        self._add(made, keys)
        return made

    def _add(self, tables: tuple[_Table, _Table], keys: Iterable[Any]) -> None:
        for key in keys:
            for table in tables:
                table.add(key)


def check_keys(keys: Collection[Any]) -> None:
    """Check the keys of one container that does not come from a pickle, as `KeyLimit.make` does."""
    KeyLimit(_KEY * len(keys), lambda key: len(repr(key))).make(keys)


class _Table:
    """The slots of a dict or of a set, filled in the way of CPython.

    Parameters
    ----------
    limit : KeyLimit
        Where collisions are counted.
    near : int
        The number of neighbours that are tried before another place: 1 in a dict, 10 in a set.
    """

    __slots__ = ("_entries", "_limit", "_near", "_slots")

    def __init__(self, limit: KeyLimit, near: int) -> None:
        self._limit, self._near = limit, near
        self._entries: list[tuple[int, Any]] = []
        self._slots: list[int | None] = [None] * 8

    def add(self, key: Any) -> None:
        """Add a key, unless there is an equal one."""
        hashed = hash(key)
        at = self._free(hashed, key)
        if at == _THERE:
            return
        self._slots[at] = len(self._entries)
        self._entries.append((hashed, key))
        count, size = len(self._entries), len(self._slots)
        if self._near == 1 and count == size * 2 // 3:
            self._resize(3 * count)
        elif self._near > 1 and count * 5 >= (size - 1) * 3:
            self._resize(1 + (4 if count <= 50_000 else 2) * count)

    def _free(self, hashed: int, key: Any) -> int:
        """Return the first free slot for a hash; `_THERE` if a slot on the way to it holds an equal key."""
        slots, entries, last = self._slots, self._entries, len(self._slots) - 1
        at, rest = hashed & last, hashed & _UNSIGNED
        while True:
            for near in range(at, at + self._near if at + self._near <= last + 1 else at + 1):
                index = slots[near]
                if index is None:
                    return near
                if key is not _NOTHING and entries[index][0] == hashed and self._limit.compare(key, entries[index][1]):
                    return _THERE
            self._limit.take(1)
            rest >>= 5
            at = (at * 5 + rest + 1) & last

    def _resize(self, least: int) -> None:
        self._slots = [None] * (1 << (least - 1).bit_length())
        for index, (hashed, _) in enumerate(self._entries):
            self._slots[self._free(hashed, _NOTHING)] = index


# The type checker takes it for the one in C, which lacks most of it.
_PythonUnpickler: Any = pickle._Unpickler


class Names(Protocol):
    """Says what stands for the names and the persistent ids in a pickle."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the object for a name."""

    def persistent_load(self, pid: Any) -> Any:
        """Return the object for a persistent id."""


class CountingUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """The unpickler in Python of the standard library; it counts the collisions of keys before they happen.

    Parameters
    ----------
    stream : binary stream
        The pickle.
    names : Names
        What stands for its names and persistent ids.
    limit : KeyLimit
        The limit on collisions.
    options : object
        As for `pickle.Unpickler`.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: Any, names: Names, limit: KeyLimit, **options: Any) -> None:
        super().__init__(stream, **options)
        self._limit = limit
        self.find_class, self.persistent_load = names.find_class, names.persistent_load

    def load_setitem(self) -> None:
        """Put one item into a container."""
        self._limit.fill(self.stack[-3], self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Put the items since the mark into the container below it."""
        self._limit.fill(self.metastack[-1][-1], self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        """Put the members since the mark into the set below it."""
        self._limit.fill(self.metastack[-1][-1], self.stack)
        super().load_additems()

    def load_dict(self) -> None:
        """Make a dict of the items since the mark."""
        self._limit.make(self.stack[::2])
        super().load_dict()

    def load_frozenset(self) -> None:
        """Make a frozenset of the members since the mark."""
        self._limit.make(self.stack)
        super().load_frozenset()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.FROZENSET[0]] = load_frozenset
