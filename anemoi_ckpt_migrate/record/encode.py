"""Encode values that JSON lacks as JSON, so that a record can be exported and read anywhere."""

from __future__ import annotations

import base64
import binascii
import math
import pickle
from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.storage.pickle.collisions import check_keys

_TAG = "$"


def encode(value: Any) -> Any:
    """Return a value as JSON types. A value that JSON lacks becomes a dict with one key that starts with ``$``.

    Parameters
    ----------
    value : object
        Dicts, lists, strings, numbers, booleans, None, sets, bytes and complex numbers; other values stay unchanged.

    Examples
    --------
    >>> encode({"epochs": {3: 1.5}, "tags": {"ema"}})
    {'epochs': {'$dict': [[3, 1.5]]}, 'tags': {'$set': ['ema']}}
    """
    kind = type(value)
    if kind is dict:
        if all(isinstance(key, str) for key in value) and not _is_tagged(value):
            return {key: encode(each) for key, each in value.items()}
        return {"$dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if kind is list:
        return [encode(each) for each in value]
    if kind is tuple:
        return {"$tuple": [encode(each) for each in value]}
    if kind in (set, frozenset):
        return {f"${kind.__name__}": sorted(map(encode, value), key=repr)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is complex:
        return {"$complex": [encode(value.real), encode(value.imag)]}
    if kind is float and not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def decode(value: Any) -> Any:
    """Return the value that `encode` encoded.

    Raises
    ------
    DamagedRecord
        A key starts with ``$`` and names no kind of value, or its content is of another kind.
    """
    kind = type(value)
    if kind is list:
        return [decode(each) for each in value]
    if kind is not dict:
        return value
    if not _is_tagged(value):
        return {key: decode(each) for key, each in value.items()}
    ((tag, held),) = value.items()
    try:
        return _MADE[tag](held)
    except (KeyError, TypeError, ValueError, binascii.Error, pickle.UnpicklingError):
        raise DamagedRecord(f"{tag} in it does not encode a value") from None


def _is_tagged(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and str(next(iter(value))).startswith(_TAG)


def _each(held: Any) -> list[Any]:
    if type(held) is not list:
        raise TypeError
    return [decode(each) for each in held]


def _members(held: Any) -> list[Any]:
    """Return the members of a set, or the keys of a dict."""
    found = _each(held)
    check_keys(found)
    return found


_MADE: dict[str, Callable[[Any], Any]] = {
    "$dict": lambda held: dict(zip(_members([key for key, _ in held]), _each([each for _, each in held]), strict=True)),
    "$tuple": lambda held: tuple(_each(held)),
    "$set": lambda held: set(_members(held)),
    "$frozenset": lambda held: frozenset(_members(held)),
    "$bytes": lambda held: base64.b64decode(held, validate=True),
    "$complex": lambda held: complex(*_each(held)),
    "$float": float,
}
