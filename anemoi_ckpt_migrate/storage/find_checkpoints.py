"""Find the checkpoints below a folder, by names and, where a name does not tell, by the first bytes of a file."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from anemoi_ckpt_migrate.errors import CannotRead, MigrateError
from anemoi_ckpt_migrate.storage.folder_names import FolderNames, files_of_index, is_index
from anemoi_ckpt_migrate.storage.foreign_formats import kind_of_folder
from anemoi_ckpt_migrate.storage.formats import any_formats, find_format
from anemoi_ckpt_migrate.storage.huggingface.layout import files_of_training, is_of_trainer, sets_of_weights
from anemoi_ckpt_migrate.storage.lock import JOURNAL, name_beside
from anemoi_ckpt_migrate.storage.shard_sets import METADATA, RESTS, membership_by_name
from anemoi_ckpt_migrate.util.dataclass import dataclass, field
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

CHECKPOINT, BACKUP = "checkpoint", "backup"
"""The kinds of `Entry`: a checkpoint, the backup of one."""
_BACKUP = lazy_regex(r"(?P<of>.+)\.bak\d*", re.DOTALL)  # names may have newlines
_LEFT = lazy_regex(r"\.(?P<of>.+)\.(lock(\.held)?|[0-9a-f]{8}\.tmp(\.old)?)", re.DOTALL)
# Files of these names are opened by whoever works on them; others are looked at here.
_USUAL = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# Opening each file would take long on a file system in a network, so files of these kinds are passed by.
_NEVER = frozenset(
    f".{ending}"
    for endings in (
        "c cc cfg cpp csv cu cuh dat db err feather gguf gif gz h h5 hdf5 hpp htm html ini ipynb jpeg jpg js json",
        "jsonl lock log md mp4 nc netcdf npy npz onnx out parquet pdf png py pyc rst sh so sqlite svg tar tex tfevents",
        "toml tsv txt whl xml xz yaml yml zarr zip zst",
    )
    for ending in endings.split()
)
_ZIP, _PICKLE = b"PK\3\4", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the second one: torch before 1.6
_FILES_OF_DISTRIBUTED = frozenset([*RESTS, METADATA])
# DeepSpeed and Megatron write these beside the folders of checkpoints.
_BESIDE_CHECKPOINTS = frozenset(["zero_to_fp32.py", "latest_checkpointed_iteration.txt"])
# The cache of Hugging Face holds files named by their digests, and folders of links that give their real names.
_BLOBS, _SNAPSHOTS = "blobs", "snapshots"


class Entry(NamedTuple):
    """Something that a walk found.

    Attributes
    ----------
    path : str
        Its path: the folder that was given, and the names below it.
    relative : str
        The path below the folder that was given, with slashes; empty for the folder itself.
    real : str
        The path without links.
    kind : str
        `CHECKPOINT` or `BACKUP`.
    size : int
        Bytes of the file, or of all files of a folder.
    modified : float
        Seconds since the epoch: when the file changed, or the latest file of a folder; infinity if unknown.
    left : bool
        Whether files of an interrupted run are beside it.
    error : MigrateError or None
        Why a folder could not be searched; all else is then empty.
    """

    path: str
    relative: str
    real: str
    kind: str = CHECKPOINT
    size: int = 0
    modified: float = math.inf
    left: bool = False
    error: MigrateError | None = None


Group = tuple[Entry, ...]
"""A checkpoint, after those that lie in its folder."""


def _everything(relative: str, is_folder: bool) -> bool:
    return True


def _nothing(relative: str) -> bool:
    return False


@dataclass
class Walk:
    """A walk below a folder, which visits no folder and no file twice, however many links lead there.

    It finds files that are checkpoints by their names or their first bytes, and folders of every format. It passes by
    hidden names, files that belong to a folder that it finds, backups, journals, and whatever is no regular file. Of a
    set of files without a folder of its own (shards without an index) it finds the first one, which stands for all.

    Attributes
    ----------
    wanted : callable
        Says, for a path below the given folder and whether it is a folder, whether to visit it.
    included : callable
        Says, for a path below the given folder, whether the file counts as a checkpoint without a look at it.
    backups : bool
        Whether backups are found too.
    """

    wanted: Callable[[str, bool], bool] = _everything
    included: Callable[[str], bool] = _nothing
    backups: bool = False
    _folders: set[str] = field(default_factory=set)
    _targets: set[str] = field(default_factory=set)

    def below(self, folder: str) -> Iterator[Group]:
        """Yield what lies below a folder, and the folder itself if it is a checkpoint, in the order of names.

        Links come last, each by its own name, and only once.

        Parameters
        ----------
        folder : str
            The folder. If it is hidden, it is searched all the same.
        """
        links = [_Place(folder, "", os.path.realpath(folder))]
        for place in links:  # grows meanwhile
            yield from self._below(place, links)

    def leave_out(self, folder: str) -> None:
        """Visit nothing in a folder."""
        self._folders.add(os.path.realpath(folder))

    def _below(self, start: _Place, links: list[_Place]) -> Iterator[Group]:
        group: list[Entry] = []
        outermost: _Place | None = None  # the folder to whose checkpoint the group belongs
        # Folders to visit and, after all that lies in them, folders to yield: the last one first.
        stack: list[tuple[_Place, Entry | None]] = [(start, None)]
        while stack:
            place, found = stack.pop()
            if found is not None:
                group.append(found)
                if place is outermost:
                    yield tuple(group)
                    group, outermost = [], None
                continue
            listed = self._visit(place, links)
            if listed.itself is not None:
                outermost = outermost or place
                stack.append((place, listed.itself))
            if outermost is None:
                for entry in listed.entries:
                    yield (entry,)
            else:
                group += listed.entries
            stack += [(inner, None) for inner in reversed(listed.folders)]

    def _visit(self, place: _Place, links: list[_Place]) -> _Listed:
        """Look at a folder or a link, and add the links in it to those that are looked at last."""
        if not os.path.isdir(place.path):
            return self._of_link(place)
        if place.real in self._folders:
            return _Listed()
        self._folders.add(place.real)
        try:
            with os.scandir(place.path) as found:
                folder = _Folder(place, sorted(found, key=_name))
        except FileNotFoundError:  # somebody removed it meanwhile
            return _Listed()
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            why = CannotRead(f"it cannot be searched ({reason})")
            return _Listed([Entry(place.path, place.relative, place.real, error=why)])
        return self._sorted(folder, links)

    def _sorted(self, folder: _Folder, links: list[_Place]) -> _Listed:
        """Sort the names of a folder into entries, folders to visit, and links."""
        entries: list[Entry] = []
        folders: list[_Place] = []
        for each in folder.visible:
            if each.is_symlink():
                links += self._link(folder, each)
            elif ".bak" in each.name and _BACKUP.fullmatch(each.name):
                entries += self._backup(folder, each)
            elif each.is_dir(follow_symlinks=False):
                folders += self._folder(folder, each.name)
            elif each.is_file(follow_symlinks=False):
                entries += self._file(folder, each)
        lost = (each for each in folder.lost if self.wanted(each.relative, True))
        entries += [Entry(each.path, each.relative, each.real, left=True) for each in lost]
        return _Listed(entries, folders, folder.itself)

    def _link(self, folder: _Folder, each: os.DirEntry[str]) -> Iterator[_Place]:
        place = folder.place
        path, relative = place.path_of(each.name), f"{place.below}{each.name}"
        if each.name not in folder.own and self.wanted(relative, os.path.isdir(path)):
            yield _Place(path, relative, os.path.realpath(path))

    def _backup(self, folder: _Folder, each: os.DirEntry[str]) -> Sequence[Entry]:
        wanted = self.backups and self.wanted(f"{folder.place.below}{each.name}", each.is_dir())
        return folder.backup(each) if wanted else ()

    def _folder(self, folder: _Folder, name: str) -> Iterator[_Place]:
        if self.wanted(f"{folder.place.below}{name}", True) and not folder.holds_blobs(name):
            yield folder.place.inner(name, folder.is_foreign)

    def _file(self, folder: _Folder, each: os.DirEntry[str]) -> Sequence[Entry]:
        relative = f"{folder.place.below}{each.name}"
        if self.included(relative):
            return folder.file(each) if self.wanted(relative, False) else ()
        may_be = folder.may_be_by_name(each.name) and self.wanted(relative, False)
        return folder.checkpoint(each) if may_be else ()

    def _of_link(self, place: _Place) -> _Listed:
        """Look at a link to a file, unless the file was or will be found elsewhere."""
        if place.real in self._targets or os.path.dirname(place.real) in self._folders:
            return _Listed()
        self._targets.add(place.real)
        try:
            found = os.stat(place.real)
        except OSError:
            return _Listed()  # a link that leads nowhere
        names = [os.path.basename(place.path), os.path.basename(place.real)]
        if not stat.S_ISREG(found.st_mode) or any(map(_BACKUP.fullmatch, names)):
            return _Listed()
        may_be = any(map(_may_be_by_name, names)) and (names[0].endswith(_USUAL) or _may_be(place.real))
        if not may_be and not self.included(place.relative):
            return _Listed()
        return _Listed([Entry(place.path, place.relative, place.real, CHECKPOINT, found.st_size, found.st_mtime)])


class _Place:
    """A folder or a link.

    Attributes
    ----------
    path, relative, real : str
        Its path, the path below the given folder, and the path without links.
    is_of_foreign : bool
        Whether it lies in a checkpoint of a foreign format, whose files are refused together.
    below : str
        The relative path of names in it, up to the name.
    """

    def __init__(self, path: str, relative: str, real: str, is_of_foreign: bool = False) -> None:
        self.path, self.relative, self.real, self.is_of_foreign = path, relative, real, is_of_foreign
        self.below = f"{relative}/" if relative else ""
        self._start = path if path.endswith("/") else f"{path}/"
        self._real_start = real if real.endswith("/") else f"{real}/"

    def path_of(self, name: str) -> str:
        """Return the path of a name in it."""
        return f"{self._start}{name}"

    def real_of(self, name: str) -> str:
        """Return the path of a name in it, without links before the name."""
        return f"{self._real_start}{name}"

    def inner(self, name: str, is_foreign: bool = False) -> _Place:
        """Return the place of a name in it."""
        is_of_foreign = self.is_of_foreign or is_foreign
        return _Place(self.path_of(name), f"{self.below}{name}", self.real_of(name), is_of_foreign)

    def entry(self, name: str, found: os.stat_result | None, kind: str = CHECKPOINT, left: bool = False) -> Entry:
        """Return the entry of a name in it; without size and time if the system does not give them."""
        places = self.path_of(name), f"{self.below}{name}", self.real_of(name)
        if found is None:
            return Entry(*places, kind, left=left)
        return Entry(*places, kind, found.st_size, found.st_mtime, left)


class _Listed(NamedTuple):
    """What a folder holds: entries, folders to visit, and itself, if it is a checkpoint."""

    entries: list[Entry] = []  # noqa: RUF012 (nobody changes it)
    folders: list[_Place] = []  # noqa: RUF012
    itself: Entry | None = None


class _Folder:
    """A folder, and the names in it.

    Attributes
    ----------
    place : _Place
        Where it is.
    visible : list of DirEntry
        The names that are not hidden.
    """

    def __init__(self, place: _Place, found: list[os.DirEntry[str]]) -> None:
        self.place = place
        self._entries = {each.name: each for each in found}
        self._names = FolderNames(Path(place.real), list(self._entries))
        self.visible = [each for each in found if not each.name.startswith(".")]
        self._left = {
            match["of"] for name in self._entries if name.startswith(".") and (match := _LEFT.fullmatch(name))
        }
        self._weights = sets_of_weights(self._entries)
        self._sets: set[str] = set()  # sets of which a file was found

    @property
    def lost(self) -> list[_Place]:
        """The folders whose exchange was interrupted when they had no name."""
        journals = (name.removesuffix(JOURNAL) for name in self._entries if name.endswith(JOURNAL))
        return [self.place.inner(name) for name in journals if name not in self._entries and name in self._left]

    @cached_property
    def itself(self) -> Entry | None:
        """The folder as a checkpoint; None if it is none."""
        if not (METADATA in self._entries or self._has_weights or self.is_foreign or self._is_of_package):
            return None
        files = list(filter(None, map(_stat_of_file, self._entries.values())))
        size, latest = sum(each.st_size for each in files), max((each.st_mtime for each in files), default=0.0)
        folder, name = os.path.split(self.place.real)
        left = any(os.path.lexists(os.path.join(folder, beside)) for beside in (f".{name}.lock", f"{name}{JOURNAL}"))
        return Entry(self.place.path, self.place.relative, self.place.real, CHECKPOINT, size, latest, left)

    @cached_property
    def is_foreign(self) -> bool:
        """Whether it is a checkpoint of a format that is recognised and refused."""
        return bool(kind_of_folder(self._entries.keys() - _BESIDE_CHECKPOINTS))

    @cached_property
    def _is_of_package(self) -> bool:
        """Whether it is a checkpoint of a format that another package adds."""
        return any_formats() and find_format(Path(self.place.path)) is not None

    @cached_property
    def _has_weights(self) -> bool:
        """Whether it is a folder of Hugging Face. A single file of torch with all weights stands for itself."""
        if any(is_index(name) or not name.endswith(".bin") for name in self._weights) or len(self._weights) > 1:
            return True
        return is_of_trainer(self._entries)

    @cached_property
    def own(self) -> frozenset[str]:
        """The names of files that are part of the folder's checkpoint."""
        if METADATA in self._entries:
            return _FILES_OF_DISTRIBUTED
        if not self._has_weights:
            return frozenset()
        indexed = (files_of_index(Path(self.place.path, name)) for name in self._weights if is_index(name))
        return frozenset(self._weights).union(*indexed, files_of_training(self._entries))

    def holds_blobs(self, name: str) -> bool:
        """Return whether a folder in it holds the files of a cache, which are found by the links to them."""
        return name == _BLOBS and _SNAPSHOTS in self._entries

    def may_be_by_name(self, name: str) -> bool:
        """Return whether a file in it may be a checkpoint of its own, by its name."""
        return _may_be_by_name(name) and name not in self.own and not name.endswith(_NOT_OF_ITS_OWN)

    def checkpoint(self, each: os.DirEntry[str]) -> list[Entry]:
        """Return the entry of a file in it; none if it is no checkpoint, or not of its own."""
        name = each.name
        if not name.endswith(_USUAL) and not _may_be(self.place.path_of(name)):
            return []
        if self._names.may_be_member(name):
            part = membership_by_name(Path(self.place.real_of(name)), self._names)
            if part is not None:
                if self.itself is not None or self.place.is_of_foreign or part.name in self._sets:
                    return []
                self._sets.add(part.name)
        return self.file(each)

    def file(self, each: os.DirEntry[str]) -> list[Entry]:
        """Return the entry of a file in it; none if somebody removed it meanwhile."""
        name = each.name
        left = f"{name}{JOURNAL}" in self._entries or (
            bool(self._left) and name_beside(Path(name), "").name in self._left
        )
        try:
            found = _stat(each)
        except FileNotFoundError:
            return []
        return [self.place.entry(name, found, CHECKPOINT, left)]

    def backup(self, each: os.DirEntry[str]) -> list[Entry]:
        """Return the entry of a backup in it; none if somebody removed it meanwhile."""
        entry = self.file(each)
        if entry and each.is_dir(follow_symlinks=False):
            return [entry[0]._replace(kind=BACKUP, size=_size_of_folder(entry[0].path), left=False)]
        return [found._replace(kind=BACKUP, left=False) for found in entry]


_NOT_OF_ITS_OWN = (JOURNAL, ".distcp")


def _may_be_by_name(name: str) -> bool:
    """Return whether a file may be a checkpoint, by its name."""
    if name.endswith(_USUAL):
        return True
    return os.path.splitext(name)[1].lower() not in _NEVER or any_formats()


def _may_be(path: str) -> bool:
    """Return whether a file may be a checkpoint, by its name and its first bytes."""
    name = os.path.basename(path)
    if name.endswith(_USUAL):
        return True
    if any_formats() and find_format(Path(path)) is not None:
        return True
    return os.path.splitext(name)[1].lower() not in _NEVER and _begins_as_torch(path)


def _begins_as_torch(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # nothing says that it is a checkpoint
    try:
        start = os.pread(descriptor, len(_PICKLE), 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return start.startswith(_ZIP) or start == _PICKLE


def _stat(each: os.DirEntry[str]) -> os.stat_result | None:
    """Return the size and times of a file; None if the system does not give them.

    Raises
    ------
    FileNotFoundError
        Somebody removed it meanwhile.
    """
    try:
        return each.stat()
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _stat_of_file(each: os.DirEntry[str]) -> os.stat_result | None:
    """Return the size and times of a file, or of the file that a link leads to; None if there is none."""
    try:
        return each.stat() if each.is_file() else None
    except OSError:
        return None


def _size_of_folder(path: str) -> int:
    """Return the bytes of all files below a folder, as far as they can be seen."""
    size = 0
    for top, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # somebody removed it meanwhile
                size += os.lstat(os.path.join(top, name)).st_size
    return size


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
