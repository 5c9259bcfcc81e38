"""Check for enough room before the first byte is written."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from anemoi_ckpt_migrate.errors import NoRoom, TooMuchAsked
from anemoi_ckpt_migrate.storage.url import Location, Url

_WIDER = 16
"""Largest ratio between the sizes of two dtypes: one byte to a complex number of sixteen."""
_ALWAYS = 64 << 20


def check_asked(count: int, length: int) -> None:
    """Check that the rollback of operations does not create far more bytes than the checkpoint has.

    Parameters
    ----------
    count : int
        Number of bytes to create, by the record.
    length : int
        Number of bytes in the checkpoint.

    Raises
    ------
    TooMuchAsked
        It creates too many: no operation on this checkpoint can need that much to be undone.
    """
    if count > _WIDER * length + _ALWAYS:
        raise TooMuchAsked(count, length)


def check_room(target: Location, made: int, size: int) -> None:
    """Check that there is room for a file.

    Only new bytes count against the free space, because copies may share their blocks with the old file. If they do
    not, and there is too little space, writing fails half way and leaves everything unchanged.

    Parameters
    ----------
    target : Path or Url
        The file; it need not exist yet. An object is put together in the folder of temporary files.
    made : int
        Number of new bytes.
    size : int
        Minimal size of the file, in bytes.

    Raises
    ------
    NoRoom
        There is too little room.
    """
    folder = _temporary_folder() if isinstance(target, Url) else target.parent
    largest = _largest_file()
    if largest is not None and size > largest:
        raise NoRoom(size, largest, "the largest file that this process may write", disk_is_full=False)
    if hasattr(os, "statvfs"):
        try:
            found = os.statvfs(folder)
        except OSError:  # then writing will report the reason
            return
        free = found.f_bavail * found.f_frsize
        if made > free:
            raise NoRoom(made, free, f"the free space in {folder}")


def _temporary_folder() -> Path:
    import tempfile  # only objects in stores need it

    return Path(tempfile.gettempdir())


def _largest_file() -> int | None:
    """Return the largest allowed file size, by ``ulimit -f``; None if unlimited."""
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft
