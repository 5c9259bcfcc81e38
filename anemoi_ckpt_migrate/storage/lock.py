"""Allow one writer at a time for each checkpoint, and clean up after a dead one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import Busy, InTheWay
from anemoi_ckpt_migrate.storage.folder_names import FolderNames, folders_listed_once, names_in
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_TEMPORARY = ".tmp"
JOURNAL = ".journal"
"""The suffix of the name of a journal."""
# Of written files: zip archives, journals, and the metadata of a distributed checkpoint.
_BEGINNINGS = (b"PK\3\4", b'{"format', b"\x80\x04\x8c%torch.distributed.checkpoint.metadata")
_TOKEN = lazy_regex(r"[0-9a-f]{8}")
# Names may have 255 bytes, and the files beside have longer names.
_LONGEST = 240
# The file system has no such locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""The file system has no hard links, or none here."""
# A lock names its holder, or is empty, or (after a power cut) holds part of the name, or zeros.
_HOLDER, _LONGEST_HOLDER = b"process ", 400


def beside(target: Path, token: str = "") -> Path:
    """Return a hidden name for something that belongs to `target`: a new one, or that with a token of 8 hex digits."""
    return target.with_name(f"{_hidden(target)}.{token or os.urandom(4).hex()}{_TEMPORARY}")


def is_beside(name: str, target: Path) -> bool:
    """Return whether a name is one that `beside` gives."""
    start = f"{_hidden(target)}."
    token = name.removeprefix(start).removesuffix(_TEMPORARY)
    return name == f"{start}{token}{_TEMPORARY}" and _TOKEN.fullmatch(token) is not None


def name_beside(target: Path, suffix: str) -> Path:
    """Return the name of a file that belongs to `target` and should be visible."""
    name = os.fsencode(target.name)
    stem = target.name if len(name) < _LONGEST else f"{zlib.crc32(name):08x}"
    return target.with_name(f"{stem}{suffix}")


def create(path: Path, mode: int) -> int:
    """Create a file and return its descriptor; refuse an existing name, even a symbolic link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def name_anew(path: Path, name: Path) -> None:
    """Give a file a second, free name. Where there are no hard links, rename it.

    Raises
    ------
    FileExistsError
        The name is taken.
    """
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(name)) from None
        os.replace(path, name)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a checkpoint, and remove leftovers of writers that died while they held it.

    The lock is a file beside the checkpoint with an advisory lock on it, which the kernel drops whenever the process
    ends. Network file systems pass such locks on if they are configured for it.

    Raises
    ------
    Busy
        Another process holds the lock.
    InTheWay
        The name of the lock is taken by something else: a link, a folder, a file with other content.
    OSError
        The folder refuses the file.
    """
    with contextlib.ExitStack() as held:
        was_held = _acquire(target.with_name(f"{_hidden(target)}.lock"), held)
        # Who dies with the lock leaves it: then the names are read anew, else they may be known from another file.
        _remove_left(target, FolderNames(target.parent) if was_held else names_in(target.parent))
        yield


@dataclass(frozen=True)
class _File:
    """An open file of ours beside a checkpoint."""

    path: Path
    descriptor: int

    def is_named(self) -> bool:
        """Return whether the name still means this file."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the name, unless it now means another file."""
        with contextlib.suppress(OSError):  # without its lock, the file locks nothing
            if self.is_named():
                os.unlink(self.path)


def _acquire(path: Path, held: contextlib.ExitStack) -> bool:
    """Take the lock, and return whether it names a holder, who died; `held` will release it."""
    while True:
        with contextlib.ExitStack() as trying:
            lock = _File(path, _opened(path))
            trying.callback(os.close, lock.descriptor)
            _lock(lock, trying)
            if lock.is_named():  # else its holder removed it between open and lock
                was_held = bool(os.fstat(lock.descriptor).st_size)
                with contextlib.suppress(OSError):  # a lock without the name of its holder locks too
                    os.pwrite(lock.descriptor, _HOLDER + f"{os.getpid()} on {os.uname().nodename}".encode(), 0)
                held.push(trying.pop_all())
                return was_held


def _opened(path: Path) -> int:
    """Open the file of a lock, or create it; another file of that name stays untouched."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise InTheWay(os.fspath(path), "lock") from error
        raise
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not is_file or not _is_holder(os.pread(descriptor, _LONGEST_HOLDER, 0)):
            raise InTheWay(os.fspath(path), "lock")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_holder(content: bytes) -> bool:
    said = content.rstrip(b"\0")
    begins = said.startswith(_HOLDER) or _HOLDER.startswith(said)
    return begins and b"\n" not in said and len(content) < _LONGEST_HOLDER


def _lock(lock: _File, held: contextlib.ExitStack) -> None:
    """Lock the file. If the file system has no such locks, create a second file, which only one process can do."""
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock.descriptor, _LONGEST_HOLDER, 0).rstrip(b"\0").decode(errors="replace")
        raise Busy(os.fspath(lock.path), holder) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        path = lock.path.with_name(f"{lock.path.name}.held")
        try:
            made = _File(path, create(path, 0o644))
        except FileExistsError:
            raise Busy(os.fspath(path), stale=True) from None
        held.callback(os.close, made.descriptor)
        held.callback(made.remove)
    held.callback(lock.remove)


def remove_left(path: Path) -> None:
    """Remove the files that interrupted runs left beside a checkpoint, unless one is still at work on it."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(Busy, InTheWay, OSError), folders_listed_once(), locked(target):
        pass  # if it did not work, the next writer tries again


def _remove_left(target: Path, names: FolderNames) -> None:
    """Remove our half-written files; other files of such a name stay. Only the holder of the lock may do so."""
    for name in names.beginning_with(f"{_hidden(target)}."):
        if is_beside(name, target):
            _remove_if_ours(target.with_name(name), target)


def _remove_if_ours(path: Path, target: Path) -> None:
    """Remove a file if it looks like a leftover of a writer of `target`."""
    with contextlib.suppress(OSError):  # the next writer looks at a leftover again
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if _is_left(os.fstat(descriptor), os.pread(descriptor, max(map(len, _BEGINNINGS)), 0), target):
                _File(path, descriptor).remove()
        finally:
            os.close(descriptor)


def _is_left(found: os.stat_result, start: bytes, target: Path) -> bool:
    """Return whether a writer of `target` may have left a file, by its owner, its names and its first bytes."""
    there = [os.stat(path) for path in (target, name_beside(target, JOURNAL)) if path.exists()]
    # A writer gives the new file to the owner of the old one, and links a new file to its name.
    owned = found.st_uid in {os.geteuid(), *(each.st_uid for each in there)}
    alone = found.st_nlink == 1 or any(os.path.samestat(found, each) for each in there)
    # Unwritten bytes are missing, or zeros.
    begins = any(each.startswith(start[: len(each)].rstrip(b"\0")) for each in _BEGINNINGS)
    return stat.S_ISREG(found.st_mode) and owned and alone and begins


def _hidden(target: Path) -> str:
    """Return the common prefix of the hidden files beside a checkpoint."""
    return f".{name_beside(target, '').name}"
