"""Opcodes of ordinary tensors: written for many tensors at once, since a model may have a hundred thousand of them."""

from __future__ import annotations

import collections
import pickle
import struct
from collections.abc import Callable, MutableMapping, Sequence
from itertools import chain, count, repeat
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.refs import StoredStorage, StoredTensor, is_stored, reduced

WORD = "storage"
"""The first word of the name of a storage: one object, so that a pickler remembers it."""
Memo = MutableMapping[int, tuple[int, Any]]
"""What a pickler has written: number and object, by `id`."""
_INTEGERS, _SMALL = {int}, 1 << 31  # larger integers are spelled as long as they are
_MANY = 8  # fewer are faster one by one
_SHORT_NUMBERS = 256
_FIELDS = 6


def is_ordinary(args: tuple[Any, ...]) -> bool:
    """Return whether these are the arguments of an ordinary tensor."""
    if len(args) != _FIELDS or type(args[0]) is not StoredStorage or type(args[4]) is not bool:
        return False
    storage, offset, size, stride, _, hooks = args
    if type(size) is not tuple or type(stride) is not tuple or not has_no_hooks(hooks):
        return False
    return _are_small((storage.numel, offset, *size, *stride))


def integer(number: int) -> bytes:
    """Spell a small integer as pickle does."""
    if number < 1 << 8:
        return pickle.BININT1 + number.to_bytes(1, "little")
    if number < 1 << 16:
        return pickle.BININT2 + number.to_bytes(2, "little")
    return pickle.BININT + number.to_bytes(4, "little")


def integers(numbers: tuple[int, ...]) -> bytes:
    """Spell a tuple of small integers as pickle does."""
    spelled = b"".join(map(integer, numbers))
    if len(numbers) > 3:
        return pickle.MARK + spelled + pickle.TUPLE
    return spelled + (pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)[len(numbers)]


class TensorOpcodes:
    """Spells names and tensors of a dict, if a tensor like them was written before.

    Parameters
    ----------
    memo : mapping
        The objects that the pickler has written; those that are spelled here are added.
    keys : dict of str to None
        The keys of storages in the pickle; more are added.
    """

    def __init__(self, memo: Memo, keys: dict[str, None]) -> None:
        self._memo, self._keys = memo, keys
        self._begins: dict[tuple[int, int], bytes] = {}
        self._devices: dict[int, bytes] = {}
        self._ends: dict[bool, bytes] = {}
        self._integers, self._tuples = _Spelled(integer), _Spelled(integers)

    def learn(self, function: Any, storage: StoredStorage) -> None:
        """Learn how the pickler gets what a tensor names, just after it wrote one with this function and storage."""
        get = self._get
        self._begins[id(function), id(storage.kind)] = b"%b((%b%b" % (get(function), get(WORD), get(storage.kind))
        self._devices[id(storage.location)] = get(storage.location)
        hooks = get(collections.OrderedDict)
        self._ends = {True: pickle.NEWTRUE + hooks + b")RtR", False: pickle.NEWFALSE + hooks + b")RtR"}

    def one(self, name: str, tensor: StoredTensor) -> bytes | None:
        """Spell a name and a tensor; None if the tensor was written before, or is unlike those before."""
        function, args, state = reduced(tensor)
        if state is not None or not is_ordinary(args) or id(tensor) in self._memo:
            return None
        storage, offset, size, stride, grad, _ = args
        begin, device = self._begins.get((id(function), id(storage.kind))), self._devices.get(id(storage.location))
        if begin is None or device is None:
            return None
        self._keys[storage.key] = None
        # In this order, since each of them is remembered under the next number.
        begin = self._text(name) + begin + text(storage.key) + device
        count, place = self._integers[storage.numel], self._integers[offset]
        rest = self._tuples[size] + self._tuples[stride] + self._ends[grad]
        return begin + count + b"tQ" + place + rest + self._remembered(tensor)

    def many(self, pairs: Sequence[tuple[Any, Any]]) -> bytes | None:
        """Spell names and tensors; None if anything else is among them, or a tensor unlike those before."""
        first = len(self._memo)
        if len(pairs) < _MANY or first < _SHORT_NUMBERS:
            return None
        names, tensors = zip(*pairs, strict=True)
        if set(map(type, names)) != {str} or not all(map(is_stored, tensors)):
            return None
        functions, args, states = zip(*map(reduced, tensors), strict=True)
        if states.count(None) < len(states) or set(map(len, args)) != {_FIELDS}:
            return None
        storages, offsets, sizes, strides, grads, hooks = zip(*args, strict=True)
        if set(map(type, storages)) != {StoredStorage} or set(map(type, grads)) != {bool}:
            return None
        keys, counts = [each.key for each in storages], [each.numel for each in storages]
        shapes = {id(shape): shape for shape in (*sizes, *strides)}.values()
        usual = all(type(shape) is tuple and _are_small(shape) for shape in shapes) and _are_small((*counts, *offsets))
        if not usual or not all(map(has_no_hooks, {id(each): each for each in hooks}.values())):
            return None
        begins = [
            self._begins.get((id(function), id(each.kind))) for function, each in zip(functions, storages, strict=True)
        ]
        devices = [self._devices.get(id(each.location)) for each in storages]
        new = list(chain.from_iterable(zip(names, tensors, strict=True)))
        ids = list(map(id, new))
        if None in begins or None in devices or len(set(ids)) < len(ids) or not self._memo.keys().isdisjoint(ids):
            return None
        self._memo.update(zip(ids, zip(count(first), new), strict=False))
        self._keys.update(dict.fromkeys(keys))
        numbers = struct.pack(f"<{len(new)}I", *range(first, first + len(new)))
        puts = [b"r" + numbers[at : at + 4] for at in range(0, len(numbers), 4)]
        columns = (
            *(map(text, names), puts[::2], begins, map(text, keys), devices),
            *(map(self._integers.__getitem__, counts), repeat(b"tQ"), map(self._integers.__getitem__, offsets)),
            *(map(self._tuples.__getitem__, sizes), map(self._tuples.__getitem__, strides)),
            *(map(self._ends.__getitem__, grads), puts[1::2]),
        )
        return b"".join(chain.from_iterable(zip(*columns, strict=False)))

    def _get(self, known: Any) -> bytes:
        """Return the opcode that gets an object."""
        number = self._memo[id(known)][0]
        if number < _SHORT_NUMBERS:
            return pickle.BINGET + number.to_bytes(1, "little")
        return pickle.LONG_BINGET + number.to_bytes(4, "little")

    def _text(self, name: str) -> bytes:
        """Spell a text, or get it."""
        return self._get(name) if id(name) in self._memo else text(name) + self._remembered(name)

    def _remembered(self, new: Any) -> bytes:
        """Return the opcode that remembers an object."""
        number = len(self._memo)
        self._memo[id(new)] = number, new
        if number < _SHORT_NUMBERS:
            return pickle.BINPUT + number.to_bytes(1, "little")
        return pickle.LONG_BINPUT + number.to_bytes(4, "little")


class _Spelled(dict[Any, bytes]):
    """Spelled values; each value is spelled once."""

    def __init__(self, spell: Callable[[Any], bytes]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, value: Any) -> bytes:
        self[value] = spelled = self._spell(value)
        return spelled


def text(value: str) -> bytes:
    """Spell a text as pickle does. Keys of storages are not remembered: spelled again, they take hardly more bytes."""
    encoded = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def has_no_hooks(hooks: Any) -> bool:
    """Return whether hooks of a tensor are those of almost every one: an empty `OrderedDict`."""
    return type(hooks) is collections.OrderedDict and not hooks and not vars(hooks)


def _are_small(numbers: tuple[Any, ...]) -> bool:
    """Return whether objects are integers that pickle spells in four bytes or fewer."""
    return _INTEGERS.issuperset(map(type, numbers)) and (not numbers or (min(numbers) >= 0 and max(numbers) < _SMALL))
