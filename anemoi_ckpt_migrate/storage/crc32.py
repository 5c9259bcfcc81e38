"""The CRC-32 of two stretches of bytes together, from the CRCs of both: without reading them again."""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits in reverse: PKWARE's APPNOTE, 4.4.7
Matrix = tuple[int, ...]
"""A linear map of 32 bits, over the field of two elements: what becomes of each bit."""


def combined(first: int, second: int, length: int) -> int:
    """Return the CRC of one stretch of bytes and another behind it.

    Parameters
    ----------
    first, second : int
        Their CRCs.
    length : int
        How many bytes the second one has.
    """
    return _times(_zeros(length), first) ^ second if length else first


@lru_cache(maxsize=256)
def _zeros(length: int) -> Matrix:
    """Return what so many zero bytes behind it do to a CRC."""
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
