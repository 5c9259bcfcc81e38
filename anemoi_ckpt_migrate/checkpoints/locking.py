"""One writer at a time for each checkpoint, and the tidying up after one that died."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import Busy

_TEMPORARY = ".tmp"


def beside(target: Path) -> Path:
    """Return a name, hidden and new, for the file that is to become `target`."""
    return target.with_name(f"{_hidden(target)}.{os.urandom(4).hex()}{_TEMPORARY}")


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
    path = target.with_name(f"{_hidden(target)}.lock")
    descriptor = _acquire(path)
    try:
        for left in target.parent.glob(f"{_literally(_hidden(target))}.????????{_TEMPORARY}"):
            with contextlib.suppress(OSError):
                left.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):  # a file without its lock is none
            os.unlink(path)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(os.fspath(path)) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and our locking it


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _hidden(target: Path) -> str:
    """Return what the hidden files beside a checkpoint start with; names may have 255 bytes, and those are longer."""
    name = os.fsencode(target.name)
    return f".{target.name}" if len(name) < 240 else f".{zlib.crc32(name):08x}"


def _literally(name: str) -> str:
    """Spell a name so that a glob matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
