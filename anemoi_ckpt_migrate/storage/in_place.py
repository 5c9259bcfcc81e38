"""Change a file in place, with a journal beside it that tells how the file is whole.

The journal is durable before the file is touched, and removed once all changes are durable. So a file with a journal
was interrupted while it was written. A `JournalMark` gives the length at which the file is whole: the run appended to
it, or cut it. A `HeaderMark` gives the bytes of its header too, which the run wrote over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from anemoi_ckpt_migrate.errors import CannotWrite, ForeignJournal, HalfWritten, HasOtherNames
from anemoi_ckpt_migrate.storage.atomic_replace import (
    changed_meanwhile,
    check_writable,
    opened,
    sync_folder,
    unwritable,
)
from anemoi_ckpt_migrate.storage.copy_range import write_at
from anemoi_ckpt_migrate.storage.lock import JOURNAL, beside, create, locked, name_anew, name_beside
from anemoi_ckpt_migrate.storage.zip_archive import checksum
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

_FORMAT, _HEADER_FORMAT = 1, 2
_LONGEST = 1000  # length of a mark without a header, or of the line before the headers, in bytes
_PIECE = 1 << 16


class Mark(Protocol):
    """The content of a journal: it identifies a file, and tells how the file is whole.

    Attributes
    ----------
    length : int
        The length of the whole file, in bytes.
    start : bytes
        Its first bytes, if they may have been written over; else empty.
    """

    @property
    def length(self) -> int:
        """The length of the whole file, in bytes."""

    @property
    def start(self) -> bytes:
        """Its first bytes, if they may have been written over; else empty."""

    def fits(self, descriptor: int) -> bool:
        """Return whether an open file is the marked one, whole or in the middle of a change."""

    def content(self) -> tuple[bytes, ...]:
        """Return the content of the journal, in parts."""


@dataclass(frozen=True)
class JournalMark:
    """Identifies a file, and marks its end.

    Attributes
    ----------
    length : int
        Its length, in bytes.
    directory : int
        Start of its table of contents; the bytes from there to the end identify the file.
    crc : int
        CRC-32 of those bytes.
    """

    length: int
    directory: int
    crc: int
    start = b""

    def fits(self, descriptor: int) -> bool:
        """Return whether a file begins with the marked one."""
        long_enough = 0 <= self.directory < self.length <= os.fstat(descriptor).st_size
        return long_enough and checksum(descriptor, self.directory, self.length) == self.crc

    def content(self) -> tuple[bytes, ...]:
        """Return the content of a journal."""
        return (self.to_json(),)

    def to_json(self) -> bytes:
        """Return the mark as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> JournalMark | None:
        """Parse the content of a journal; None for anything else."""
        numbers = _numbers(content, _FORMAT, ("length", "directory", "crc"))
        return None if numbers is None else cls(*numbers)


@dataclass(frozen=True)
class HeaderMark:
    """Identifies a file whose header is written over, and holds the header with which it is whole.

    A journal of it is a line of JSON, followed by both headers.

    Attributes
    ----------
    length : int
        The length of the whole file, in bytes.
    start : bytes
        The header of the whole file.
    other : bytes
        The header, of the same length, that a run writes over it, or over which a run wrote this one.
    """

    length: int
    start: bytes
    other: bytes

    def fits(self, descriptor: int) -> bool:
        """Return whether a file is long enough, and each byte of its header is of one header or the other."""
        if os.fstat(descriptor).st_size < self.length:
            return False
        for at in range(0, len(self.start), _PIECE):
            one, other = self.start[at : at + _PIECE], self.other[at : at + _PIECE]
            found = os.pread(descriptor, len(one), at)
            if len(found) != len(one):
                return False
            if found not in (one, other) and not all(map(_either, found, one, other)):
                return False
        return True

    def content(self) -> tuple[bytes, ...]:
        """Return the content of a journal, in parts."""
        crc = zlib.crc32(self.other, zlib.crc32(self.start))
        said = {"format": _HEADER_FORMAT, "length": self.length, "header": len(self.start), "crc": crc}
        return (json.dumps(said).encode() + b"\n", self.start, self.other)

    @classmethod
    def read(cls, descriptor: int) -> HeaderMark | None:
        """Read a journal from its beginning; None for anything else."""
        line, end, _ = os.pread(descriptor, _LONGEST, 0).partition(b"\n")
        numbers = _numbers(line, _HEADER_FORMAT, ("length", "header", "crc")) if end else None
        if numbers is None:
            return None
        length, size, crc = numbers
        at = len(line) + 1
        if not 0 < size <= length or at + 2 * size != os.fstat(descriptor).st_size:
            return None
        start, other = os.pread(descriptor, size, at), os.pread(descriptor, size, at + size)
        return cls(length, start, other) if zlib.crc32(other, zlib.crc32(start)) == crc else None


def _either(found: int, one: int, other: int) -> bool:
    return found in (one, other)


def _numbers(content: bytes, form: int, names: tuple[str, ...]) -> list[int] | None:
    """Return the numbers of a mark in JSON; None for anything else, or a mark of another format."""
    try:
        data = json.loads(content)
        numbers = [data[name] for name in names]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return numbers if data.get("format") == form and all(type(number) is int for number in numbers) else None


def restored(mark: Mark, descriptor: int) -> int:
    """Make a file whole by its mark, and durable. Return the number of bytes that were cut off."""
    surplus = os.fstat(descriptor).st_size - mark.length
    write_at(descriptor, mark.start, 0)
    if surplus > 0:
        os.ftruncate(descriptor, mark.length)
    os.fsync(descriptor)
    return surplus


def mark(descriptor: int, length: int, directory: int) -> JournalMark:
    """Describe the first `length` bytes of an open file, whose table of contents starts at `directory`."""
    return JournalMark(length, directory, checksum(descriptor, directory, length))


def journal_of(target: Path) -> Path:
    """Return the path of the journal that exists while a file is written."""
    return name_beside(target, JOURNAL)


def whole_state(target: Path, descriptor: int) -> Mark | None:
    """Return how an open file is whole, if a journal shows an interrupted write; else None: as it is."""
    left = _read(journal_of(target))
    return left if left is not None and left.fits(descriptor) else None


def is_interrupted(path: str | os.PathLike[str]) -> bool:
    """Return whether a journal shows that a run in place was interrupted on a file."""
    target = Path(os.path.realpath(path))
    if not os.path.lexists(journal_of(target)):
        return False
    with opened(target) as descriptor:
        return whole_state(target, descriptor) is not None


def recover(path: Path) -> int | None:
    """Restore a file on which a run in place was interrupted.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    int or None
        Number of bytes cut off; None if nothing was wrong.

    Raises
    ------
    Busy
        The run is still at work.
    ForeignJournal
        The journal does not belong to the file.
    CannotWrite
        The system refused.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError:  # not a file name; opening it will report that
        return None
    if not os.path.lexists(journal_of(target)):
        return None
    try:
        with locked(target):
            return _recovered(target)
    except OSError as error:
        raise unwritable(error, target) from error


@contextlib.contextmanager
def changing(target: Path, before: os.stat_result, old: Mark, shorter: Mark | None = None) -> Iterator[int]:
    """Open a file to append to it, or to write over its header; afterwards the changes are durable or undone.

    Parameters
    ----------
    target : Path
        The file; not a symbolic link.
    before : os.stat_result
        The file as it was when it was read.
    old : Mark
        The same as a mark, for the journal.
    shorter : Mark, optional
        The file afterwards, if it is to be cut at last. Then the journal holds this mark: nothing brings back what is
        cut off, so an interrupted run is completed instead of undone.

    Raises
    ------
    Busy, ReadOnly, HasOtherNames, CannotWrite
        The file is unchanged.
    HalfWritten
        The old state could not be restored, or the new one not completed; `recover` does that.
    """
    with _opened(target, before) as descriptor:
        _write(target, shorter or old)
        try:
            yield descriptor
            if shorter is None:
                os.fsync(descriptor)
                os.unlink(journal_of(target))
        except BaseException:
            _put_back(target, descriptor, old)
            raise
        if shorter is not None:
            _cut_off(target, descriptor, shorter.length)
        _sync_folder(target)


def cut(target: Path, before: os.stat_result, earlier: JournalMark) -> None:
    """Cut a file back to an earlier state. Even if interrupted, the file has its old or its new state.

    Parameters
    ----------
    target : Path
        The file; not a symbolic link.
    before : os.stat_result
        The file as it was when it was read.
    earlier : JournalMark
        The state to cut back to.

    Raises
    ------
    Busy, ReadOnly, HasOtherNames, CannotWrite
        The file is unchanged.
    HalfWritten
        The system did not confirm the cut; `recover` completes it.
    """
    with _opened(target, before) as descriptor:
        _write(target, earlier)  # a long stretch may be freed in steps, with a power cut between two of them
        try:
            os.ftruncate(descriptor, earlier.length)
        except BaseException:
            with contextlib.suppress(OSError):  # if the journal stays, the next run completes this cut
                os.unlink(journal_of(target))
            raise
        _cut_off(target, descriptor, earlier.length)
        _sync_folder(target)


@contextlib.contextmanager
def _opened(target: Path, before: os.stat_result) -> Iterator[int]:
    try:
        with locked(target):
            if changed_meanwhile(os.stat(target), before):
                raise CannotWrite("another program changed the file in the meantime; run the command again")
            check_own(target)
            descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
    except OSError as error:
        raise unwritable(error, target) from error


def check_own(target: Path) -> None:
    """Refuse to write within a file that is protected or has other names.

    Raises
    ------
    ReadOnly, HasOtherNames
        The file is protected, or has other names.
    """
    check_writable(target)
    names = os.stat(target).st_nlink
    if names > 1:
        raise HasOtherNames(names - 1)


def _cut_off(target: Path, descriptor: int, length: int) -> None:
    """Cut a file whose journal gives that length, and remove the journal."""
    try:
        if os.fstat(descriptor).st_size > length:
            os.ftruncate(descriptor, length)
        os.fsync(descriptor)
        os.unlink(journal_of(target))
    except OSError as error:
        raise HalfWritten(os.strerror(error.errno or errno.EIO).lower()) from error


def _put_back(target: Path, descriptor: int, old: Mark) -> None:
    try:
        restored(old, descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(journal_of(target))
        sync_folder(target.parent)
    except OSError as error:
        raise HalfWritten(os.strerror(error.errno or errno.EIO).lower()) from error


def _recovered(target: Path) -> int | None:
    journal = journal_of(target)
    old = _read(journal)
    if old is None and not os.path.lexists(journal):  # the run of the journal has ended in the meantime
        return None
    check_writable(target)
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        if old is None or not old.fits(descriptor):
            raise ForeignJournal(os.fspath(journal))
        surplus = restored(old, descriptor)
    finally:
        os.close(descriptor)
    os.unlink(journal)
    sync_folder(target.parent)
    return surplus


def _sync_folder(target: Path) -> None:
    try:
        sync_folder(target.parent)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        lost = "after a power cut, `recover` may restore the old content"
        raise CannotWrite(f"the file is written, but syncing its folder failed ({reason}): {lost}") from error


def _write(target: Path, mark: Mark) -> None:
    """Write the journal beside the file, whole under its name or not at all. An existing file of that name stays."""
    journal, written = journal_of(target), beside(target)
    descriptor = create(written, 0o644)
    try:
        at = 0
        for part in mark.content():
            write_at(descriptor, part, at)
            at += len(part)
        os.fsync(descriptor)
        name_anew(written, journal)
    except FileExistsError:
        raise ForeignJournal(os.fspath(journal)) from None
    finally:
        with contextlib.suppress(OSError):  # the next run removes a leftover
            os.unlink(written)
        os.close(descriptor)
    try:
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # if the journal stays, the next run does by it what it can
            os.unlink(journal)
        raise


def _read(journal: Path) -> Mark | None:
    """Return the mark in a journal; None if it is missing or not a file of ours."""
    with opened_journal(journal) as descriptor:
        if descriptor is None:
            return None
        return JournalMark.from_json(os.pread(descriptor, _LONGEST, 0)) or HeaderMark.read(descriptor)


@contextlib.contextmanager
def opened_journal(journal: Path) -> Iterator[int | None]:
    """Open a journal for reading, and yield its descriptor; None if it is missing, a link, or no regular file."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)
