"""A file grows at its end, or is cut, with a journal beside it that tells how much of it is whole in any case.

The journal is durable before the file is touched, and goes when all that was done to the file is durable. So a file
with a journal is one whose writing was interrupted: as many of its first bytes as the journal says are a whole one.
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
from anemoi_ckpt_migrate.storage.lock import beside, create, locked, name_anew, name_beside
from anemoi_ckpt_migrate.storage.zip_archive import checksum

_FORMAT = 1
_LONGEST = 1000  # a journal, in bytes


@dataclass(frozen=True)
class Mark:
    """How to know a file, and where it ended.

    Attributes
    ----------
    length : int
        Its length, in bytes.
    directory : int
        Where its table of contents starts: that stretch, to the end, is what it is known by.
    crc : int
        CRC-32 of that stretch.
    """

    length: int
    directory: int
    crc: int

    def fits(self, descriptor: int) -> bool:
        """Tell whether a file begins with the one that is meant."""
        long_enough = 0 <= self.directory < self.length <= os.fstat(descriptor).st_size
        return long_enough and checksum(descriptor, self.directory, self.length) == self.crc

    def to_json(self) -> bytes:
        """Return it as the bytes of a journal."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Mark | None:
        """Read it; None if the bytes are something else."""
        try:
            data = json.loads(content)
            numbers = [data[name] for name in ("length", "directory", "crc")]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        known = data.get("format") == _FORMAT and all(type(number) is int for number in numbers)
        return cls(*numbers) if known else None


def mark(descriptor: int, length: int, directory: int) -> Mark:
    """Describe the first `length` bytes of an open file, whose table of contents starts at `directory`."""
    return Mark(length, directory, checksum(descriptor, directory, length))


def journal_of(target: Path) -> Path:
    """Return where the journal of a file lies while it is being written."""
    return name_beside(target, ".journal")


def whole_length(target: Path, descriptor: int) -> int:
    """Return how much of an open file is whole: all of it, unless a journal says that it was being written."""
    left = _read(journal_of(target))
    if left is not None and left.fits(descriptor):
        return left.length
    return os.fstat(descriptor).st_size


def recover(path: Path) -> int | None:
    """Cut a file back to what it was before an interrupted run wrote at its end.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    int or None
        How many bytes were cut off; None if there was nothing to mend.

    Raises
    ------
    Busy
        The run is not interrupted, but still at work.
    ForeignJournal
        The journal does not belong to the file.
    CannotWrite
        The system does not let us.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError:  # no file name; who opens it will say so
        return None
    if not os.path.lexists(journal_of(target)):
        return None
    try:
        with locked(target):
            return _cut_back(target)
    except OSError as error:
        raise CannotWrite(why_unwritable(error, target)) from error


@contextlib.contextmanager
def growing(target: Path, before: os.stat_result, old: Mark) -> Iterator[int]:
    """Open a file to be written at its end; what is written is durable afterwards, or gone.

    Parameters
    ----------
    target : Path
        The file; not a symbolic link.
    before : os.stat_result
        What it was when it was read.
    old : Mark
        The same, as the journal is to describe it.

    Raises
    ------
    Busy, ReadOnly, HasOtherNames, CannotWrite
        The file is as it was.
    HalfWritten
        It could not be put back; `recover` does that.
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


def cut(target: Path, before: os.stat_result, earlier: Mark) -> None:
    """Cut a file back to what it was earlier: whatever happens, it is as it was or as it is to be.

    Parameters
    ----------
    target : Path
        The file; not a symbolic link.
    before : os.stat_result
        What it was when it was read.
    earlier : Mark
        What is to be left of it.

    Raises
    ------
    Busy, ReadOnly, HasOtherNames, CannotWrite
        The file is as it was.
    HalfWritten
        The system did not confirm the cut; `recover` sees to it.
    """
    with _opened(target, before) as descriptor:
        _write(target, earlier)  # a long stretch may be given back in steps, and the power go between two of them
        try:
            os.ftruncate(descriptor, earlier.length)
        except BaseException:
            with contextlib.suppress(OSError):  # if it stays, the next run does what was asked for here
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
                raise CannotWrite("the file was changed by somebody else meanwhile; run the command again")
            check_own(target)
            descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
    except OSError as error:
        raise CannotWrite(why_unwritable(error, target)) from error


def check_own(target: Path) -> None:
    """Refuse to write within a file that is protected, or that has other names.

    Raises
    ------
    ReadOnly, HasOtherNames
        It is so.
    """
    check_writable(target)
    names = os.stat(target).st_nlink
    if names > 1:
        raise HasOtherNames(names - 1)


def _put_back(target: Path, descriptor: int, old: Mark) -> None:
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
    if old is None and not os.path.lexists(journal):  # the run that it belonged to has come to its end meanwhile
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
        lost = "after a power cut it may count as interrupted, and be brought back to what it was"
        raise CannotWrite(f"the file is written, but its folder not synced ({reason}): {lost}") from error


def _write(target: Path, old: Mark) -> None:
    """Write the journal beside the file, whole under its name or not at all; whatever has its name stays."""
    journal, written = journal_of(target), beside(target)
    descriptor = create(written, 0o644)
    try:
        write_at(descriptor, old.to_json(), 0)
        os.fsync(descriptor)
        name_anew(written, journal)
    except FileExistsError:
        raise ForeignJournal(os.fspath(journal)) from None
    finally:
        with contextlib.suppress(OSError):  # what stays is removed by the next run
            os.unlink(written)
        os.close(descriptor)
    try:
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # if it stays, it says that the file is whole as it is
            os.unlink(journal)
        raise


def _read(journal: Path) -> Mark | None:
    """Return what a journal says; None if it is missing, or anything else than a small file."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return Mark.from_json(os.read(descriptor, _LONGEST)) if is_file else None
    finally:
        os.close(descriptor)
