"""The backups beside a checkpoint: find them, open them as checkpoints, remove them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.storage.atomic_replace import changed_meanwhile, sync_folder
from anemoi_ckpt_migrate.storage.backup_facts import BackupFacts, facts_of, tree_of
from anemoi_ckpt_migrate.storage.folder_exchange import FolderState, rename_anew
from anemoi_ckpt_migrate.storage.folder_names import names_in
from anemoi_ckpt_migrate.storage.lock import beside, is_beside
from anemoi_ckpt_migrate.storage.open_file import open_checkpoint
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint

_NUMBER = lazy_regex(r"[1-9][0-9]{0,17}|")


@dataclass(frozen=True)
class Backup:
    """Something that has the name of a backup.

    Attributes
    ----------
    path : Path
        Its path.
    own : os.stat_result
        The file or folder itself; a link is not followed.
    facts : BackupFacts or None
        The facts by which a record knows it; None for all but files and folders.
    files : tuple of os.stat_result
        All files of it.
    """

    path: Path
    own: os.stat_result
    facts: BackupFacts | None
    files: tuple[os.stat_result, ...]

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(each.st_size for each in self.files)

    def has_changed(self) -> bool:
        """Return whether the path now leads to something else, or a file in it was changed, made or removed."""
        number = -1 if self.facts is None else self.facts.number
        try:
            return changed_meanwhile(os.lstat(self.path), self.own) or facts_of(self.path, number) != self.facts
        except FileNotFoundError:
            return True


def find_backups(place: Path) -> list[Backup]:
    """Return all that have the name of a backup of a file or folder, in the order of their numbers.

    Parameters
    ----------
    place : Path
        The file or folder; not a link.

    Raises
    ------
    OSError
        A folder among them cannot be searched.
    """
    start = f"{place.name}.bak"
    ends = [name.removeprefix(start) for name in names_in(place.parent).beginning_with(start)]
    numbers = sorted(int(end or 0) for end in ends if _NUMBER.fullmatch(end))
    found = (_seen(place.with_name(f"{start}{number or ''}"), number) for number in numbers)
    return [each for each in found if each is not None]


def _seen(path: Path, number: int) -> Backup | None:
    try:
        own = os.lstat(path)
        facts = facts_of(path, number)
        return Backup(path, own, facts, tuple(_files(path, own)))
    except FileNotFoundError:  # removed since the names were read
        return None


def _files(path: Path, own: os.stat_result) -> list[os.stat_result]:
    if not stat.S_ISDIR(own.st_mode):
        return [own]
    return [found for _, found in tree_of(path) if not stat.S_ISDIR(found.st_mode)]


def freed(files: Sequence[os.stat_result]) -> int:
    """Return the number of bytes that the removal of files frees: none of a file that keeps another name.

    Blocks that a file system shares between files are counted as if each had its own.
    """
    names = Counter((each.st_dev, each.st_ino) for each in files)
    known = {(each.st_dev, each.st_ino): each for each in files}
    return sum(each.st_size for key, each in known.items() if names[key] >= each.st_nlink)


@contextlib.contextmanager
def open_backup(path: Path) -> Iterator[Checkpoint]:
    """Open a backup as a checkpoint; the metadata of a distributed one with the files that they name.

    Raises
    ------
    MigrateError
        As for `open_checkpoint`.
    """
    if not path.name.startswith(f"{METADATA}."):
        with open_checkpoint(path) as found:
            yield found
        return
    from anemoi_ckpt_migrate.storage.distributed.open_folder import open_distributed

    with open_distributed(path.parent, FolderState.of(path.parent), own=path.name) as found:
        yield found


def remove_backup(place: Path, backup: Backup) -> bool:
    """Remove a backup, unless it has changed since it was found; return whether it was removed.

    A folder first gets a hidden name, so that the rest of it is no checkpoint: `find_half_removed` finds it.

    Parameters
    ----------
    place : Path
        The file or folder of which it is a backup. You hold its lock.
    backup : Backup
        The backup, with facts.

    Raises
    ------
    OSError
        The system refused.
    """
    if backup.facts is None or backup.has_changed():
        return False
    if backup.facts.files:
        hidden = backup.path
        if not is_beside(hidden.name, place):
            hidden = _hidden(place, backup.facts)
            rename_anew(backup.path, hidden)
            sync_folder(place.parent)
        shutil.rmtree(hidden)
    else:
        os.unlink(backup.path)
    sync_folder(place.parent)
    return True


def find_half_removed(place: Path, known: Iterable[BackupFacts]) -> list[Backup]:
    """Return the folders whose removal was interrupted, by their hidden names.

    Parameters
    ----------
    place : Path
        The folder of which they were backups.
    known : iterable of BackupFacts
        All backups that the record knows: nothing else is looked for.
    """
    hidden = {_hidden(place, facts): facts for facts in known if facts.files}
    found = [_seen(path, facts.number) for path, facts in hidden.items() if path.is_dir() and not path.is_symlink()]
    return [each for each in found if each is not None]


def _hidden(place: Path, facts: BackupFacts) -> Path:
    """Return the hidden name of a folder that is being removed: the record tells it."""
    return beside(place, facts.files[:8])
