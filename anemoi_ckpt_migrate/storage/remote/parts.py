"""The parts of a multipart upload: some are uploaded, some are ranges of an object that is in the store already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.remote.store import RemoteObject

SMALLEST, MOST = 5 << 20, 10_000
"""The least bytes of a part that is not the last one, and the largest number of parts (S3's limits)."""
_UPLOADED, _COPIED = 16 << 20, 1 << 30


class Taken(NamedTuple):
    """A range of another object in a new one.

    Attributes
    ----------
    to : int
        Its first byte in the new object.
    source : RemoteObject
        The other object.
    start, end : int
        The range there.
    """

    to: int
    source: RemoteObject
    start: int
    end: int

    @property
    def stop(self) -> int:
        """The end of the range in the new object."""
        return self.to + self.end - self.start


class Part(NamedTuple):
    """A part of a new object.

    Attributes
    ----------
    start, end : int
        Its place in the new object.
    taken : Taken or None
        The range of another object that it is, exactly; None if it is uploaded.
    """

    start: int
    end: int
    taken: Taken | None = None


def parts_of(size: int, ranges: Iterable[Taken]) -> list[Part]:
    """Part a new object so that as little as possible is uploaded.

    A range that is too short for a part of its own is uploaded. So is the beginning of a longer one if less than a
    part stands before it.

    Parameters
    ----------
    size : int
        The length of the new object, in bytes.
    ranges : iterable of Taken
        The ranges of other objects that it holds, in order.
    """
    smallest = max(SMALLEST, -(-size // (MOST // 4)))
    found: list[Part] = []
    begin = 0  # of the bytes to upload that no part holds yet
    for taken in ranges:
        first = taken.to
        if begin < first:
            first = max(first, begin + smallest)
        is_last = taken.stop == size
        if taken.stop - first < (1 if is_last else smallest):
            continue
        found += _cut(begin, first, _UPLOADED, size)
        for part in _cut(first, taken.stop, _COPIED, size):
            shift = taken.start - taken.to
            inner = Taken(part.start, taken.source, part.start + shift, part.end + shift)
            found.append(part._replace(taken=inner))
        begin = taken.stop
    return found + list(_cut(begin, size, _UPLOADED, size))


def _cut(start: int, end: int, length: int, size: int) -> Iterator[Part]:
    """Cut a stretch into parts; the last one may be longer, so that none is too short."""
    length = max(length, -(-size // (MOST // 4)))
    while start < end:
        stop = start + length if end - start >= 2 * length else end
        yield Part(start, stop)
        start = stop
