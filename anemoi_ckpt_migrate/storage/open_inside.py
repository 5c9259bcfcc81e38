"""Open files of a folder, but none outside of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from anemoi_ckpt_migrate.errors import CannotRead, Refused


def place_inside(folder: Path, name: str) -> Path:
    """Return the real path of a file of a folder.

    Raises
    ------
    Refused
        It is a link that leads out of the folder, and not into the files of a cache of the Hugging Face Hub.
    """
    own = Path(os.path.realpath(folder))
    roots = [own, *([own.parent.parent / "blobs"] if own.parent.name == "snapshots" else [])]
    place = Path(os.path.realpath(folder / name))
    if not any(place.is_relative_to(root) for root in roots):
        raise Refused(f"{name} in it is a link that leads out of the folder, so it is not read; copy the file there")
    return place


@contextmanager
def opened_inside(folder: Path, name: str) -> Iterator[int]:
    """Open a file of a folder for reading, and yield its descriptor.

    Raises
    ------
    CannotRead, Refused
        It is missing, no regular file, or a link that leads out of the folder.
    """
    place = place_inside(folder, name)
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CannotRead(f"{name} in it cannot be read ({os.strerror(error.errno or 0).lower()})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CannotRead(f"{name} in it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


class FolderSource(Protocol):
    """The source of the files of a folder; those of a store are local only in part."""

    @property
    def path(self) -> Path:
        """The local folder with their names and lengths."""

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Open a file of the folder for reading, and yield its descriptor."""

    def complete_all(self, without: Collection[str]) -> None:
        """Make all files of the folder, but some, whole local files."""


class LocalFolder:
    """A local folder.

    Attributes
    ----------
    path : Path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Open a file of the folder for reading, and yield its descriptor."""
        return opened_inside(self.path, name)

    def complete_all(self, without: Collection[str]) -> None:
        """Do nothing: they are whole."""
