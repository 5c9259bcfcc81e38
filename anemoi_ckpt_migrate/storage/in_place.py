"""Append to a file, or cut it, with a journal beside it that gives a length at which the file is whole.

The journal is durable before the file is touched, and removed once all changes are durable. So a file with a journal
was interrupted while it was written, and the length in the journal gives a whole file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ForeignJournal, HalfWritten, HasOtherNames
from anemoi_ckpt_migrate.storage.atomic_replace import changed_meanwhile, check_writable, sync_folder, why_unwritable
from anemoi_ckpt_migrate.storage.copy_range import write_at
from anemoi_ckpt_migrate.storage.lock import JOURNAL, beside, create, locked, name_anew, name_beside
from anemoi_ckpt_migrate.storage.zip_archive import checksum

_FORMAT = 1
_LONGEST = 1000  # length of a journal, in bytes


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

    def fits(self, descriptor: int) -> bool:
        """Return whether a file begins with the marked one."""
        long_enough = 0 <= self.directory < self.length <= os.fstat(descriptor).st_size
        return long_enough and checksum(descriptor, self.directory, self.length) == self.crc

    def to_json(self) -> bytes:
        """Return the content of a journal."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> JournalMark | None:
        """Parse the content of a journal; None for anything else."""
        try:
            data = json.loads(content)
            numbers = [data[name] for name in ("length", "directory", "crc")]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        known = data.get("format") == _FORMAT and all(type(number) is int for number in numbers)
        return cls(*numbers) if known else None


def mark(descriptor: int, length: int, directory: int) -> JournalMark:
    """Describe the first `length` bytes of an open file, whose table of contents starts at `directory`."""
    return JournalMark(length, directory, checksum(descriptor, directory, length))


def journal_of(target: Path) -> Path:
    """Return the path of the journal that exists while a file is written."""
    return name_beside(target, JOURNAL)


def whole_length(target: Path, descriptor: int) -> int:
    """Return the whole length of an open file: all of it, unless a journal shows an interrupted write."""
    left = _read(journal_of(target))
    if left is not None and left.fits(descriptor):
        return left.length
    return os.fstat(descriptor).st_size


def recover(path: Path) -> int | None:
    """Cut a file back to its state before an interrupted run wrote at its end.

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
            return _cut_back(target)
    except OSError as error:
        raise CannotWrite(why_unwritable(error, target)) from error


@contextlib.contextmanager
def growing(target: Path, before: os.stat_result, old: JournalMark) -> Iterator[int]:
    """Open a file for appending; afterwards the new bytes are durable or removed.

    Parameters
    ----------
    target : Path
        The file; not a symbolic link.
    before : os.stat_result
        The file as it was when it was read.
    old : JournalMark
        The same as a mark, for the journal.

    Raises
    ------
    Busy, ReadOnly, HasOtherNames, CannotWrite
        The file is unchanged.
    HalfWritten
        The old state could not be restored; `recover` does that.
    """
    with _opened(target, before) as descriptor:
        _write(target, old)
        try:
            yield descriptor
            os.fsync(descriptor)
            os.unlink(journal_of(target))
        except BaseException:
            _put_back(target, descriptor, old)
            raise
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
        try:
            os.fsync(descriptor)
            os.unlink(journal_of(target))
        except OSError as error:
            raise HalfWritten(os.strerror(error.errno or errno.EIO).lower()) from error
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
        raise CannotWrite(why_unwritable(error, target)) from error


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


def _put_back(target: Path, descriptor: int, old: JournalMark) -> None:
    try:
        if os.fstat(descriptor).st_size > old.length:
            os.ftruncate(descriptor, old.length)
            os.fsync(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(journal_of(target))
        sync_folder(target.parent)
    except OSError as error:
        raise HalfWritten(os.strerror(error.errno or errno.EIO).lower()) from error


def _cut_back(target: Path) -> int | None:
    journal = journal_of(target)
    old = _read(journal)
    if old is None and not os.path.lexists(journal):  # the run of the journal has ended in the meantime
        return None
    check_writable(target)
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        if old is None or not old.fits(descriptor):
            raise ForeignJournal(os.fspath(journal))
        surplus = os.fstat(descriptor).st_size - old.length
        os.ftruncate(descriptor, old.length)
        os.fsync(descriptor)
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


def _write(target: Path, old: JournalMark) -> None:
    """Write the journal beside the file, whole under its name or not at all. An existing file of that name stays."""
    journal, written = journal_of(target), beside(target)
    descriptor = create(written, 0o644)
    try:
        write_at(descriptor, old.to_json(), 0)
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
        with contextlib.suppress(OSError):  # if the journal stays, it marks the unchanged file as whole
            os.unlink(journal)
        raise


def _read(journal: Path) -> JournalMark | None:
    """Return the mark in a journal; None if it is missing or not a small file."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return JournalMark.from_json(os.read(descriptor, _LONGEST)) if is_file else None
    finally:
        os.close(descriptor)
