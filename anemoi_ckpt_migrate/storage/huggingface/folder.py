"""Folders of Hugging Face as checkpoints: weights in one or several files, an index, and JSON files beside them.

The record lies in the index, under ``metadata``. JSON files of the folder are entries beside the tree, so that
operations reach ``config.json`` as they reach entries of an archive.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from anemoi_ckpt_migrate.errors import CannotWrite, NotACheckpoint, NotInPlace, Refused
from anemoi_ckpt_migrate.storage.atomic_replace import Written, check_writable
from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, RECORD_ENTRY, Checkpoint, FolderOptions
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.folder_exchange import FolderState, NewFolder, check_elsewhere, new_folder
from anemoi_ckpt_migrate.storage.folder_names import INDEX
from anemoi_ckpt_migrate.storage.huggingface.index import STASH, Index, new_index, parse_index, shard_names
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.open_inside import FolderSource, place_inside
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import storage_of
from anemoi_ckpt_migrate.storage.url import Location, Url, local_folder

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.huggingface.layout import Layout
    from anemoi_ckpt_migrate.storage.huggingface.torch_files import Shard
    from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
    from anemoi_ckpt_migrate.storage.single_file import NewFile

Item = TypeVar("Item")
_BY_A_LOCAL_FOLDER = "write a local folder with --output, and upload that"
OWN = ".ckpt_migrate"
"""The folder in a checkpoint that only this tool reads."""


class NewShard(NamedTuple):
    """A file with weights to write.

    Attributes
    ----------
    old : int
        The number of the shard from which most of it comes.
    names : tuple of str
        Its tensors.
    size, elements : int
        The number of bytes and of elements of its tensors.
    file : NewFile or None
        Its content; None if it stays as it is.
    """

    old: int
    names: tuple[str, ...]
    size: int
    elements: int
    file: NewFile | None


class HuggingFaceFolder(Checkpoint):
    """An open folder of Hugging Face. Each kind of files is a subclass.

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
    further : sequence of Shard
        Other open files of the checkpoint.
    states : sequence of Shard
        The open files with states of a training.
    """

    is_of_torch = is_ordered = keeps_order = False  # shards are not always numbered in the order of the model
    shares_memory = False  # the record is no part of the files with tensors
    record_is_text = True  # it is part of the index, which is JSON

    def __init__(
        self,
        path: Location,
        layout: Layout,
        before: FolderState,
        source: FolderSource,
        shards: Sequence[Shard],
        index: Index | None,
        further: Sequence[Shard] = (),
        states: Sequence[Shard] = (),
    ) -> None:
        self._layout, self._before, self._folder = layout, before, source
        self._shards, self._index, self._state_files = tuple(shards), index, tuple(states)
        files = Members([(each.descriptor, each.length) for each in (*shards, *further, *states)])
        super().__init__(path, files, sum(each.length for each in (*shards, *states)))

    def _homes(self, names: Iterable[tuple[int, str]]) -> dict[str, int]:
        """Return the number of the shard of each tensor.

        Parameters
        ----------
        names : iterable of (int, str)
            The number of a shard, and a tensor in it.

        Raises
        ------
        NotACheckpoint
            A tensor is in two shards, or the index says something else than the files.
        """
        found: dict[str, int] = {}
        for number, name in names:
            if name in found:
                other = self._shards[found[name]].name
                raise _stale(name, f"both {other} and", self._shards[number])
            found[name] = number
        if self._index is not None:
            self._check_index(self._index, found)
        return found

    def _check_index(self, index: Index, homes: Mapping[str, int]) -> None:
        for name, file in index.files.items():
            home = homes.get(name)
            if home is None or self._shards[home].name != file:
                where = "no file" if home is None else self._shards[home].name
                raise NotACheckpoint(
                    f"its index says that {name:.80} is in {file}, but {where} holds it; "
                    "restore the index or the files from a backup"
                )
        for name, home in homes.items():
            if name not in index.files:
                raise _stale(name, "its index does not name it, but", self._shards[home])

    def _own_texts(self) -> dict[str, bytes]:
        """Return the record, as an entry beside the tree."""
        record = None if self._index is None else self._index.record
        return {} if record is None else {RECORD_ENTRY: record}

    def attachment(self, name: str) -> bytes | None:
        """Return the record, or the content of a JSON file of the folder."""
        if name in self.attached or name == RECORD_ENTRY:
            return super().attachment(name)
        return self._stored_text(name)

    def _stored_text(self, name: str) -> bytes | None:
        """Return the content of a JSON file of the folder; None for any other name."""
        if self._size_of_text(name) is None:
            return None
        with self._folder.opened(name) as descriptor:
            return read_at(descriptor, os.fstat(descriptor).st_size, 0)

    def _texts(self) -> dict[str, int]:
        """Return the JSON files of the folder that are not part of the weights, with their sizes in bytes."""
        sizes = ((name, self._size_of_text(name)) for name in self._before.entries)
        return {name: size for name, size in sizes if size is not None}

    def _size_of_text(self, name: str) -> int | None:
        """Return the size of a JSON file of the folder; None for any other name."""
        if name not in self._before.entries or not name.endswith(".json") or name == self._layout.index:
            return None
        with contextlib.suppress(OSError, Refused):  # a link that leads out of the folder, or nowhere
            there = os.stat(place_inside(self._layout.folder, name))
            if stat.S_ISREG(there.st_mode):
                return there.st_size
        return None

    @property
    @abstractmethod
    def _kind(self) -> str:
        """The kind of the files."""

    def _names_of_weights(self) -> dict[tuple[str, str], bool]:
        """Return modules and names in the files with weights, and whether they are harmless."""
        return {}

    def _unchecked(self) -> int:
        """Return the number of storages without a checksum."""
        return sum(place.length > 0 and not place.crc for place in self._places().values())

    def facts(self) -> FileInfo:
        """Return facts about the folder."""
        many = f", {len(self._shards)} files" if self._index is not None else ""
        texts = {name: len(content) for name, content in self._archive.small.items()} | self._texts()
        states = " and ".join(file.name for file in self._state_files)
        kind = f"Hugging Face, {self._kind}{many}{f', with {states}' if states else ''}"
        return FileInfo(kind, self.length, 0, self.byteorder, 0, self._unchecked(), False, (), texts)

    # Writing

    def check_writable(self, in_place: bool) -> None:
        """Refuse early a folder that writing would refuse."""
        if in_place:
            raise NotInPlace("it is a folder, which is only ever replaced as a whole", "a new folder takes its place")
        if isinstance(self._place, Url):
            from anemoi_ckpt_migrate.storage.remote.new_object import check_writable as check_store

            check_store(self._place, in_place)
            return
        links = [name for name in self._named() if stat.S_ISLNK(self._before.entries[name].st_mode)]
        if links:
            raise Refused(f"{links[0]} in it is a link, as in the cache of a hub; write elsewhere with --output")
        check_elsewhere(self._target)
        for place in (self._target, *(self._target / file.name for file in (*self._shards, *self._state_files))):
            check_writable(place)

    def _named(self) -> list[str]:
        """Return the names of the files with weights and states, and of the index."""
        files = (*self._shards, *self._state_files)
        return [*(file.name for file in files), *([self._layout.index] if self._layout.index else [])]

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a changed folder, whole or not at all."""
        texts = {**self._archive.small, **self.attached, **attachments}
        record, stash = self._laid_out_stash(pickled, texts.pop(RECORD_ENTRY, None))
        states = self._new_states(pickled)
        shards = self._new_shards(pickled, record, folder.max_shard_size)
        names = shard_names([shard.name for shard in self._shards], len(shards))
        index = self._index or (new_index() if len(shards) > 1 else None)
        files = (*(shard.file for shard in shards), *states, stash)
        there = [each for each in files if each is not None]
        place = self._place if output is None else local_folder(output)
        check_room(place, sum(each.made for each in there), max((each.size for each in there), default=0))
        anew_states = {old.name for old, file in zip(self._state_files, states, strict=True) if file is not None}
        if isinstance(place, Url):
            self._check_texts(texts)
            self._check_states(anew_states)
            return Written(self.path, self._put_all(place, shards, stash, record, backup, progress))
        staying = {self._shards[shard.old].name for shard in shards if shard.file is None}
        anew = {shard.name for shard in self._shards} - staying  # of a shard that is split, one part may be as it was
        kept_before = self._kept_before()
        if kept_before and output is None and not backup:
            raise Refused(
                f"it holds an old generation ({kept_before[0]}), as a store keeps it, which would go away with the old "
                "folder; leave out --no-backup, or write elsewhere with --output"
            )
        self._folder.complete_all({*anew, *anew_states, *kept_before, self._layout.index, OWN})
        with new_folder(place, self._before if output is None else None) as new:
            shared = folder.hard_link or (output is None and not backup)
            for name, shard in zip(names, shards, strict=True):
                self._put(new, name, self._shards[shard.old], shard.file, shared, progress)
            for old, state in zip(self._state_files, states, strict=True):
                self._put(new, old.name, old, state, shared, progress)
            changed = {name: text for name, text in texts.items() if text is not None}
            for name, text in changed.items():
                with new.create(name) as descriptor:
                    write_at(descriptor, text, 0)
            if stash is not None:
                with new.create_in(OWN, STASH) as descriptor:
                    stash.write(descriptor, progress)
            if index is not None:
                with new.create(self._layout.index or f"{self._layout.single}{INDEX}") as descriptor:
                    write_at(descriptor, _text(index, names, shards, record), 0)
            self._take_rest(
                new, {*self._named(), *kept_before, *texts, OWN}, output is not None, output is None and not backup
            )
            kept = new.publish(backup)
        return self._written(output, kept)

    def _kept_before(self) -> list[str]:
        """Return the files of old generations that only copies of old indices name, and these copies, which come first.

        A new local folder does not hold them: the old folder is its backup.
        """
        kept = kept_indices(self._layout, self._before.entries)
        named = named_by_kept(self._layout, self._before, self._folder) if kept else set()
        return [*kept, *sorted(named - {shard.name for shard in self._shards})]

    def _check_texts(self, texts: Mapping[str, bytes | None]) -> None:
        """Refuse to change JSON files in a store, whose names are fixed."""
        changed = [name for name, text in texts.items() if text is not None and self._stored_text(name) != text]
        if changed:
            raise Refused(
                f"{changed[0]} in it would change too, and no store replaces two objects at once; {_BY_A_LOCAL_FOLDER}"
            )

    def _check_states(self, names: Collection[str]) -> None:
        """Refuse to change files of an optimizer in a store, whose names are fixed."""
        if names:
            raise Refused(
                f"{min(names)} in it would change too, and no store replaces two objects at once; {_BY_A_LOCAL_FOLDER}"
            )

    def _put_all(
        self,
        url: Url,
        shards: Sequence[NewShard],
        stash: NewFile | None,
        record: bytes | None,
        backup: bool,
        progress: Progress | None,
    ) -> Url | None:
        """Put what changed into the store; return the backup: of the index, or of the one file with weights."""
        from anemoi_ckpt_migrate.storage.huggingface import generations

        if self._index is None:
            if len(shards) > 1:
                raise Refused(
                    "its one file with weights would be split, and no store replaces one object by several at once; "
                    f"{_BY_A_LOCAL_FOLDER}"
                )
            alone, old = shards[0].file, self._shards[shards[0].old]
            return (
                None if alone is None else generations.put_file(url / old.name, alone, old.descriptor, backup, progress)
            )
        own = os.listdir(self._layout.folder / OWN) if OWN in self._before.entries else []
        generation = generations.next_generation([*self._before.entries, *own])
        numbered = shard_names([shard.name for shard in self._shards], len(shards))
        names = [
            self._shards[shard.old].name if shard.file is None else generations.name_in_generation(name, generation)
            for name, shard in zip(numbered, shards, strict=True)
        ]
        files = {url / name: shard.file for name, shard in zip(names, shards, strict=True) if shard.file is not None}
        kept_as = STASH if stash is None else generations.name_in_generation(STASH, generation)
        files |= {} if stash is None else {url / OWN / kept_as: stash}
        staying = [self._shards[shard.old].descriptor for shard in shards if shard.file is None]
        content = _text(self._index, names, shards, record, kept_as)
        with self._folder.opened(self._layout.index) as opened:
            if read_at(opened, os.fstat(opened).st_size, 0) != (self._layout.folder / self._layout.index).read_bytes():
                raise CannotWrite("another program changed its index in the meantime; run the command again")
            kept = generations.put_set(files, staying, url / self._layout.index, opened, content, progress)
        if backup:
            return kept
        # A backup that an earlier run has kept may name the same files.
        needed = {*names, *named_by_kept(self._layout, self._before, self._folder)}
        generations.remove_old(
            {url / each.name: each.descriptor for each in self._old_files() if each.name not in needed}, kept
        )
        return None

    def _old_files(self) -> Sequence[Shard]:
        """Return all open files of the checkpoint that are named anew when they change."""
        return self._shards

    def _laid_out_stash(self, pickled: Pickled, record: bytes | None) -> tuple[bytes | None, NewFile | None]:
        """Lay out the values that are kept for a downgrade, if they lie in a file; return the record that names them.

        Raises
        ------
        DamagedStash
            The record names a value that is not there.
        """
        return record, None

    def _new_states(self, pickled: Pickled) -> list[NewFile | None]:
        """Lay out the files with states of a training; None for each that stays as it is."""
        return [None for _ in self._state_files]

    def _put(
        self, new: NewFolder, name: str, old: Shard, file: NewFile | None, shared: bool, progress: Progress | None
    ) -> None:
        """Write a file, or take it as it is."""
        if file is None:
            new.take(Path(os.path.realpath(self._layout.folder / old.name)), name, shared, progress)
        else:
            with new.create(name, old.descriptor) as descriptor:
                file.write(descriptor, progress)

    def _take_rest(self, new: NewFolder, without: set[str], elsewhere: bool, shared: bool) -> None:
        """Take all other files of the folder; elsewhere, links would lead to other files, so their content is taken."""
        for name, found in self._before.entries.items():
            if elsewhere and name not in without and stat.S_ISLNK(found.st_mode):
                new.take(place_inside(self._layout.folder, name), name, False)
                without = {*without, name}
        new.take_rest(self._layout.folder, without, shared)

    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the folder unchanged to `output`."""
        target = self._target if output is None else local_folder(output)
        self._folder.complete_all(())
        with new_folder(target, None) as new:
            self._take_rest(new, set(), True, False)
            new.publish(backup)
        return self._written(output, None)

    def _written(self, output: Location | None, kept: Location | None) -> Written:
        return Written(output or self.path, kept if kept is None else self._as_named(kept))

    @abstractmethod
    def _new_shards(self, pickled: Pickled, record: bytes | None, largest: int | None) -> list[NewShard]:
        """Part the tensors into files, and lay these out.

        Parameters
        ----------
        pickled : Pickled
            The new tree.
        record : bytes or None
            The record, as JSON; it goes into the index, if there is one.
        largest : int or None
            The most bytes of tensors in a file; None for as many as in the largest old one.
        """

    def _parted(
        self, items: Iterable[Item], key: Callable[[Item], str], size: Callable[[Item], int], largest: int | None
    ) -> Iterator[tuple[int, list[Item]]]:
        """Part the tensors of a tree: each goes where the first of its sources lies.

        Parameters
        ----------
        items : iterable
            The tensors.
        key, size : callable
            Return the key of the storage of a tensor, and the number of its bytes.
        largest : int or None
            The most bytes of tensors in a file; a file that would become larger is split.
        """
        parts: dict[int, list[Item]] = {number: [] for number in range(len(self._shards))}
        last = 0
        for item in items:
            home = self._home_of(key(item))
            last = last if home is None else home
            parts[last].append(item)
        for number, part in parts.items():
            for each in _split(part, size, largest):
                yield number, each

    def _home_of(self, key: str) -> int | None:
        """Return the number of the file with the content of a storage, or with the first of its sources."""
        recipe = self._maker.recipes.get(key)
        if recipe is None:
            return self._home_of_stored(key)
        homes = (self._home_of(storage_of(source).key) for source in recipe.sources)
        return next((home for home in homes if home is not None), None)

    @abstractmethod
    def _home_of_stored(self, key: str) -> int | None:
        """Return the number of the file with a storage; None if no file holds it."""


def _split(items: Sequence[Item], size: Callable[[Item], int], largest: int | None) -> Iterator[list[Item]]:
    """Part the tensors of a file that became too large."""
    part: list[Item] = []
    total = 0
    for item in items:
        if part and largest is not None and total + size(item) > largest:
            yield part
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield part


def kept_indices(layout: Layout, names: Iterable[str]) -> list[str]:
    """Return the names of the copies of old indices in a folder; each stands for a generation that is kept there."""
    return [name for name in names if layout.index and re.fullmatch(rf"{re.escape(layout.index)}\.bak\d*", name)]


def named_by_kept(layout: Layout, before: FolderState, source: FolderSource) -> set[str]:
    """Return the files of the generations that are kept in a folder: those that copies of old indices name."""
    found = set[str]()
    for name in kept_indices(layout, before.entries):
        with source.opened(name) as descriptor:
            index = parse_index(name, read_at(descriptor, os.fstat(descriptor).st_size, 0))
        found |= {*index.shards, f"{OWN}/{index.stash}"}
    return found


def _text(
    index: Index, names: Sequence[str], shards: Sequence[NewShard], record: bytes | None, stash: str = STASH
) -> bytes:
    """Return the text of the index of new files.

    Parameters
    ----------
    index : Index
        The old index.
    names : sequence of str
        The names of the files.
    shards : sequence of NewShard
        The files.
    record : bytes or None
        The record.
    stash : str
        The name of the file with kept values.
    """
    places = {each: name for name, shard in zip(names, shards, strict=True) for each in shard.names}
    size, elements = sum(shard.size for shard in shards), sum(shard.elements for shard in shards)
    return index.changed(places, size, elements, record, stash)


def _stale(name: str, before: str, shard: Shard) -> NotACheckpoint:
    return NotACheckpoint(f"{name:.80}: {before} {shard.name} holds it; restore the index or the files from a backup")
