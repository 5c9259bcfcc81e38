"""A checkpoint that is one file."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.storage.atomic_replace import Replacement, Written, check_writable, replacement
from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, Checkpoint, FolderOptions
from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range
from anemoi_ckpt_migrate.storage.in_place import check_own
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.shard_sets import check_whole
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.url import Location, Url, real_path

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
    from anemoi_ckpt_migrate.storage.remote.new_object import NewObject


class NewFile(NamedTuple):
    """A file to write.

    Attributes
    ----------
    made, size : int
        The number of bytes that are not copied from the old file, and of all bytes.
    write : callable
        Takes the descriptor of an empty file and a function for progress, and writes the file.
    """

    made: int
    size: int
    write: Callable[[int, Progress | None], object]


class SingleFile(Checkpoint):
    """An open checkpoint file. Each format of files is a subclass.

    Parameters
    ----------
    path : Path or Url
        The path as the user named it.
    descriptor : int
        The open file.
    before : os.stat_result
        The file when it was opened.
    length : int
        Length of the checkpoint in the file, in bytes.
    """

    def __init__(self, path: Location, descriptor: int, before: os.stat_result, length: int) -> None:
        self._descriptor, self._before = descriptor, before
        super().__init__(path, Members([(descriptor, length)]), length)

    @abstractmethod
    def fits(self, name: str) -> bool:
        """Return whether a file of this format may have a name."""

    def check_writable(self, in_place: bool) -> None:
        """Refuse early a file that writing would refuse."""
        if isinstance(self._place, Url):
            from anemoi_ckpt_migrate.storage.remote.new_object import check_writable as check_store

            check_store(self._place, in_place)
        elif in_place:
            self._check_in_place()
            check_own(self._target)
        else:
            check_writable(self._target)

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a changed checkpoint, whole or not at all."""
        content = self._new_file(pickled, attachments)
        check_room(self._place if output is None else real_path(output), content.made, content.size)
        with self._replacement(output) as new:
            content.write(new.descriptor, progress)
            return self._published(new, output, backup)

    @abstractmethod
    def _check_in_place(self) -> None:
        """Refuse a format that cannot be written in place, with `NotInPlace`."""

    @abstractmethod
    def _new_file(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> NewFile:
        """Lay out the changed checkpoint. Parameters are those of `write`."""

    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the file unchanged: to `output`, where nothing may exist, or (an earlier state) over the current file.

        Raises
        ------
        CannotWrite
            As for `write`.
        """
        with self._replacement(output) as new:
            copy_range(self._descriptor, new.descriptor, 0, self.length, 0, progress)
            return self._published(new, output, backup)

    def _published(self, new: Replacement | NewObject, output: Location | None, backup: bool) -> Written:
        kept = new.publish(backup)
        if kept is not None and not self.path.is_symlink():
            kept = self.path.with_name(kept.name)  # uses the folder name of the user
        return Written(output or self.path, kept)

    def _replacement(self, output: Location | None) -> contextlib.AbstractContextManager[Replacement | NewObject]:
        check_whole(self.path)
        if output is not None and not self.fits(output.name):
            raise UsageError(
                f"the new file has the format of {self.path.name}, so give {output} a name with the same ending"
            )
        place = self._place if output is None else real_path(output)
        if isinstance(place, Url):
            from anemoi_ckpt_migrate.storage.remote.new_object import new_object

            return new_object(place, self._descriptor if output is None else None)
        return replacement(place, self._descriptor, self._before if output is None else None)
