"""Replace a file whole or not at all: write beside the old one, sync, then rename over it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, DiskFull, ReadOnly
from anemoi_ckpt_migrate.storage import foreign_formats
from anemoi_ckpt_migrate.storage.copy_range import copy_range
from anemoi_ckpt_migrate.storage.lock import NO_LINKS, beside, create, locked, name_anew
from anemoi_ckpt_migrate.storage.url import Location, Url
from anemoi_ckpt_migrate.util.dataclass import dataclass

_NO_ATTRIBUTES = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}
Place = TypeVar("Place", Path, Url)


@dataclass(frozen=True)
class Written:
    """Where a checkpoint was written.

    Attributes
    ----------
    path : Path or Url
        The new file.
    backup : Path, Url or None
        The old file.
    """

    path: Location
    backup: Location | None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading, and yield its descriptor.

    Raises
    ------
    CannotRead
        The file is missing, a directory, not a regular file, or not readable for you.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CannotRead(_why_unreadable(error, path)) from error
    except ValueError as error:
        raise CannotRead(f"it is not a valid file name ({error})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CannotRead("it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacement(target: Path, source: int, before: os.stat_result | None) -> Iterator[Replacement]:
    """Yield a new file beside `target`, and remove it again unless it was published.

    Parameters
    ----------
    target : Path
        Final path of the file; not a symbolic link.
    source : int
        Descriptor of the file being read; the new one gets its permissions.
    before : os.stat_result or None
        The file at `target` when reading began, which is to be replaced. None if nothing may exist there.

    Raises
    ------
    Busy
        Another run is writing the same file.
    CannotWrite
        The folder or the disk refuses the file; everything is unchanged.
    """
    try:
        with locked(target):
            new = Replacement(beside(target), target, before)
            try:
                keep_modes(source, new.descriptor)
                yield new
            finally:
                new.discard()
    except OSError as error:
        raise unwritable(error, target) from error


class Replacement:
    """A file that is written beside the one it replaces.

    Attributes
    ----------
    descriptor : int
        The open new file.
    """

    def __init__(self, path: Path, target: Path, before: os.stat_result | None) -> None:
        self._beside, self._target, self._before = path, target, before
        self._check_unchanged()
        if before is not None:
            check_writable(target)
        self.descriptor = create(path, 0o600)

    def discard(self) -> None:
        """Remove the new file, unless it was published."""
        os.close(self.descriptor)
        with contextlib.suppress(OSError):  # the next run removes a leftover
            os.unlink(self._beside)

    def publish(self, backup: bool) -> Path | None:
        """Sync the new file and move it to the target.

        Parameters
        ----------
        backup : bool
            Keep the old file under a backup name.

        Returns
        -------
        Path or None
            The backup.

        Raises
        ------
        CannotWrite
            The old file has changed since it was read, or something now exists at the target.
        OSError
            The system refused; the target is unchanged.
        """
        os.fsync(self.descriptor)
        if self._before is None:
            self._publish_new()
            return None
        self._check_unchanged()
        kept = keep_backup(self._target) if backup else None
        try:
            os.replace(self._beside, self._target)
        except BaseException:  # Ctrl-C too: while the file stays, a backup would only be a second name of it
            if kept is not None:
                os.unlink(kept)
            raise
        self._sync_folder()
        return kept

    def _sync_folder(self) -> None:
        try:
            sync_folder(self._target.parent)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            lost = "after a power cut the old file may be back"
            raise CannotWrite(f"the new file is in place, but syncing its folder failed ({reason}): {lost}") from error

    def _check_unchanged(self) -> None:
        if self._before is not None and changed_meanwhile(os.stat(self._target), self._before):
            raise CannotWrite("another program changed the file in the meantime; run the command again")

    def _publish_new(self) -> None:
        try:
            name_anew(self._beside, self._target)
        except FileExistsError:
            raise CannotWrite(f"{self._target} exists already; remove it or write elsewhere") from None
        self._sync_folder()


def backup_names(place: Place) -> Iterator[Place]:
    """Yield the names of backups, without end: ``NAME.bak``, ``NAME.bak1`` and so on."""
    return (place.with_name(f"{place.name}.bak{number or ''}") for number in itertools.count())


def keep_backup(path: Path) -> Path:
    """Give the file at `path` a free second name: ``NAME.bak``, ``NAME.bak1`` and so on.

    The backup is a hard link where the file system has them, so that no bytes are copied; else it is a copy.
    """
    return next(kept for kept in backup_names(path) if _second(path, kept))


def _second(path: Path, kept: Path) -> bool:
    """Link a file to a name, or copy it there; return False if the name is taken."""
    try:
        try:
            os.link(path, kept)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _copy(path, kept)
    except FileExistsError:
        return False
    return True


def keep_modes(source: int, target: int) -> None:
    """Give an open file the permissions of another; also its owner and extended attributes (ACLs) where allowed."""
    before = os.fstat(source)
    mine = os.fstat(target)
    if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(target, before.st_uid, before.st_gid)
    os.fchmod(target, stat.S_IMODE(before.st_mode))
    for name in _attributes(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:  # some belong to the system, and another file system may have none
            if error.errno not in _NO_ATTRIBUTES:
                raise


def _attributes(descriptor: int) -> list[str]:
    try:
        return os.listxattr(descriptor)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        return []


def changed_meanwhile(now: os.stat_result, before: os.stat_result) -> bool:
    """Return whether a path now leads to a different file, or the file was written to."""
    first, second = ((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in (now, before))
    return first != second


def check_writable(target: Path) -> None:
    """Refuse a file that its owner protected, even for users (root) that the system lets write it.

    Raises
    ------
    ReadOnly
        The file is protected.
    """
    if not os.stat(target).st_mode & 0o222 or not os.access(target, os.W_OK):
        raise ReadOnly


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(path: Path, kept: Path) -> None:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = create(kept, 0o600)
        try:
            copy_range(source, target, 0, os.fstat(source).st_size, 0)
            keep_modes(source, target)
            before = os.fstat(source)
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))  # a record may know the backup by its time
            os.fsync(target)
        except BaseException:
            os.unlink(kept)
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)


def _why_unreadable(error: OSError, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        text = os.fspath(path)
        return foreign_formats.kind_of_url(text) if foreign_formats.is_url(text) else "there is no such file"
    if isinstance(error, PermissionError):
        return "you may not read it (permission denied)"
    return f"it cannot be read ({os.strerror(error.errno or errno.EIO)})"


def unwritable(error: OSError, target: Path) -> CannotWrite:
    """Return the error for a failed write, with the reason and a remedy."""
    reason = os.strerror(error.errno or errno.EIO).lower()
    way = {
        errno.ENOSPC: "free some space, or write elsewhere with --output",
        errno.EDQUOT: "free some of your quota, or write elsewhere with --output",
        errno.EACCES: f"allow writing to {target.parent}, or write elsewhere with --output",
        errno.EROFS: "write elsewhere with --output",
    }.get(error.errno or 0, "run the command again once that is fixed")
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else CannotWrite
    return kind(f"the new file could not be written ({reason}): {way}; nothing was changed")
