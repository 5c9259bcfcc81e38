"""Folders of Hugging Face as checkpoints: a state dict in one or several files of safetensors.

The record lies in the index, under ``metadata``; where there is no index, in the one file of weights. JSON files of the
folder are entries beside the tree, so that operations reach ``config.json`` as they reach entries of an archive.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint, NotInPlace, Refused
from anemoi_ckpt_migrate.storage.atomic_replace import Written, check_writable
from anemoi_ckpt_migrate.storage.checkpoint import RECORD_ENTRY
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.folder_exchange import FolderState, NewFolder, new_folder
from anemoi_ckpt_migrate.storage.huggingface.index import Index, read_index, shard_names
from anemoi_ckpt_migrate.storage.huggingface.layout import Layout
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.safetensors_file import SafetensorsTree, StoredItem, items_in, items_of
from anemoi_ckpt_migrate.storage.safetensors_header import Header, read_header
from anemoi_ckpt_migrate.storage.single_file import NewFile
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import storage_of
from anemoi_ckpt_migrate.storage.url import Location, Url, local_folder
from anemoi_ckpt_migrate.storage.zip_archive import Archive

_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


class Shard(NamedTuple):
    """An open file with weights.

    Attributes
    ----------
    name : str
        Its name in the folder.
    descriptor : int
        The file.
    length : int
        Its length, in bytes.
    """

    name: str
    descriptor: int
    length: int


@dataclass(frozen=True)
class NewShard:
    """A file with weights to write.

    Attributes
    ----------
    old : int
        The number of the shard from which most of it comes.
    items : tuple of StoredItem
        Its tensors.
    """

    old: int
    items: tuple[StoredItem, ...]


class FolderSource(Protocol):
    """The source of the files of a folder; those of a store are local only in part."""

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Open a file of the folder for reading, and yield its descriptor."""

    def complete_all(self, without: Collection[str]) -> None:
        """Make all files of the folder, but some, whole local files."""


class LocalFolder:
    """A local folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Open a file of the folder for reading, and yield its descriptor."""
        return opened_inside(self._path, name)

    def complete_all(self, without: Collection[str]) -> None:
        """Do nothing: they are whole."""


class HuggingFaceCheckpoint(SafetensorsTree):
    """An open folder of Hugging Face.

    Parameters
    ----------
    path : Path or Url
        The folder, as the user named it.
    layout : Layout
        The set of weights in it.
    before : FolderState
        The folder when it was opened.
    source : FolderSource
        The source of its files.
    shards : sequence of Shard
        The open files with the weights.
    index : Index or None
        The index.
    """

    def __init__(
        self,
        path: Location,
        layout: Layout,
        before: FolderState,
        source: FolderSource,
        shards: Sequence[Shard],
        index: Index | None,
    ) -> None:
        self._layout, self._before, self._folder = layout, before, source
        self._shards, self._index = tuple(shards), index
        files = Members([(each.descriptor, each.length) for each in shards])
        super().__init__(path, files, sum(each.length for each in shards))

    def _read_archive(self) -> Archive:
        """Read the headers, and compare them with the index."""
        self._headers = [_header(shard) for shard in self._shards]
        self._home: dict[str, int] = {}
        self.items = []
        loose: dict[str, tuple[int, int]] = {}
        for number, (header, member) in enumerate(zip(self._headers, self._files.all, strict=True)):
            for item in items_in(header):
                if item.name in self._home:
                    raise _stale(
                        item.name, f"both {self._shards[self._home[item.name]].name} and", self._shards[number]
                    )
                self._home[item.name] = number
                self.items.append(item)
            begin = member.begin
            loose |= {f"data/={each.name}": (begin + each.start, begin + each.end) for each in header.entries}
        if self._index is not None:
            self._check_index(self._index)
        texts = {} if self._own_record is None else {RECORD_ENTRY: self._own_record}
        return Archive("", {}, self.length, 0, loose, texts)

    def _check_index(self, index: Index) -> None:
        """Refuse an index that says something else than the files."""
        for name, file in index.files.items():
            home = self._home.get(name)
            if home is None or self._shards[home].name != file:
                where = "no file" if home is None else self._shards[home].name
                raise NotACheckpoint(
                    f"its index says that {name:.80} is in {file}, but {where} holds it; "
                    "restore the index or the files from a backup"
                )
        for name, home in self._home.items():
            if name not in index.files:
                raise _stale(name, "its index does not name it, but", self._shards[home])

    @property
    def _own_record(self) -> bytes | None:
        if self._index is not None:
            return self._index.record
        text = self._headers[0].metadata.get(RECORD_ENTRY)
        return None if text is None else text.encode()

    def attachment(self, name: str) -> bytes | None:
        """Return the record, or the content of a JSON file of the folder."""
        if name in self.attached or name == RECORD_ENTRY:
            return super().attachment(name)
        if name not in self._texts():
            return None
        with self._folder.opened(name) as descriptor:
            return read_at(descriptor, os.fstat(descriptor).st_size, 0)

    def _texts(self) -> dict[str, int]:
        """Return the JSON files of the folder that are not part of the weights, with their sizes in bytes."""
        return {
            name: found.st_size
            for name, found in self._before.entries.items()
            if name.endswith(".json") and name != self._layout.index and stat.S_ISREG(found.st_mode)
        }

    def facts(self) -> FileInfo:
        """Return facts about the folder."""
        many = f", {len(self._shards)} files" if self._index is not None else ""
        unchecked = sum(end > start for start, end in self._archive.loose.values())
        texts = {name: len(content) for name, content in self._archive.small.items()} | self._texts()
        kind = f"Hugging Face, safetensors{many}"
        return FileInfo(kind, self.length, 0, self.byteorder, 0, unchecked, False, (), texts)

    # Writing

    def check_writable(self, in_place: bool) -> None:
        """Refuse early a folder that writing would refuse."""
        if in_place:
            self._refuse_in_place()
        if isinstance(self._place, Url):
            raise Refused(
                "it is a folder in a store, which cannot be replaced as a whole; write a local folder with --output, "
                "and upload that"
            )
        links = [name for name in self._named() if stat.S_ISLNK(self._before.entries[name].st_mode)]
        if links:
            raise Refused(f"{links[0]} in it is a link, as in the cache of a hub; write elsewhere with --output")
        for place in (self._target, *(self._target / shard.name for shard in self._shards)):
            check_writable(place)

    def _named(self) -> list[str]:
        """Return the names of the files with weights, and of the index."""
        return [*(shard.name for shard in self._shards), *([self._layout.index] if self._layout.index else [])]

    def _refuse_in_place(self) -> NoReturn:
        raise NotInPlace("it is a folder, which is only ever replaced as a whole", "a new folder takes its place")

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Refuse: see `check_writable`."""
        self._refuse_in_place()

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
    ) -> Written:
        """Write a changed folder, whole or not at all."""
        texts = {**self._archive.small, **self.attached, **attachments}
        record = texts.pop(RECORD_ENTRY, None)
        shards = self._new_shards(pickled)
        names = shard_names([shard.name for shard in self._shards], len(shards))
        contents = [self._content(each, pickled, record) for each in shards]
        there = [each for each in contents if each is not None]
        target = self._target if output is None else local_folder(output)
        check_room(target, sum(each.made for each in there), max((each.size for each in there), default=0))
        anew = {self._shards[shard.old].name for shard, content in zip(shards, contents, strict=True) if content}
        self._folder.complete_all({*anew, self._layout.index})
        with new_folder(target, self._before if output is None else None) as new:
            shared = output is None and not backup
            for name, shard, content in zip(names, shards, contents, strict=True):
                self._put(new, name, shard, content, shared, progress)
            if self._index is not None:
                places = {item.name: name for name, shard in zip(names, shards, strict=True) for item in shard.items}
                size, elements = _totals(shards)
                with new.create(self._layout.index) as descriptor:
                    write_at(descriptor, self._index.changed(places, size, elements, record), 0)
            changed = {name: text for name, text in texts.items() if text is not None}
            for name, text in changed.items():
                with new.create(name) as descriptor:
                    write_at(descriptor, text, 0)
            self._take_rest(new, {*self._named(), *texts}, output is not None, shared)
            kept = new.publish(backup)
        return self._written(output, kept)

    def _put(
        self,
        new: NewFolder,
        name: str,
        shard: NewShard,
        content: NewFile | None,
        shared: bool,
        progress: Progress | None,
    ) -> None:
        """Write a file with weights, or take it as it is."""
        old = self._shards[shard.old]
        if content is None:
            new.take(Path(os.path.realpath(self._layout.folder / old.name)), name, shared, progress)
        else:
            with new.create(name, old.descriptor) as descriptor:
                content.write(descriptor, progress)

    def _take_rest(self, new: NewFolder, without: set[str], elsewhere: bool, shared: bool) -> None:
        """Take all other files of the folder; elsewhere, links would lead to other files, so their content is taken."""
        for name, found in self._before.entries.items():
            if elsewhere and name not in without and stat.S_ISLNK(found.st_mode):
                new.take(place_inside(self._layout.folder, name), name, False)
                without = {*without, name}
        new.take_rest(self._layout.folder, without, shared)

    def rewrite(self, output: Location | None = None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Write the folder anew."""
        return self.write(self.pickled(self.load()), {}, output, backup, progress)

    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the folder unchanged to `output`."""
        target = self._target if output is None else local_folder(output)
        self._folder.complete_all(())
        with new_folder(target, None) as new:
            self._take_rest(new, set(), True, False)
            new.publish(backup)
        return self._written(output, None)

    def _written(self, output: Location | None, kept: Location | None) -> Written:
        if kept is not None and not self.path.is_symlink():
            kept = self.path.with_name(kept.name)  # uses the folder name of the user
        return Written(output or self.path, kept)

    def _new_shards(self, pickled: Pickled) -> list[NewShard]:
        """Part the tensors into files: each goes where the first of its sources lies."""
        parts: dict[int, list[StoredItem]] = {number: [] for number in range(len(self._shards))}
        last = 0
        for item in items_of(pickled):
            home = self._home_of(item.key)
            last = last if home is None else home
            parts[last].append(item)
        found = []
        for number, items in parts.items():
            found += [NewShard(number, tuple(each)) for each in _split(items, self._largest())]
        return found or [NewShard(0, ())]

    def _largest(self) -> int | None:
        """Return the most bytes of tensors in a file; None for a file without an index, which stays one file."""
        if self._index is None:
            return None
        return max(sum(entry.end - entry.start for entry in header.entries) for header in self._headers)

    def _home_of(self, key: str) -> int | None:
        """Return the number of the file with the content of a storage, or with the first of its sources."""
        if key.startswith("="):
            return self._home[key[1:]]
        recipe = self._maker.recipes.get(key)
        homes = (self._home_of(storage_of(source).key) for source in (recipe.sources if recipe else ()))
        return next((home for home in homes if home is not None), None)

    def _content(self, shard: NewShard, pickled: Pickled, record: bytes | None) -> NewFile | None:
        """Lay out a file with weights; None if it stays as it is."""
        header = self._headers[shard.old]
        metadata = dict(header.metadata)
        if self._index is None:
            metadata.pop(RECORD_ENTRY, None)
            metadata |= {} if record is None else {RECORD_ENTRY: record.decode()}
        kept = not any(item.key in pickled.payloads for item in shard.items)
        if kept and metadata == header.metadata and list(shard.items) == items_in(header):
            return None
        begin = min((entry.start for entry in header.entries), default=0)
        return self.laid_out(list(shard.items), metadata, pickled, begin)


def _split(items: Sequence[StoredItem], largest: int | None) -> Iterator[list[StoredItem]]:
    """Part the tensors of a file that became too large."""
    part: list[StoredItem] = []
    size = 0
    for item in items:
        if part and largest is not None and size + item.size > largest:
            yield part
            part, size = [], 0
        part.append(item)
        size += item.size
    if part:
        yield part


def _totals(shards: Sequence[NewShard]) -> tuple[int, int]:
    """Return the number of bytes and of elements of all tensors."""
    items = [item for shard in shards for item in shard.items]
    return sum(item.size for item in items), sum(item.elements for item in items)


def _header(shard: Shard) -> Header:
    try:
        return read_header(shard.descriptor, shard.length)
    except NotACheckpoint as error:
        raise NotACheckpoint(f"{shard.name}: {error.sentence}") from error


def _stale(name: str, before: str, shard: Shard) -> NotACheckpoint:
    return NotACheckpoint(f"{name:.80}: {before} {shard.name} holds it; restore the index or the files from a backup")


@contextmanager
def open_huggingface(
    path: Location, layout: Layout, before: FolderState, source: FolderSource | None = None
) -> Iterator[HuggingFaceCheckpoint]:
    """Open a folder of Hugging Face. This reads its index and the headers of its files, but no payload.

    Parameters
    ----------
    path : Path or Url
        The folder, as the user named it.
    layout : Layout
        The set of weights in it.
    before : FolderState
        The folder, just looked at.
    source : FolderSource, optional
        The source of its files; by default they are local.

    Raises
    ------
    CannotRead, NotACheckpoint, Refused
        A file is missing or damaged, or a link leads out of the folder.
    """
    source = source or LocalFolder(layout.folder)
    index = read_index(place_inside(layout.folder, layout.index)) if layout.index else None
    names = [layout.single] if index is None else index.shards
    with ExitStack() as stack:
        shards = []
        for name in names:
            descriptor = stack.enter_context(source.opened(name))
            shards.append(Shard(name, descriptor, os.fstat(descriptor).st_size))
        _check_all_named(layout, index, names, before)
        yield HuggingFaceCheckpoint(path, layout, before, source, shards, index)


def _check_all_named(layout: Layout, index: Index | None, names: Sequence[str], before: FolderState) -> None:
    """Refuse a folder with further shards: of another generation, which some readers would take."""
    if index is None:
        return
    further = [name for name in before.entries if _SHARD.fullmatch(name) and name not in names]
    if further:
        raise NotACheckpoint(
            f"{further[0]} in it is not named by {layout.index}: it seems to hold files of two checkpoints; "
            "move those that do not belong to it to another folder"
        )


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
