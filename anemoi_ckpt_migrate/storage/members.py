"""The bytes of the open files of a checkpoint, addressed as one stretch."""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Sequence
from typing import NamedTuple

from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.zip_archive import checksum


class Member(NamedTuple):
    """An open file of a checkpoint.

    Attributes
    ----------
    begin : int
        The address of its first byte; a multiple of the page size.
    descriptor : int
        The file.
    length : int
        The number of its bytes that belong to the checkpoint.
    """

    begin: int
    descriptor: int
    length: int


class Members:
    """The files of a checkpoint. A stretch of addresses never reaches from one file into the next.

    Parameters
    ----------
    files : sequence of (int, int)
        The descriptor of each file, and the number of its bytes.

    Attributes
    ----------
    all : list of Member
        The files, in order of their addresses.

    Examples
    --------
    >>> files = Members([(one, 4_000), (other, 100)])  # doctest: +SKIP
    >>> files.all[1].begin
    4096
    >>> files.read(4096 + 8, 2)  # two bytes of the second file
    b'{"'
    """

    def __init__(self, files: Sequence[tuple[int, int]]) -> None:
        self.all: list[Member] = []
        self._begins: list[int] = []
        self.end = 0
        for descriptor, length in files:
            self.add(descriptor, length)

    def add(self, descriptor: int, length: int) -> Member:
        """Add an open file, and return it with its address."""
        self.all.append(Member(self.end, descriptor, length))
        self._begins.append(self.end)
        self.end += (length // mmap.PAGESIZE + 1) * mmap.PAGESIZE  # at least one byte more, so that no two files touch
        return self.all[-1]

    def at(self, address: int) -> Member:
        """Return the file that holds an address."""
        return self.all[max(0, bisect.bisect_right(self._begins, address) - 1)]

    def read(self, start: int, count: int) -> bytes:
        """Return so many bytes from an address on; fewer at the end of the file."""
        member = self.at(start)
        return read_at(member.descriptor, count, start - member.begin)

    def checksum(self, start: int, end: int) -> int:
        """Return the CRC-32 of the bytes between two addresses."""
        member = self.at(start)
        return checksum(member.descriptor, start - member.begin, end - member.begin)

    def copy(self, target: int, start: int, end: int, to: int, progress: Progress | None = None) -> None:
        """Copy the bytes between two addresses to an offset of an open file, as `copy_range` does."""
        member = self.at(start)
        copy_range(member.descriptor, target, start - member.begin, end - member.begin, to, progress)
