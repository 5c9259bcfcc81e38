"""Facts about a file or a folder that is to be replaced, by which its backup is recognised later."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from anemoi_ckpt_migrate.storage.atomic_replace import backup_names
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class BackupFacts:
    """Facts about a backup, all known before there is one.

    Attributes
    ----------
    number : int
        The number of its name: 0 for ``NAME.bak``, 1 for ``NAME.bak1`` and so on.
    size : int
        Bytes of the file, or of all files of a folder.
    modified : int
        Nanoseconds since the epoch: when the file was last changed, or the latest file of a folder.
    files : str
        A digest of the names, sizes and times of all files of a folder; empty for a file.
    """

    number: int
    size: int
    modified: int
    files: str = ""


def facts_before(place: Path) -> BackupFacts | None:
    """Return facts about the backup that replacing a file or a folder will leave; None if it is neither."""
    number = next(number for number, kept in enumerate(backup_names(place)) if not os.path.lexists(kept))
    return facts_of(place, number)


def facts_of(place: Path, number: int) -> BackupFacts | None:
    """Return facts about a file or a folder; None if it is neither. A link is neither.

    Parameters
    ----------
    place : Path
        The file or folder.
    number : int
        The number of its name, if it is a backup.
    """
    own = os.lstat(place)
    if stat.S_ISREG(own.st_mode):
        return BackupFacts(number, own.st_size, own.st_mtime_ns)
    if not stat.S_ISDIR(own.st_mode):
        return None
    import hashlib  # only folders need it

    size, latest, digest = 0, 0, hashlib.sha256()
    for name, found in tree_of(place):
        if stat.S_ISDIR(found.st_mode):
            digest.update(name + b"/\0")
        else:
            size, latest = size + found.st_size, max(latest, found.st_mtime_ns)
            digest.update(b"%b\0%d\0%d\0" % (name, found.st_size, found.st_mtime_ns))
    return BackupFacts(number, size, latest, digest.hexdigest())


def tree_of(folder: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield all that a folder holds at any depth, by its path in the folder, sorted. Links are not followed."""
    top = os.fsencode(folder)
    names = [
        os.path.join(place, name) for place, folders, files in os.walk(top, onerror=_fail) for name in folders + files
    ]
    for name in sorted(names):
        yield os.path.relpath(name, top), os.lstat(name)


def _fail(error: OSError) -> NoReturn:
    raise error
