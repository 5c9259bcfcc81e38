"""One writer at a time for each checkpoint, and the tidying up after one that died."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import Busy

_TEMPORARY = ".tmp"
# Names may have 255 bytes, and those of files beside are longer.
_LONGEST = 240
# The file system has no such locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def beside(target: Path) -> Path:
    """Return a name, hidden and new, for the file that is to become `target`."""
    return target.with_name(f"{_hidden(target)}.{os.urandom(4).hex()}{_TEMPORARY}")


def name_beside(target: Path, suffix: str) -> Path:
    """Return the name of a file that belongs to `target` and that people should see."""
    name = os.fsencode(target.name)
    stem = target.name if len(name) < _LONGEST else f"{zlib.crc32(name):08x}"
    return target.with_name(f"{stem}{suffix}")


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a checkpoint; and remove what a writer left that died while it held it.

    The lock is a file beside the checkpoint with an advisory lock on it, which the kernel drops when the process ends,
    however it ends. Network file systems pass such locks on where they are set up to.

    Raises
    ------
    Busy
        Somebody else holds it.
    OSError
        The folder does not take the file.
    """
    descriptor, files = _acquire(target.with_name(f"{_hidden(target)}.lock"))
    try:
        for left in target.parent.glob(f"{_literally(_hidden(target))}.????????{_TEMPORARY}"):
            with contextlib.suppress(OSError):
                left.unlink()
        yield
    finally:
        for path in files:
            with contextlib.suppress(OSError):  # a file without its lock is none
                os.unlink(path)
        os.close(descriptor)


def _acquire(path: Path) -> tuple[int, list[Path]]:
    """Return the descriptor that holds the lock, and the files that go with it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            held = _lock(path, descriptor)
            if _is_still(path, descriptor):
                with contextlib.suppress(OSError):  # a lock that does not say whose it is locks too
                    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
                return descriptor, held
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and our locking it


def _lock(path: Path, descriptor: int) -> list[Path]:
    """Lock the file; where the file system has no such locks, make another one that only one can make."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        raise Busy(os.fspath(path), holder) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = path.with_name(f"{path.name}.held")
        try:
            os.close(os.open(held, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        except FileExistsError:
            raise Busy(os.fspath(held), stale=True) from None
        return [path, held]
    return [path]


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _hidden(target: Path) -> str:
    """Return what the hidden files beside a checkpoint start with."""
    return f".{name_beside(target, '').name}"


def _literally(name: str) -> str:
    """Spell a name so that a glob matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
