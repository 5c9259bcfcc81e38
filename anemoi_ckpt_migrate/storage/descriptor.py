"""Descriptors of open files whose bytes lie elsewhere, and the functions that read from any descriptor.

A local file is a plain number. An object of a store is a local file of the same length, full of holes: before bytes are
read, they are fetched. So all code of the store that reads an open file uses the functions here, or calls `fetch`
before the kernel reads for it (a copy, a mapping).
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

Range = tuple[int, int]
"""A stretch of a file: its first byte, and the one after the last."""


class FetchedDescriptor(int):
    """The descriptor of a local file whose bytes are fetched before they are read."""

    @abstractmethod
    def fetch(self, ranges: Iterable[Range]) -> None:
        """Make sure that some stretches of the file hold their bytes; those beyond its end count as there."""

    @abstractmethod
    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a stretch, without keeping those in the file that were not there."""


class AssembledDescriptor(int):
    """The descriptor of a new file that can take stretches of others without reading their bytes."""

    @abstractmethod
    def take(self, source: int, start: int, end: int, to: int, progress: Callable[[int], None] | None) -> bool:
        """Note that bytes `start` to `end` of another file stand at `to`; return False if they have to be copied."""


def fetch(descriptor: int, start: int, end: int) -> None:
    """Make sure that a stretch of an open file can be read."""
    fetch_all(descriptor, [(start, end)])


def fetch_all(descriptor: int, ranges: Iterable[Range]) -> None:
    """Make sure that stretches of an open file can be read; together, they take less time than one by one."""
    if isinstance(descriptor, FetchedDescriptor):
        descriptor.fetch(ranges)


def read_at(descriptor: int, count: int, start: int) -> bytes:
    """Return so many bytes of an open file from an offset on; fewer at its end."""
    fetch(descriptor, start, start + count)
    return os.pread(descriptor, count, start)


def read_into(descriptor: int, buffer: memoryview, start: int) -> int:
    """Fill a buffer with the bytes of an open file from an offset on, and return their number."""
    fetch(descriptor, start, start + len(buffer))
    return os.preadv(descriptor, [buffer], start)
