"""Find the first difference between two trees. Tensors are compared by content where their memory differs."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName
from anemoi_ckpt_migrate.storage.tensors.deferred import PLAIN, bytes_of, identity, storage_of
from anemoi_ckpt_migrate.storage.tensors.refs import (
    STORAGES,
    StoredStorage,
    StoredTensor,
    dtype_of,
    is_a,
    is_named,
    is_stored,
    pickled_name,
    reduced,
    without_type,
)
from anemoi_ckpt_migrate.util.recursion import deep_recursion

_LONG = 100  # characters: longer text is compared once for all places that hold it
_Where = tuple[Any, Any] | None
"""A place in a tree: its parent place and the key. It is spelled out only where the trees differ."""
_PARTS = ("function", "args", "kwargs", "state", "items", "pairs", "setter")


class Difference(NamedTuple):
    """The place where two trees differ.

    Attributes
    ----------
    where : str
        The place, keys joined by dots.
    what : str
        The two values: now and before.
    """

    where: str
    what: str


def first_difference(before: Any, after: Any, same: Callable[[StoredTensor, StoredTensor], bool]) -> Difference | None:
    """Compare two trees, both loaded with stand-ins and without imported classes.

    Every difference visible to a program counts: types (1 is not True, 0.0 is not -0.0), the identity of tensors, lists
    and dicts, the device of a tensor, and `requires_grad`. The memory layout of a tensor's elements does not count, nor
    do other bytes in its memory.

    Parameters
    ----------
    before, after : object
        The trees. The order of keys counts only in an `OrderedDict`, as for Python's ``==``.
    same : callable
        Returns whether two tensors of the same shape and dtype have the same content.
    """
    with deep_recursion():
        return _Comparing(same).difference(before, after, None)


class _Comparing:
    def __init__(self, same: Callable[[StoredTensor, StoredTensor], bool]) -> None:
        self._same, self._seen = same, set[tuple[int, int]]()
        # Maps each object of one side to its counterpart: tensors by memory, containers by identity.
        self._twins: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._compared: set[Any] = set()

    def difference(self, before: Any, after: Any, where: _Where) -> Difference | None:
        if is_stored(before) and is_stored(after):
            return self._of_tensors(before, after, where)
        if is_a(before, StoredStorage) and is_a(after, StoredStorage):
            return self._of_storages(before, after, where)
        if is_a(before, OpaqueName) and is_a(after, OpaqueName):
            one, other = before.pickled_name, after.pickled_name
            return (
                None if one == other else Difference(_shown(where), f"it was {'.'.join(one)}, and is {'.'.join(other)}")
            )
        if type(before) is not type(after) and not (is_a(before, Opaque) and is_a(after, Opaque)):
            return Difference(_shown(where), f"it was {_kind(before)}, and is {_kind(after)}")
        if (id(before), id(after)) in self._seen:
            return None
        if is_a(before, (dict, list, tuple, set, Opaque)):
            self._seen.add((id(before), id(after)))
            if _is_shared(before) and not self._are_twins(id(before), id(after)):
                return Difference(_shown(where), f"it is now the same object as another {type(before).__name__}")
            return self._of_containers(before, after, where)
        if _term(before) == _term(after):
            if is_a(before, frozenset) or (is_a(before, (str, bytes)) and len(before) > _LONG):
                self._seen.add((id(before), id(after)))
            return None
        return Difference(_shown(where), f"it was {before!r:.60}, and is {after!r:.60}")

    def _are_twins(self, one: Any, other: Any) -> bool:
        known = self._twins[0].setdefault(one, other), self._twins[1].setdefault(other, one)
        return known == (other, one)

    def _of_containers(self, before: Any, after: Any, where: _Where) -> Difference | None:
        if is_a(before, dict):
            wrong = _of_keys(before, after, where)
            if wrong is not None:
                return wrong
        elif is_a(before, set):
            same = {_term(item) for item in before} == {_term(item) for item in after}
            return None if same else Difference(_shown(where), f"it was {before!r:.60}, and is {after!r:.60}")
        elif is_a(before, (list, tuple)) and len(before) != len(after):
            return Difference(_shown(where), f"it had {len(before)} items, and has {len(after)}")
        for name, one, other in _pairs(before, after):
            found = self.difference(one, other, (where, name))
            if found is not None:
                return found
        return None

    def _of_tensors(self, before: StoredTensor, after: StoredTensor, where: _Where) -> Difference | None:
        """Compare two tensors: plain ones by their properties, others by the arguments that rebuild them."""
        (function, args, state), (its, others, other_state) = reduced(before), reduced(after)
        name = function.pickled_name[1]
        if function.pickled_name != its.pickled_name:
            return Difference(_shown(where), f"it was {_article(name)}, and is {_article(its.pickled_name[1])}")
        if name not in PLAIN:
            pairs = [*zip(without_type(before), without_type(after), strict=False), (state, other_state)]
            wrong = [self.difference(one, other, where) for one, other in pairs]
            if len(args) != len(others):
                wrong.append(Difference(_shown(where), "it has other arguments"))
            return next((found for found in wrong if found is not None), None)
        for what, one, other in zip(_FACTS, _facts(before), _facts(after), strict=True):
            if one != other:
                return Difference(_shown(where), f"its {what} was {one}, and is {other}")
        rest = zip_longest(args[5:], others[5:])  # hooks, the dtype where the storage does not give it, conjugation
        for one, other in (*rest, (state, other_state)):
            both_empty = (
                is_a(one, dict) and is_a(other, dict) and not (one or other)
            )  # the class of an empty dict does not matter
            found = None if both_empty else self.difference(one, other, where)
            if found is not None:
                return found
        return self._of_memory(before, after, where)

    def _of_storages(self, before: StoredStorage, after: StoredStorage, where: _Where) -> Difference | None:
        """Compare the whole content of two storages: only the rebuilding function knows how it is used."""
        for what, one, other in zip(_STORAGE_FACTS, _storage_facts(before), _storage_facts(after), strict=True):
            if one != other:
                return Difference(_shown(where), f"the {what} of its storage was {one}, and is {other}")
        if not before.numel:
            return None
        return self._of_content(bytes_of(before), bytes_of(after), (before.key, after.key), where)

    def _of_memory(self, before: StoredTensor, after: StoredTensor, where: _Where) -> Difference | None:
        if 0 in before.shape:
            return None
        twins = identity(before), identity(after)
        return self._of_content(_unconjugated(before), _unconjugated(after), twins, where)

    def _of_content(
        self, before: StoredTensor, after: StoredTensor, twins: tuple[Any, Any], where: _Where
    ) -> Difference | None:
        """Compare the content of two tensors, once for each pair of memories."""
        if not self._are_twins(*twins):
            return Difference(_shown(where), "it shares its memory with another tensor than before")
        if twins in self._compared:
            return None
        self._compared.add(twins)
        same = self._same(before, after)
        return None if same else Difference(_shown(where), "its values differ")


def _shown(where: _Where) -> str:
    keys: list[str] = []
    while where is not None:
        where, key = where
        keys.insert(0, str(key))
    return ".".join(keys) or "the checkpoint"


def _unconjugated(tensor: StoredTensor) -> StoredTensor:
    """Return a tensor without its conjugation flags, which are compared separately."""
    function, args, _ = reduced(tensor)
    return StoredTensor(function, tuple(arg for place, arg in enumerate(args) if place < 6 or not is_a(arg, dict)))


def _of_keys(before: Any, after: Any, where: _Where) -> Difference | None:
    here, there = {_term(key): key for key in before}, {_term(key): key for key in after}
    lost = next((key for term, key in here.items() if term not in there), None)
    if lost is not None:
        twin = None if is_stored(lost) else next((key for key in after if not is_stored(key) and key == lost), None)
        return Difference(_shown(where), f"{lost} is missing" if twin is None else f"the key {lost!r} is now {twin!r}")
    new = next((key for term, key in there.items() if term not in here), None)
    if new is not None:
        return Difference(_shown(where), f"{new} was not there")
    if is_a(before, OrderedDict):
        for place, (one, other) in enumerate(zip(here, there, strict=True)):
            if one != other:
                was, now = here[one], there[other]
                return Difference(
                    _shown(where), f"the order of its keys differs: {was} was number {place + 1}, now {now} is"
                )
    return None


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any, Any]]:
    if is_a(before, Opaque):
        one, other = before.__opaque_parts__, after.__opaque_parts__
        yield "class", type(before), type(after)
        for name in _PARTS:
            yield name, getattr(one, name), getattr(other, name)
    elif is_a(before, dict):
        if any(is_stored(key) or is_a(key, (Opaque, OpaqueName)) for key in before):
            # Tensors, classes and objects are no keys to look up: each tree has stand-ins of its own.
            values = {_term(key): value for key, value in after.items()}
            yield from ((key, value, values[_term(key)]) for key, value in before.items())
        else:
            yield from ((key, before[key], after[key]) for key in before)
        if getattr(before, "__dict__", None) or getattr(after, "__dict__", None):
            own, its = dict(vars(before)), dict(vars(after))
            yield from ((key, own.get(key), its.get(key)) for key in own | its)
    else:
        yield from ((place, *pair) for place, pair in enumerate(zip(before, after, strict=True)))


def _is_shared(value: Any) -> bool:
    """Return whether sharing an object matters: a change at one place would show at the other."""
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        return bool(parts.state is not None or parts.items or parts.pairs)
    return is_a(value, (dict, list, set))


def _term(value: Any) -> Any:
    """Return a key that is equal for two plain values exactly if they cannot be told apart."""
    if is_a(value, float):
        return float, struct.pack("<d", value)
    if is_a(value, complex):
        return complex, struct.pack("<dd", value.real, value.imag)
    if is_a(value, (tuple, frozenset)):
        return type(value), tuple(map(_term, value)) if is_a(value, tuple) else frozenset(map(_term, value))
    if is_a(value, OpaqueName):
        return OpaqueName, value.pickled_name
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        return Opaque, _term(type(value)), *(repr(getattr(parts, name)) for name in _PARTS)
    if is_stored(value):
        return StoredTensor, identity(value)
    if is_named(value):
        return type(value), pickled_name(value)
    return type(value), value


_FACTS = ("shape", "dtype", "device", "requires_grad")


def _facts(tensor: StoredTensor) -> tuple[Any, ...]:
    args = reduced(tensor)[1]
    return list(tensor.shape), dtype_of(tensor), storage_of(tensor).location, args[4] if len(args) > 4 else False


_STORAGE_FACTS = ("dtype", "device", "number of elements")


def _storage_facts(storage: StoredStorage) -> tuple[Any, ...]:
    kind = pickled_name(storage.kind, ("", "?"))[1]
    return STORAGES[kind][0] if kind in STORAGES else kind, storage.location, storage.numel


def _article(name: str) -> str:
    kind = name.removeprefix("_rebuild_").removesuffix("_v2").removesuffix("_v3").replace("_", " ")
    return f"a {kind}"


def _kind(value: Any) -> str:
    return "a tensor" if is_stored(value) else f"a {type(value).__name__}"
