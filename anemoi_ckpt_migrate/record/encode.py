"""Encode values that JSON lacks as JSON, so that a record can be exported and read anywhere."""

from __future__ import annotations

import base64
import binascii
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.storage import StoredAt
from anemoi_ckpt_migrate.storage.pickle.collisions import check_keys
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES

_TAG = "$"
_MOST_SIZES = 64  # of a shape


Tensor = Callable[[str, tuple[int, ...], "bytes | StoredAt"], Any]
"""Makes a tensor of a dtype and a shape from its bytes, or from the place where they lie."""


def encode(value: Any, spelled: Callable[[Any], Any] | None = None) -> Any:
    """Return a value as JSON types. A value that JSON lacks becomes a dict with one key that starts with ``$``.

    Parameters
    ----------
    value : object
        Dicts, lists, strings, numbers, booleans, None, sets, bytes and complex numbers.
    spelled : callable, optional
        Returns the JSON of other values, such as tensors; without it they stay unchanged.

    Examples
    --------
    >>> encode({"epochs": {3: 1.5}, "tags": {"ema"}})
    {'epochs': {'$dict': [[3, 1.5]]}, 'tags': {'$set': ['ema']}}
    """

    def each(values: Iterable[Any]) -> list[Any]:
        return [encode(each, spelled) for each in values]

    kind = type(value)
    if kind is dict and all(isinstance(key, str) for key in value) and not _is_tagged(value):
        return dict(zip(value, each(value.values()), strict=True))
    if kind is list:
        return each(value)
    if kind in _SPELLED:
        return {f"${kind.__name__}": _SPELLED[kind](value, each)}
    if kind is float and not math.isfinite(value):
        return {"$float": repr(value)}
    if spelled is None or value is None or kind in (bool, int, float, str):
        return value
    return spelled(value)


def encode_tensor(dtype: str, shape: tuple[int, ...], content: bytes | StoredAt) -> dict[str, Any]:
    """Return a tensor as JSON types: its dtype, its shape, and its bytes (little-endian, elements in order).

    If the bytes lie in a storage of the checkpoint, its key and the first element there take their place.
    """
    spelled = list(content) if isinstance(content, StoredAt) else base64.b64encode(content).decode()
    return {"$tensor": [dtype, list(shape), spelled]}


def decode(value: Any, tensor: Tensor | None = None) -> Any:
    """Return the value that `encode` encoded.

    Parameters
    ----------
    value : object
        JSON types.
    tensor : callable, optional
        Makes the tensors; without it there may be none.

    Raises
    ------
    DamagedRecord
        A key starts with ``$`` and names no kind of value, or its content is of another kind.
    """
    kind = type(value)
    if kind is list:
        return [decode(each, tensor) for each in value]
    if kind is not dict:
        return value
    if not _is_tagged(value):
        return {key: decode(each, tensor) for key, each in value.items()}
    ((tag, held),) = value.items()
    try:
        if tag == "$tensor" and tensor is not None:
            return tensor(*_tensor(*held))
        return _MADE[tag](held, lambda each: decode(each, tensor))
    except (KeyError, TypeError, ValueError, binascii.Error, pickle.UnpicklingError):
        raise DamagedRecord(f"{tag} in it does not encode a value") from None


def _is_tagged(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and str(next(iter(value))).startswith(_TAG)


def _each(held: Any, made: Callable[[Any], Any]) -> list[Any]:
    if type(held) is not list:
        raise TypeError
    return [made(each) for each in held]


def _members(held: Any, made: Callable[[Any], Any]) -> list[Any]:
    """Return the members of a set, or the keys of a dict."""
    found = _each(held, made)
    check_keys(found)
    return found


def _tensor(dtype: Any, shape: Any, content: Any) -> tuple[str, tuple[int, ...], bytes | StoredAt]:
    """Check a tensor, and return it as `Tensor` takes it."""
    sizes = _each(shape, _size)
    if type(content) is list:
        key, offset = content
        if type(key) is not str or len(sizes) > _MOST_SIZES or dtype not in SIZES:
            raise ValueError
        return dtype, tuple(sizes), StoredAt(key, _size(offset))
    data = base64.b64decode(content, validate=True)
    if len(sizes) > _MOST_SIZES or SIZES[dtype] * math.prod(sizes) != len(data):
        raise ValueError
    return dtype, tuple(sizes), data


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


_SPELLED: dict[type, Callable[[Any, Callable[[Iterable[Any]], list[Any]]], Any]] = {
    dict: lambda value, each: [each(pair) for pair in value.items()],
    tuple: lambda value, each: each(value),
    set: lambda value, each: sorted(each(value), key=repr),
    frozenset: lambda value, each: sorted(each(value), key=repr),
    bytes: lambda value, each: base64.b64encode(value).decode(),
    complex: lambda value, each: each((value.real, value.imag)),
}
_MADE: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "$dict": lambda held, made: dict(
        zip(_members([key for key, _ in held], made), [made(each) for _, each in held], strict=True)
    ),
    "$tuple": lambda held, made: tuple(_each(held, made)),
    "$set": lambda held, made: set(_members(held, made)),
    "$frozenset": lambda held, made: frozenset(_members(held, made)),
    "$bytes": lambda held, made: base64.b64decode(held, validate=True),
    "$complex": lambda held, made: complex(*_each(held, made)),
    "$float": lambda held, made: float(held),
}
