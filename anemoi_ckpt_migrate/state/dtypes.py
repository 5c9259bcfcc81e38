"""Dtypes by name, and which of them can hold all values of another."""

from __future__ import annotations

import math

# Exponent and mantissa bits of floating point dtypes, sign and value bits of integers. Sources: IEEE 754; for bfloat16
# and the 8-bit formats, "FP8 formats for deep learning" (arXiv:2209.05433) and torch's own documentation.
_FLOATING = {
    "float64": (11, 52),
    "float32": (8, 23),
    "float16": (5, 10),
    "bfloat16": (8, 7),
    "float8_e5m2": (5, 2),
    "float8_e4m3fn": (4, 3),
}
_COMPLEX = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_INTEGERS = {
    "bool": (0, 1),
    "uint8": (0, 8),
    "uint16": (0, 16),
    "uint32": (0, 32),
    "uint64": (0, 64),
    "int8": (1, 7),
    "int16": (1, 15),
    "int32": (1, 31),
    "int64": (1, 63),
}
DTYPES = (*_FLOATING, *_COMPLEX, *_INTEGERS)
"""All dtypes that tensors can be cast to."""


_LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float8_e5m2": 57344.0,
    "float8_e4m3fn": 448.0,
}
"""The largest number of each, by `torch.finfo`."""
_INFINITE = ("float64", "float32", "float16", "bfloat16")


def takes(dtype: str, number: float) -> bool:
    """Return whether a dtype can hold a number, within its precision."""
    dtype = _COMPLEX.get(dtype, dtype)
    finite = isinstance(number, int) or math.isfinite(number)
    if dtype in _FLOATING:
        return abs(number) <= _LARGEST[dtype] if finite else dtype in _INFINITE
    sign, bits = _INTEGERS[dtype]
    return finite and number == int(number) and -(sign << bits) <= number < 1 << bits


def is_floating(dtype: str) -> bool:
    """Return whether a dtype is floating point."""
    return dtype in _FLOATING


def is_exact(old: str, new: str) -> bool:
    """Return whether casting from one dtype to another loses nothing, so that casting back is exact."""
    if old == new:
        return True
    if old in _FLOATING and new in _FLOATING:
        return all(was <= now for was, now in zip(_FLOATING[old], _FLOATING[new], strict=True))
    if old in _INTEGERS and new in _INTEGERS:
        return all(was <= now for was, now in zip(_INTEGERS[old], _INTEGERS[new], strict=True))
    if old in _INTEGERS and new in _FLOATING:
        bits = _INTEGERS[old][1]
        return bits <= _FLOATING[new][1] + 1 and 1 << _FLOATING[new][0] - 1 > bits
    if new in _COMPLEX:
        return is_exact(_COMPLEX.get(old, old), _COMPLEX[new])
    return False
