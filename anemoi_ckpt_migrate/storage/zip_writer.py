"""Lay out a changed checkpoint: copy some records from the old file, write the others anew."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from anemoi_ckpt_migrate.storage import zip_archive as zipped
from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range, start_writing, write_at
from anemoi_ckpt_migrate.storage.crc32 import combined

_WORTH_SHARING = 64 * zipped.PADDING


class Streamed(Protocol):
    """Content that is computed while the file is written."""

    def __len__(self) -> int: ...

    def prepare(self) -> None:
        """Start computing in the background."""

    def stretches(self) -> list[tuple[int, int, int | None]] | None:
        """Return its places in the old file: from, to, and the CRC if known; None if it does not lie there."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the content, if it does not lie in the old file."""


Content = bytes | memoryview | Streamed
"""Content of a record."""


@dataclass(frozen=True)
class Contents:
    """The content of a file to write.

    Attributes
    ----------
    root : str
        The folder that holds all records.
    kept : list of Record
        Records copied unchanged from the old file, headers included.
    new : mapping of str to bytes, memoryview or Streamed
        New records, by name without the root.
    loose : mapping of str to (int, int)
        Content in the old file without a header: start and end in bytes, by name without the root.
    """

    root: str
    kept: list[zipped.ZipEntry]
    new: Mapping[str, Content]
    loose: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def changed(
    archive: zipped.Archive,
    stream: Callable[[], BinaryIO],
    new: Mapping[str, Content | None],
    gone: Iterable[str],
) -> Contents:
    """Return the content of a changed file.

    Parameters
    ----------
    archive : Archive
        The old file.
    stream : callable
        Opens the old file.
    new : mapping of str to bytes, memoryview, Streamed or None
        Changed records, by name without the root; None removes one.
    gone : iterable of str
        Names of further records to remove.
    """
    kept, loose = dict(archive.records), dict(archive.loose)
    for name in (*new, *gone):
        kept.pop(name, None)
        loose.pop(name, None)
    with stream() as opened:
        for record in kept.values():
            zipped.payload_offset(opened, record)  # a wrong header would be copied as it is
    there = {name: content for name, content in new.items() if content is not None}
    return Contents(archive.root, list(kept.values()), there, loose)


def write_new(contents: Contents, source: int, target: int, progress: Progress | None) -> None:
    """Write a whole file.

    Parameters
    ----------
    contents : Contents
        The content.
    source, target : int
        Descriptors of the old file and of the new, empty one.
    progress : callable or None
        Called with the number of bytes copied, from time to time.

    Raises
    ------
    OSError
        The system refused.
    """
    writer = _Writer(source, target, contents.root, 0)
    pickled, payloads = _split(contents.new)
    for name, content in pickled.items():
        writer.add(name, content)
    for start, end, members in zipped.runs(contents.kept):
        writer.copy_run(source, start, end, members, progress)
    for name, (start, end) in contents.loose.items():
        writer.copy_loose(source, name, start, end, progress)
    writer.add_all(payloads)
    writer.finish()


def append(contents: Contents, source: int, target: int, length: int) -> None:
    """Append the new records to a file; kept records stay in their place.

    Parameters
    ----------
    contents : Contents
        The content.
    source, target : int
        Its descriptors, for reading and for writing.
    length : int
        Its length, in bytes.

    Raises
    ------
    OSError
        The system refused; part of the content may be written.
    """
    writer = _Writer(source, target, contents.root, length)
    writer.entries += contents.kept
    writer.add_all(contents.new)
    writer.finish()


class _Writer:
    """Writes records one after the other, then the table of contents."""

    def __init__(self, source: int, target: int, root: str, offset: int) -> None:
        self._source, self._target, self._root, self._offset = source, target, root, offset
        self.entries: list[zipped.ZipEntry] = []

    def add_all(self, contents: Mapping[str, Content]) -> None:
        """Write records; while one is written, the next one is computed."""
        items = list(contents.items())
        for place, (name, content) in enumerate(items):
            for _, following in items[place + 1 : place + 2]:
                if not isinstance(following, (bytes, memoryview)):
                    following.prepare()
            self.add(name, content)

    def add(self, name: str, content: Content) -> None:
        """Write a record."""
        if not isinstance(content, (bytes, memoryview)):
            self._stream(name, content)
            return
        self._begin(zipped.new_record(f"{self._root}/{name}", self._offset, content))
        write_at(self._target, content, self._offset)
        self._offset += len(content)

    def _stream(self, name: str, content: Streamed) -> None:
        """Write a record whose CRC is known only after its content; the header comes last."""
        at = header_at = self._offset
        at += len(zipped.local_header(f"{self._root}/{name}", header_at, len(content), 0))
        crc, end = 0, at
        for start, stop, known in content.stretches() or ():
            copy_range(self._source, self._target, start, stop, end)
            own = zipped.checksum(self._source, start, stop) if known is None else known
            crc, end = combined(crc, own, stop - start), end + stop - start
        for chunk in content.chunks() if end == at and len(content) else ():
            crc = zlib.crc32(chunk, crc)
            write_at(self._target, chunk, end)
            start_writing(self._target, end, len(chunk))
            end += len(chunk)
        if end - at != len(content):
            raise OSError(errno.EIO, "a computed tensor has the wrong size")
        self._begin(zipped.ZipEntry(f"{self._root}/{name}", header_at, header_at, len(content), crc, zipped.UTF8))
        self._offset = end

    def copy_run(
        self, source: int, start: int, end: int, members: list[zipped.ZipEntry], progress: Progress | None
    ) -> None:
        """Copy adjacent records."""
        # Payload stays aligned, and long stretches can share their blocks with the old file.
        self._offset += (start - self._offset) % (zipped.PADDING if end - start > _WORTH_SHARING else zipped.ALIGNMENT)
        copy_range(source, self._target, start, end, self._offset, progress)
        self.entries += [zipped.moved(record, self._offset - start) for record in members]
        self._offset += end - start

    def copy_loose(self, source: int, name: str, start: int, end: int, progress: Progress | None) -> None:
        """Copy content, and write a header before it."""
        crc = zipped.checksum(source, start, end)
        self._begin(zipped.ZipEntry(f"{self._root}/{name}", self._offset, self._offset, end - start, crc, zipped.UTF8))
        copy_range(source, self._target, start, end, self._offset, progress)
        self._offset += end - start

    def finish(self) -> None:
        """Write the table of contents."""
        write_at(self._target, zipped.directory(self.entries, self._offset), self._offset)

    def _begin(self, record: zipped.ZipEntry) -> None:
        header = zipped.local_header(record.name, self._offset, record.size, record.crc)
        write_at(self._target, header, self._offset)
        self.entries.append(record)
        self._offset += len(header)


def _split(new: Mapping[str, Content]) -> tuple[dict[str, Content], dict[str, Content]]:
    """Separate the small records, which are read first, from payload."""
    payloads = {name: content for name, content in new.items() if name.startswith("data/")}
    return {name: content for name, content in new.items() if name not in payloads}, payloads
