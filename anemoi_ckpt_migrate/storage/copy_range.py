"""Copy bytes from file to file, by the best means of the kernel."""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Callable, Iterator

from anemoi_ckpt_migrate.storage.descriptor import AssembledDescriptor, FetchedDescriptor

BLOCK = 4096
"""File systems that share blocks between files do so where both offsets are multiples of it, in bytes."""

# Bytes per call: large enough to hide the cost of calls, small enough to show progress and start the disk early.
_CHUNK = 32 << 20
_BUFFER = 1 << 20
# Linux, include/uapi/linux/fs.h: FICLONERANGE and its argument.
_CLONE_RANGE, _CLONE_ARGUMENT = 0x4020940D, struct.Struct("=qQQQ")
_START_WRITING = 2  # include/uapi/linux/fs.h: SYNC_FILE_RANGE_WRITE
_NOT_THIS_WAY = {
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ETXTBSY,
    errno.EBADF,
}

Progress = Callable[[int], None]
# Copies some of `count` bytes from `start` of the source to `to` of the target, and returns how many.
Way = Callable[[int, int, int, int, int], int]


def copy_range(source: int, target: int, start: int, end: int, to: int, progress: Progress | None = None) -> None:
    """Copy bytes `start` to `end` of one open file to offset `to` of another.

    Blocks are shared if the file system can do that (a reflink). Otherwise the kernel copies (``copy_file_range``, then
    ``sendfile``). Otherwise the bytes go through a small buffer.

    Parameters
    ----------
    source, target : int
        File descriptors.
    start, end, to : int
        Offsets in bytes.
    progress : callable, optional
        Called with the number of bytes copied, after each stretch.

    Raises
    ------
    OSError
        Reading or writing failed, or the source ended early.
    """
    if isinstance(target, AssembledDescriptor) and target.take(source, start, end, to, progress):
        return
    if isinstance(source, FetchedDescriptor):
        _write_pieces(source.pieces(start, end), target, to, progress)
    else:
        _copy_local(source, target, start, end, to, progress)


def _write_pieces(pieces: Iterator[bytes], target: int, to: int, progress: Progress | None) -> None:
    for piece in pieces:
        write_at(target, piece, to)
        to += len(piece)
        if progress is not None:
            progress(len(piece))


def _copy_local(source: int, target: int, start: int, end: int, to: int, progress: Progress | None) -> None:
    ways = list(WAYS)
    while start < end:
        count, copied = min(end - start, _CHUNK), 0
        while not copied:
            try:
                copied = ways[0](source, target, count, start, to)
            except OSError as error:
                if error.errno not in _NOT_THIS_WAY or len(ways) == 1:
                    raise
            if not copied:  # refused, or (on some file systems) nothing done
                if len(ways) == 1:
                    raise OSError(errno.EIO, "the file became shorter while it was read")
                del ways[0]
        if copied >= _BUFFER:
            start_writing(target, to, copied)
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


def start_writing(target: int, offset: int, count: int) -> None:
    """Let the kernel write copied bytes to disk while the next are copied. It is a hint; fsync still does the rest."""
    start = _sync_file_range()
    if start is not None:
        start(target, offset, count, _START_WRITING)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's ``sync_file_range``, which Python lacks; None if the system has none."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def _share(source: int, target: int, count: int, start: int, to: int) -> int:
    """Share whole blocks, and copy the bytes before the first and after the last one."""
    import fcntl

    if (start - to) % BLOCK:
        raise OSError(errno.EINVAL, "the offsets do not fit")
    lead = -start % BLOCK
    if count < lead + BLOCK:
        return _kernel_copy(source, target, count, start, to)
    if lead:
        return _kernel_copy(source, target, lead, start, to)
    whole = count - count % BLOCK
    fcntl.ioctl(target, _CLONE_RANGE, _CLONE_ARGUMENT.pack(source, start, whole, to))
    return whole


def _kernel_copy(source: int, target: int, count: int, start: int, to: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.copy_file_range(source, target, count, start, to)


def _send(source: int, target: int, count: int, start: int, to: int) -> int:
    os.lseek(target, to, os.SEEK_SET)
    return os.sendfile(target, source, start, count)


def _through_memory(source: int, target: int, count: int, start: int, to: int) -> int:
    content = os.pread(source, min(count, _BUFFER), start)
    write_at(target, content, to)
    return len(content)


WAYS: tuple[Way, ...] = (_share, _kernel_copy, _send, _through_memory)
"""The ways to copy, best first."""
