"""Combine the CRC-32s of two adjacent stretches of bytes without reading them again."""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits in reverse: PKWARE's APPNOTE, 4.4.7
Matrix = tuple[int, ...]
"""A linear map of 32 bits over the field of two elements: the image of each bit."""


def combined(first: int, second: int, length: int) -> int:
    """Return the CRC of one stretch of bytes followed by another.

    Parameters
    ----------
    first, second : int
        Their CRCs.
    length : int
        Length of the second stretch, in bytes.
    """
    return _times(_zeros(length), first) ^ second if length else first


@lru_cache(maxsize=256)
def _zeros(length: int) -> Matrix:
    """Return the map that `length` zero bytes apply to a CRC."""
    step: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(31)))  # one zero bit
    for _ in range(3):
        step = _product(step, step)
    found: Matrix = tuple(1 << bit for bit in range(32))
    while length:
        if length & 1:
            found = _product(step, found)
        step, length = _product(step, step), length >> 1
    return found


def _product(one: Matrix, other: Matrix) -> Matrix:
    return tuple(_times(one, column) for column in other)


def _times(matrix: Matrix, bits: int) -> int:
    found = 0
    for column in matrix:
        if bits & 1:
            found ^= column
        bits >>= 1
    return found
