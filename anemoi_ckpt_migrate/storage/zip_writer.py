"""Lay out a changed checkpoint: copy some entries from the old file, write the others anew."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Protocol

from anemoi_ckpt_migrate.storage import zip_archive
from anemoi_ckpt_migrate.storage.copy_range import Progress, start_writing, write_at
from anemoi_ckpt_migrate.storage.crc32 import combined
from anemoi_ckpt_migrate.storage.zip_archive import ALIGNMENT, PADDING, UTF8, Archive, ZipEntry
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.members import Members

_WORTH_SHARING = 64 * PADDING
_SMALL, _AT_ONCE = 1 << 16, 1 << 20  # content that is read to be copied, and bytes that are written at once


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
"""Content of an entry."""


@dataclass(frozen=True)
class Contents:
    """The content of a file to write.

    Attributes
    ----------
    root : str
        The folder that holds all entries.
    kept : list of ZipEntry
        Entries copied unchanged from the old file, headers included.
    new : mapping of str to bytes, memoryview or Streamed
        New entries, by name without the root.
    loose : mapping of str to (int, int)
        Content in the old file without a header: start and end in bytes, by name without the root.
    last : tuple of str
        Names of entries that come last in the table of contents, so that its end leads to them.
    """

    root: str
    kept: list[ZipEntry]
    new: Mapping[str, Content]
    loose: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    last: tuple[str, ...] = ()


def changed(
    archive: Archive,
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
        Changed entries, by name without the root; None removes one.
    gone : iterable of str
        Names of further entries to remove.
    """
    kept, loose = dict(archive.entries), dict(archive.loose)
    for name in (*new, *gone):
        kept.pop(name, None)
        loose.pop(name, None)
    with stream() as opened:
        zip_archive.expect_headers(opened, kept.values())
        for entry in kept.values():
            zip_archive.payload_offset(opened, entry)  # a wrong header would be copied as it is
    there = {name: content for name, content in new.items() if content is not None}
    return Contents(archive.root, list(kept.values()), there, loose)


def write_new(contents: Contents, source: Members, target: int, progress: Progress | None, base: int = 0) -> int:
    """Write a whole archive, and return its length.

    Parameters
    ----------
    contents : Contents
        The content.
    source : Members
        The old files.
    target : int
        The descriptor of the new file.
    progress : callable or None
        Called with the number of bytes copied, from time to time.
    base : int
        Where the archive begins in the new file.

    Raises
    ------
    OSError
        The system refused.
    """
    writer = _Writer(source, target, contents, 0, base)
    pickled, payloads = _split(contents.new)
    for name, content in pickled.items():
        writer.add(name, content)
    for start, end, members in zip_archive.runs(contents.kept):
        writer.copy_run(start, end, members, progress)
    for name, (start, end) in contents.loose.items():
        writer.copy_loose(name, start, end, progress)
    writer.add_all(payloads)
    return writer.finish()


def append(contents: Contents, source: Members, target: int, length: int) -> None:
    """Append the new entries to a file; kept entries stay in their place.

    Parameters
    ----------
    contents : Contents
        The content.
    source : Members
        The file, for reading.
    target : int
        Its descriptor, for writing.
    length : int
        Its length, in bytes.

    Raises
    ------
    OSError
        The system refused; part of the content may be written.
    """
    writer = _Writer(source, target, contents, length)
    writer.keep(contents.kept)
    writer.add_all(contents.new)
    writer.finish()


class _Writer:
    """Writes entries one after the other, then the table of contents."""

    def __init__(self, source: Members, target: int, contents: Contents, offset: int, base: int = 0) -> None:
        self._source, self._target, self._root, self._last = source, target, contents.root, contents.last
        self._offset, self._base = offset, base
        self._waiting: list[bytes | memoryview] = []
        self._waits_for = self._waits_from = offset
        self._lines: list[bytes] = []
        self._last_lines: dict[str, bytes] = {}

    def keep(self, entries: Iterable[ZipEntry], shift: int = 0) -> None:
        """Put entries of the old file into the table of contents: they are copied `shift` bytes further on."""
        self._lines += [zip_archive.line(entry, shift) for entry in entries]

    def add_all(self, contents: Mapping[str, Content]) -> None:
        """Write entries; while one is written, the next one is computed."""
        items = list(contents.items())
        for place, (name, content) in enumerate(items):
            for _, following in items[place + 1 : place + 2]:
                if not isinstance(following, (bytes, memoryview)):
                    following.prepare()
            self.add(name, content)

    def add(self, name: str, content: Content) -> None:
        """Write an entry."""
        if not isinstance(content, (bytes, memoryview)):
            self._stream(name, content)
            return
        self._begin(zip_archive.new_entry(f"{self._root}/{name}", self._offset, content))
        self._put(content)

    def _stream(self, name: str, content: Streamed) -> None:
        """Write an entry whose CRC is known only after its content; the header comes last."""
        stretches = content.stretches() or ()
        small = self._small(content, stretches) if len(content) <= _SMALL else None
        if small is not None:
            _check_size(len(small), content)
            self.add(name, small)
            return
        self._flush()
        at = header_at = self._offset
        at += len(zip_archive.local_header(f"{self._root}/{name}", header_at, len(content), 0))
        crc, end = 0, at
        for start, stop, known in stretches:
            self._source.copy(self._target, start, stop, self._base + end)
            own = self._source.checksum(start, stop) if known is None else known
            crc, end = combined(crc, own, stop - start), end + stop - start
        for chunk in content.chunks() if end == at and len(content) else ():
            crc = zlib.crc32(chunk, crc)
            write_at(self._target, chunk, self._base + end)
            start_writing(self._target, self._base + end, len(chunk))
            end += len(chunk)
        _check_size(end - at, content)
        self._begin(ZipEntry(f"{self._root}/{name}", header_at, header_at, len(content), crc, UTF8))
        self._flush()
        self._offset = end

    def _small(self, content: Streamed, stretches: Iterable[tuple[int, int, int | None]]) -> bytes | None:
        """Return short content; None if a stretch of it is damaged, so that its CRC has to go with it."""
        if not stretches:
            return b"".join(content.chunks()) if len(content) else b""
        parts = []
        for start, stop, known in stretches:
            part = self._source.read(start, stop - start)
            if known is not None and zlib.crc32(part) != known:
                return None
            parts.append(part)
        return b"".join(parts)

    def _put(self, content: bytes | memoryview) -> None:
        """Write bytes; short ones wait for more, because there may be a hundred thousand of them."""
        if self._waits_for != self._offset:
            self._flush()
        if not self._waiting:
            self._waits_from = self._offset
        self._waiting.append(content)
        self._offset += len(content)
        self._waits_for = self._offset
        if self._waits_for - self._waits_from > _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            write_at(self._target, waiting[0], self._base + self._waits_from)
        elif waiting:
            write_at(self._target, b"".join(waiting), self._base + self._waits_from)

    def copy_run(self, start: int, end: int, members: list[ZipEntry], progress: Progress | None) -> None:
        """Copy adjacent entries."""
        # Payload stays aligned, and long stretches can share their blocks with the old file.
        self._offset += (start - self._offset) % (PADDING if end - start > _WORTH_SHARING else ALIGNMENT)
        self._source.copy(self._target, start, end, self._base + self._offset, progress)
        self.keep(members, self._offset - start)
        self._offset += end - start

    def copy_loose(self, name: str, start: int, end: int, progress: Progress | None) -> None:
        """Copy content, and write a header before it."""
        crc = self._source.checksum(start, end)
        self._begin(ZipEntry(f"{self._root}/{name}", self._offset, self._offset, end - start, crc, UTF8))
        self._source.copy(self._target, start, end, self._base + self._offset, progress)
        self._offset += end - start

    def finish(self) -> int:
        """Write the table of contents, and return the length of the archive."""
        self._flush()
        last = [self._last_lines[name] for name in self._last]
        directory = zip_archive.directory([*self._lines, *last], self._offset)
        write_at(self._target, directory, self._base + self._offset)
        return self._offset + len(directory)

    def _begin(self, entry: ZipEntry) -> None:
        header = zip_archive.local_header(entry.name, self._offset, entry.size, entry.crc)
        name = entry.name.removeprefix(f"{self._root}/")
        if name in self._last:
            self._last_lines[name] = zip_archive.line(entry)
        else:
            self._lines.append(zip_archive.line(entry))
        self._put(header)


def _check_size(size: int, content: Streamed) -> None:
    if size != len(content):
        raise OSError(errno.EIO, "a computed tensor has the wrong size")


def _split(new: Mapping[str, Content]) -> tuple[dict[str, Content], dict[str, Content]]:
    """Separate the small entries, which are read first, from payload."""
    payloads = {name: content for name, content in new.items() if name.startswith("data/")}
    return {name: content for name, content in new.items() if name not in payloads}, payloads
