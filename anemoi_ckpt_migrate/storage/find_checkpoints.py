"""Find the checkpoints below a folder, by names and, where a name does not tell, by the first bytes of a file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotRead, MigrateError
from anemoi_ckpt_migrate.storage.foreign_formats import kind_of_folder
from anemoi_ckpt_migrate.storage.formats import any_formats, find_format
from anemoi_ckpt_migrate.storage.huggingface.layout import is_index, sets_of_weights
from anemoi_ckpt_migrate.storage.lock import JOURNAL, name_beside
from anemoi_ckpt_migrate.storage.shard_sets import METADATA, files_of_index, membership_by_name

CHECKPOINT, BACKUP, PART = "checkpoint", "backup", "part"
"""The kinds of `Entry`: a checkpoint, the backup of one, a file of a set that has no folder of its own."""
_BACKUP = re.compile(r"(?P<of>.+)\.bak\d*")
_LEFT = re.compile(r"\.(?P<of>.+)\.(lock(\.held)?|[0-9a-f]{8}\.tmp(\.old)?)")
# Files of these names are opened by whoever works on them; others are looked at here.
_USUAL = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_NEVER = frozenset(
    [
        "c",
        "cc",
        "cfg",
        "cpp",
        "csv",
        "cu",
        "cuh",
        "dat",
        "db",
        "err",
        "feather",
        "gguf",
        "gif",
        "gz",
        "h",
        "h5",
        "hdf5",
        "hpp",
        "htm",
        "html",
        "ini",
        "ipynb",
        "jpeg",
        "jpg",
        "js",
        "json",
        "jsonl",
        "lock",
        "log",
        "md",
        "mp4",
        "nc",
        "netcdf",
        "npy",
        "npz",
        "onnx",
        "out",
        "parquet",
        "pdf",
        "png",
        "py",
        "pyc",
        "rst",
        "sh",
        "so",
        "sqlite",
        "svg",
        "tar",
        "tex",
        "tfevents",
        "toml",
        "tsv",
        "txt",
        "whl",
        "xml",
        "xz",
        "yaml",
        "yml",
        "zarr",
        "zip",
        "zst",
    ]
)
_ZIP, _PICKLE = b"PK\3\4", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the second one: torch before 1.6
_FILES_OF_DISTRIBUTED = ("meta.pt", "common.pt", METADATA)


@dataclass(frozen=True)
class Entry:
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
        `CHECKPOINT`, `BACKUP` or `PART`.
    size : int
        Bytes of the file, or of all files of a folder.
    modified : float
        Seconds since the epoch: when the file changed, or the latest file of a folder.
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
    modified: float = 0.0
    left: bool = False
    error: MigrateError | None = None


Group = tuple[Entry, ...]
"""A checkpoint, after those that lie in its folder."""


def _everything(relative: str, is_folder: bool) -> bool:
    return True


@dataclass
class Walk:
    """A walk below a folder, which visits no folder and no file twice, however many links lead there.

    Attributes
    ----------
    wanted : callable
        Says, for a path below the given folder and whether it is a folder, whether to visit it.
    """

    wanted: Callable[[str, bool], bool] = _everything
    _folders: set[str] = field(default_factory=set)
    _targets: set[str] = field(default_factory=set)

    def below(self, folder: str) -> Iterator[Group]:
        """Yield what lies below a folder, and the folder itself if it is a checkpoint, in the order of names.

        Names that begin with a dot are left out. Links come last, each by its own name, and only once.

        Parameters
        ----------
        folder : str
            The folder.
        """
        links = [_Place(folder, "", os.path.realpath(folder))]
        for place in links:  # grows meanwhile
            yield from self._below(place, links)

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
            for entry in listed.entries:
                if outermost is None or entry.kind != CHECKPOINT:
                    yield (entry,)
                else:
                    group.append(entry)
            stack += [(inner, None) for inner in reversed(listed.folders)]

    def _visit(self, place: _Place, links: list[_Place]) -> _Listed:
        if not os.path.isdir(place.path):
            return self._of_link(place)
        if place.real in self._folders:
            return _Listed()
        self._folders.add(place.real)
        try:
            with os.scandir(place.path) as found:
                listed = _Folder(place, sorted(found, key=_name))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            return _Listed(
                [Entry(place.path, place.relative, place.real, error=CannotRead(f"it cannot be searched ({reason})"))]
            )
        entries, folders = [], []
        for each in listed.visible:
            inner = place.inner(each.name)
            if not self.wanted(inner.relative, each.is_dir()):
                continue
            if each.is_symlink():
                links.append(_Place(inner.path, inner.relative, os.path.realpath(inner.path)))
            elif _BACKUP.fullmatch(each.name):
                entries.append(_entry(each, inner, BACKUP))
            elif each.is_dir(follow_symlinks=False):
                folders.append(inner)
            elif each.is_file(follow_symlinks=False):
                entries += listed.entry(each, inner)
        lost = (each for each in listed.lost if self.wanted(each.relative, True))
        entries += [Entry(each.path, each.relative, each.real, left=True) for each in lost]
        return _Listed(entries, folders, listed.itself)

    def _of_link(self, place: _Place) -> _Listed:
        """Look at a link to a file, unless the file was or will be found elsewhere."""
        if place.real in self._targets or os.path.dirname(place.real) in self._folders:
            return _Listed()
        self._targets.add(place.real)
        try:
            found = os.stat(place.real)
        except OSError:
            return _Listed()  # a link that leads nowhere
        name, file = os.path.basename(place.real), Path(place.real)
        if not stat.S_ISREG(found.st_mode) or _BACKUP.fullmatch(name) or not _may_be(place.real, name, found.st_size):
            return _Listed()
        part = membership_by_name(file) or membership_by_name(Path(os.path.abspath(place.path)))
        kind = CHECKPOINT if part is None else PART
        return _Listed([Entry(place.path, place.relative, place.real, kind, found.st_size, found.st_mtime)])


@dataclass(frozen=True)
class _Place:
    """A folder or a link: its path, the path below the given folder, and the path without links."""

    path: str
    relative: str
    real: str

    def inner(self, name: str) -> _Place:
        relative = f"{self.relative}/{name}" if self.relative else name
        return _Place(os.path.join(self.path, name), relative, os.path.join(self.real, name))


@dataclass(frozen=True)
class _Listed:
    """What a folder holds: entries, folders to visit, and itself, if it is a checkpoint."""

    entries: list[Entry] = field(default_factory=list)
    folders: list[_Place] = field(default_factory=list)
    itself: Entry | None = None


class _Folder:
    """The names in a folder."""

    def __init__(self, place: _Place, found: list[os.DirEntry[str]]) -> None:
        self._place = place
        self._names = {each.name: each for each in found}
        self.visible = [each for each in found if not each.name.startswith(".")]
        self._left = {match["of"] for name in self._names if name.startswith(".") and (match := _LEFT.fullmatch(name))}
        self._weights = sets_of_weights(self._names)

    @property
    def lost(self) -> list[_Place]:
        """The folders whose exchange was interrupted when they had no name."""
        journals = (name.removesuffix(JOURNAL) for name in self._names if name.endswith(JOURNAL))
        return [self._place.inner(name) for name in journals if name not in self._names and name in self._left]

    @cached_property
    def itself(self) -> Entry | None:
        """The folder as a checkpoint; None if it is none."""
        if not (METADATA in self._names or self._has_weights or self._is_foreign):
            return None
        files = [each.stat() for each in self._names.values() if each.is_file()]
        size, latest = sum(each.st_size for each in files), max((each.st_mtime for each in files), default=0.0)
        name = os.path.basename(self._place.real)
        siblings = os.path.dirname(self._place.real)
        left = any(os.path.lexists(os.path.join(siblings, beside)) for beside in (f".{name}.lock", f"{name}{JOURNAL}"))
        return Entry(self._place.path, self._place.relative, self._place.real, CHECKPOINT, size, latest, left)

    @cached_property
    def _has_weights(self) -> bool:
        """Whether it is a folder of Hugging Face. A single file of torch with all weights stands for itself."""
        return any(is_index(name) or not name.endswith(".bin") for name in self._weights) or len(self._weights) > 1

    @cached_property
    def _is_foreign(self) -> bool:
        """Whether it is a checkpoint that is recognised and refused, or one of a format that another package adds."""
        if kind_of_folder(self._names):
            return True
        return any_formats() and find_format(Path(self._place.path)) is not None

    @cached_property
    def _own(self) -> frozenset[str]:
        """The files that are part of the folder's checkpoint."""
        if METADATA in self._names:
            return frozenset(_FILES_OF_DISTRIBUTED)
        if not self._has_weights:
            return frozenset()
        indexed = (files_of_index(Path(self._place.path, name)) for name in self._weights if is_index(name))
        return frozenset(self._weights).union(*indexed)

    def entry(self, each: os.DirEntry[str], inner: _Place) -> list[Entry]:
        """Return the entry of a file in it; none if the file is no checkpoint, or part of the folder's own."""
        name = each.name
        if name in self._own or name.endswith((JOURNAL, ".distcp")):
            return []
        if not _may_be(inner.path, name, each.stat().st_size):
            return []
        if membership_by_name(Path(inner.real)) is not None:
            return [] if self.itself is not None else [_entry(each, inner, PART)]
        left = f"{name}{JOURNAL}" in self._names or name_beside(Path(name), "").name in self._left
        return [_entry(each, inner, CHECKPOINT, left)]


def _may_be(path: str, name: str, size: int) -> bool:
    """Return whether a file may be a checkpoint, by its name or its first bytes."""
    stem, dot, ending = name.rpartition(".")
    if name.endswith(_USUAL):
        return True
    if stem and dot and ending.lower() in _NEVER:
        return any_formats() and find_format(Path(path)) is not None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # nothing says that it is a checkpoint
    try:
        start = os.pread(descriptor, len(_PICKLE), 0)
    finally:
        os.close(descriptor)
    if start.startswith(_ZIP) or start == _PICKLE:
        return True
    return any_formats() and find_format(Path(path)) is not None


def _entry(each: os.DirEntry[str], place: _Place, kind: str, left: bool = False) -> Entry:
    found = each.stat(follow_symlinks=False)
    size = found.st_size
    if stat.S_ISDIR(found.st_mode):
        size = sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(place.path) for name in names)
    return Entry(place.path, place.relative, place.real, kind, size, found.st_mtime, left)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
