"""Whether there is room for what is to be written: asked before the first byte is."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from anemoi_ckpt_migrate.errors import NoRoom, TooMuchAsked

_WIDER = 16
"""How many times the bytes of one dtype another can have: from one byte to a complex number of sixteen."""
_ALWAYS = 64 << 20


def check_asked(count: int, length: int) -> None:
    """Check that undoing operations does not make far more than the checkpoint has.

    Parameters
    ----------
    count : int
        How many bytes are to be made, as what a record says.
    length : int
        How many the checkpoint has.

    Raises
    ------
    TooMuchAsked
        It does: nothing that was ever applied to the checkpoint is undone so.
    """
    if count > _WIDER * length + _ALWAYS:
        raise TooMuchAsked(count, length)


def check_room(target: Path, made: int, size: int) -> None:
    """Check that a file has room.

    Only what is made counts against the free space: what is copied may share its blocks with the old file. If it does
    not, and there is too little, writing fails half way, which leaves everything as it was.

    Parameters
    ----------
    target : Path
        The file; it need not be there yet.
    made : int
        How many bytes are written that no file has.
    size : int
        How many the file will have, at least.

    Raises
    ------
    NoRoom
        It has not.
    """
    largest = _largest_file()
    if largest is not None and size > largest:
        raise NoRoom(size, largest, "the largest file that this process may write")
    if hasattr(os, "statvfs"):
        try:
            found = os.statvfs(target.parent)
        except OSError:  # then writing will say why
            return
        free = found.f_bavail * found.f_frsize
        if made > free:
            raise NoRoom(made, free, f"the free space in {target.parent}")


def _largest_file() -> int | None:
    """Return how large a file may be, as ``ulimit -f`` says; None if as large as the disk."""
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft
