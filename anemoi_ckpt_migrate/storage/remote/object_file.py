"""An object of a store as a local file full of holes, which are filled before they are read."""

from __future__ import annotations

import bisect
import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint
from anemoi_ckpt_migrate.storage.copy_range import write_at
from anemoi_ckpt_migrate.storage.descriptor import FetchedDescriptor, Range

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.remote.store import RemoteObject, Store

_LEAST = 64 << 10
"""The least bytes of a request: they hold most headers of safetensors, and the table of contents of most archives."""
_MOST = 8 << 20  # bytes of a request
_AT_ONCE = 4


@contextlib.contextmanager
def explained_room() -> Iterator[None]:
    """Say where the bytes of an object go if there is no room for them."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise CannotRead(
            f"its bytes go to the folder of temporary files, which refuses them ({reason}); set TMPDIR to another"
        ) from error


class ObjectFile(FetchedDescriptor):
    """The descriptor of a local file that holds those bytes of an object that were asked for.

    Attributes
    ----------
    store : Store
        The store.
    source : RemoteObject
        The object.
    """

    store: Store
    source: RemoteObject

    @classmethod
    def over(cls, descriptor: int, store: Store, source: RemoteObject) -> ObjectFile:
        """Make a local file as long as an object, full of holes.

        Parameters
        ----------
        descriptor : int
            An empty file.
        store, source
            The attributes.
        """
        made = cls(descriptor)
        made.store, made.source = store, source
        made._present, made._lock, made._requests, made._was_replaced = [], threading.Lock(), 0, False
        with explained_room():
            os.ftruncate(descriptor, source.size)
        return made

    _present: list[Range]
    _lock: threading.Lock
    _requests: int
    _was_replaced: bool

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Fill the holes in some stretches."""
        with self._lock:
            wanted = [hole for start, end in ranges for hole in self._holes(start, end)]
            if not wanted:
                return
            holes = _joined(wanted, _LEAST)
            if len(holes) == 1:  # else the caller knows what it needs
                holes = [self._widened(*holes[0])]
            pieces = [piece for start, end in holes for piece in _cut(start, end)]
            self._requests += len(pieces)
            if len(pieces) == 1:
                self._fill(pieces[0])
            else:
                with ThreadPoolExecutor(_AT_ONCE) as threads:
                    list(threads.map(self._fill, pieces))
            self._present = _joined([*self._present, *pieces], 0)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a stretch; what is not there is fetched and not kept, so a copy needs no space twice."""
        waiting = list(_cut(start, min(end, self.source.size)))
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                yield from threads.map(self._piece, batch)

    def _piece(self, piece: Range) -> bytes:
        with self._lock:
            is_there = not self._holes(*piece)
            self._requests += not is_there
        return os.pread(self, piece[1] - piece[0], piece[0]) if is_there else self.store.read(self.source, *piece)

    def note_replaced(self) -> None:
        """Note that this run has replaced the object, so that it has to differ."""
        self._was_replaced = True

    def check_unchanged(self) -> None:
        """Refuse an object of which two reads may have seen two versions.

        Raises
        ------
        CannotRead
            It has changed.
        """
        if not (self.store.reads_one_version or self._was_replaced) and self._requests > 1:
            self.store.check_unchanged(self.source)

    def _fill(self, piece: Range) -> None:
        content = self.store.read(self.source, *piece)
        with explained_room():
            write_at(self, content, piece[0])

    def _holes(self, start: int, end: int) -> list[Range]:
        """Return the holes in a stretch. It is rounded to pages: a mapping may keep a page as it is when first used."""
        start = max(0, start) // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(-(-end // mmap.PAGESIZE) * mmap.PAGESIZE, self.source.size)
        found, place = [], max(0, bisect.bisect_right(self._present, (start, self.source.size)) - 1)
        for first, last in self._present[place:]:
            if first >= end:
                break
            if start < first:
                found.append((start, first))
            start = max(start, last)
        return [*found, (start, end)] if start < end else found

    def _widened(self, start: int, end: int) -> Range:
        """Return a stretch of at least the least length: what follows comes along, or what precedes the end."""
        if end - start < _LEAST:
            following = [first for first, _ in self._present if first >= end]
            end = min([start + _LEAST, *following, self.source.size])
        if end == self.source.size and end - start < _LEAST:
            preceding = [last for _, last in self._present if last <= start]
            start = max([(end - _LEAST) // mmap.PAGESIZE * mmap.PAGESIZE, *preceding, 0])
        return start, end


def _joined(ranges: Iterable[Range], distance: int) -> list[Range]:
    """Return ranges in order, with those joined that are not further apart than a distance."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + distance:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _cut(start: int, end: int) -> Iterator[Range]:
    while start < end:
        yield start, min(end, start + _MOST)
        start += _MOST


@contextlib.contextmanager
def object_file(path: Path, store: Store, source: RemoteObject) -> Iterator[ObjectFile]:
    """Yield an object as an open local file; refuse it at the end if it has changed in the meantime.

    Parameters
    ----------
    path : Path
        The local file to make.
    store : Store
        The store.
    source : RemoteObject
        The object.

    Raises
    ------
    CannotRead
        The store refused, or the object has changed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        file = ObjectFile.over(descriptor, store, source)
        try:
            yield file
        except NotACheckpoint:
            file.check_unchanged()  # two versions, read as one, look like a damaged file
            raise
        file.check_unchanged()
    finally:
        os.close(descriptor)
