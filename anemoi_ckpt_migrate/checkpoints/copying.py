"""Bytes from file to file, through the kernel where it can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

# So much in one call that the cost of calling vanishes, so little that progress shows.
_CHUNK = 256 << 20
_BUFFER = 1 << 20
_NO_KERNEL_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY, errno.EBADF}

Progress = Callable[[int], None]


def copy_range(source: int, target: int, start: int, end: int, to: int, progress: Progress | None = None) -> None:
    """Copy bytes `start` to `end` of one open file to offset `to` of another.

    Parameters
    ----------
    source, target : int
        File descriptors.
    start, end, to : int
        Offsets in bytes.
    progress : callable, optional
        Told how many bytes were copied, after each stretch.

    Raises
    ------
    OSError
        Reading or writing failed, or the source ended early.
    """
    kernel = getattr(os, "copy_file_range", None)
    while start < end:
        copied = 0
        if kernel is not None:
            try:
                copied = kernel(source, target, min(end - start, _CHUNK), start, to)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                kernel = None
        if not copied:  # no such call here, or (some file systems) one that does nothing
            kernel = None
            copied = _copy_through_memory(source, target, min(end - start, _BUFFER), start, to)
        start, to = start + copied, to + copied
        if progress is not None:
            progress(copied)


def write_at(target: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`.

    Raises
    ------
    OSError
        Writing failed.
    """
    view = memoryview(content)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def _copy_through_memory(source: int, target: int, count: int, start: int, to: int) -> int:
    content = os.pread(source, count, start)
    if not content:
        raise OSError(errno.EIO, "the file became shorter while it was read")
    write_at(target, content, to)
    return len(content)
