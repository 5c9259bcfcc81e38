"""Folders of torch.distributed.checkpoint as checkpoints.

Tensors that only move, and those that are joined or cut between chunks, change in the metadata alone. All other content
goes to one new file. No file of tensors is ever written again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from anemoi_ckpt_migrate.errors import CannotWrite, NotACheckpoint, NotInPlace, Refused, Unpicklable
from anemoi_ckpt_migrate.storage.atomic_replace import (
    Written,
    changed_meanwhile,
    check_writable,
    keep_modes,
    replacement,
    sync_folder,
)
from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, RECORD_ENTRY, Checkpoint, FolderOptions
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.distributed.archives import (
    Archives,
    Unread,
    most_in,
)
from anemoi_ckpt_migrate.storage.distributed.item_maker import ItemMaker
from anemoi_ckpt_migrate.storage.distributed.layout import (
    CONSTANTS,
    RECORD,
    Item,
    Layout,
    TensorItem,
    ValueItem,
    has_tensor,
    leaves,
    nested,
    replaced,
)
from anemoi_ckpt_migrate.storage.distributed.metadata import (
    Entry,
    Metadata,
    Place,
    TensorEntry,
    ValueEntry,
    named,
    places_of,
)
from anemoi_ckpt_migrate.storage.distributed.new_files import NewFiles
from anemoi_ckpt_migrate.storage.distributed.record_attribute import from_attribute
from anemoi_ckpt_migrate.storage.distributed.stored_tensors import StoredTensors
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.folder_exchange import (
    FolderState,
    NewFolder,
    check_elsewhere,
    kept_in_place,
    new_folder,
    rename_anew,
)
from anemoi_ckpt_migrate.storage.lock import beside, create
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.open_inside import FolderSource, place_inside
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, short
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import harmless_names
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.tensors.materialize import Places
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_stored
from anemoi_ckpt_migrate.storage.url import Location, Url, local_folder
from anemoi_ckpt_migrate.storage.zip_archive import Archive
from anemoi_ckpt_migrate.util.dataclass import replace

_NEW_FILE = "__ckpt_migrate_{}.distcp"


class DataFile(NamedTuple):
    """An open file with chunks.

    Attributes
    ----------
    name : str
        Its path in the folder.
    descriptor : int
        The file.
    before : os.stat_result
        The file when it was opened.
    """

    name: str
    descriptor: int
    before: os.stat_result


class DistributedCheckpoint(Checkpoint):
    """An open folder of torch.distributed.checkpoint.

    Parameters
    ----------
    path : Path or Url
        The folder, as the user named it.
    metadata : Metadata
        Its metadata.
    descriptor : int
        The open metadata file.
    files : sequence of DataFile
        The open files with chunks.
    before : FolderState
        The folder when it was opened.
    source : FolderSource
        The source of its files.
    rest : DataFile or None
        The open file beside the metadata, in which a framework keeps everything other than tensors.
    trusted : collection of str
        Modules whose classes are built for real.
    """

    is_of_torch = shares_memory = False  # each tensor is stored by itself
    is_ordered = False  # several processes list their tensors one after the other
    byteorder = sys.byteorder  # of each archive; one of the other order is refused when its content is read

    def __init__(
        self,
        path: Location,
        metadata: Metadata,
        descriptor: int,
        files: list[DataFile],
        before: FolderState,
        source: FolderSource,
        rest: DataFile | None = None,
        trusted: Collection[str] = (),
    ) -> None:
        self._metadata, self._descriptor, self._data_files, self._trusted = metadata, descriptor, files, trusted
        self._before, self._folder_before, self._rest = os.fstat(descriptor), before, rest
        self._source_of_files, self._folder = source, source.path
        opened = [*files, rest] if rest is not None else files
        members = Members([(each.descriptor, each.before.st_size) for each in opened])
        super().__init__(path, members, self._before.st_size + sum(each.before.st_size for each in opened))
        begins = {file.name: member.begin for file, member in zip(opened, members.all, strict=True)}
        self._archives = Archives(members, begins)
        self._stored = StoredTensors(self._archives)
        self._names: dict[tuple[str, str], bool] = {}
        self._constants: dict[bytes, Any] = {}
        self._own: dict[int, Any] = {}  # containers of the last tree that are stored in one piece, by id
        self._real: dict[int, tuple[StoredTensor, Any]] = {}  # real tensors of the last tree, by their address
        self._items: dict[int, tuple[StoredTensor, TensorItem]] = {}  # of the stand-ins of the last tree, by id
        self.stored_rest = None if rest is None else self._archives.pickled("the content", _whole(rest))
        self._rest_keys: Collection[Any] = ()  # of the last tree
        self._layout = self._read_layout()

    def _read_archive(self) -> Archive:
        return Archive("", {}, self.length, 0)

    def _read_layout(self) -> Layout:
        """Return the tree that the metadata describes, and the record there."""
        items: list[Item] = []
        for name, entry in self._metadata.entries.items():
            path = (name,) if self._metadata.paths is None else self._metadata.paths[name]
            items.append(self._item_of(path, name, entry))
        record = None
        if RECORD in self._metadata.more:
            try:
                record = replaced(from_attribute(self._metadata.more[RECORD]), self._kept)
            except (ValueError, TypeError) as error:
                record = f"damaged: {error}"  # whoever reads it says so
        return Layout(b"", {}, items=tuple(items), record=record, rest=self.stored_rest)

    def _item_of(self, path: tuple[str | int, ...], name: str, entry: Entry) -> Item:
        if isinstance(entry, ValueEntry):
            return ValueItem(path, None, entry)
        key = f"={name}"
        self._maker.hold(key, self._stored.add(name, key, entry))
        return TensorItem(path, entry.dtype, entry.shape, key, 0, entry)

    def _kept(self, value: Any) -> Any:
        """Make a stashed tensor known."""
        if isinstance(value, TensorItem) and value.entry is not None:
            self._check_places("a stashed tensor", value.entry)
            self._maker.hold(value.key, self._stored.add("a stashed tensor", value.key, value.entry))
        elif isinstance(value, ValueItem) and value.entry is not None:
            self._check_places("a stashed value", value.entry)
        return value

    def _check_places(self, name: str, entry: Entry) -> None:
        sizes = {file.name: file.before.st_size for file in self._data_files}
        for place in places_of(entry):
            if place.file not in sizes:
                raise ValueError(f"{name} lies in {place.file}, which cannot be read")
            if place.start + place.length > sizes[place.file]:
                raise ValueError(f"{name} lies beyond the end of {place.file}")

    def _adopt(self, pickled: Pickled) -> None:
        self._layout = cast(Layout, pickled)

    def _places(self) -> Places:
        return self._archives.places

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickles of the last tree, and whether they are harmless.

        Those in the metadata are not among them: it is refused if it holds others than torch puts there.
        """
        return self._names

    # The tree

    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins for tensors."""
        self._touched, self._payloads, self._own, self._real, self._items = [], None, {}, {}, {}
        self._maker.renew(self._touched)

        def tensor(item: TensorItem) -> StoredTensor:
            stand_in = self.stand_in(item)
            self._items[id(stand_in)] = stand_in, item
            return stand_in

        return self._tree(tensor, partial(self._value, trusted=self._trusted if trusting else ()))

    def load_content(self) -> Any:
        """Return the tree with real tensors: over the files, or, if a tensor has several chunks, in memory."""
        from anemoi_ckpt_migrate.storage.tensors.evaluate import evaluated
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler

        self.load()
        payloads, made = self._open_payloads(), dict[str, Any]()

        def tensor(item: TensorItem) -> Any:
            stand_in = self.stand_in(item)
            found = evaluated(stand_in, self._maker.recipes, payloads, made)
            if found.data_ptr():
                self._real[found.data_ptr()] = stand_in, found
            return found

        def value(item: ValueItem) -> Any:
            data = self._pickle(item)
            if data is None or data in self._constants:
                return self._value(item)
            unpickler = ContentUnpickler(data, payloads, self._trusted, self._touched)
            return self._kept_whole(self._unpickled(item, unpickler))

        tree = self._tree(tensor, value)
        self._payloads = payloads
        return tree

    def _tree(self, tensor: Callable[[TensorItem], Any], value: Callable[[ValueItem], Any]) -> Any:
        """Return the tree, with its record; that of a state dict lies where a strict load ignores it."""

        def leaf(item: Any) -> Any:
            if isinstance(item, TensorItem):
                return tensor(item)
            return value(item) if isinstance(item, ValueItem) else item

        tree = nested((item.path, leaf(item)) for item in self._layout.items)
        if self._rest is not None:
            self._add_rest(tree, value(ValueItem((self._rest.name,), self._layout.rest, None)))
        if self._layout.record is not None:
            record = replaced(self._layout.record, leaf)
            tensors = all(isinstance(item, TensorItem) and len(item.path) == 1 for item in self._layout.items)
            if tensors and self._rest is None:
                tree._metadata = OrderedDict({RECORD: record})  # type: ignore[attr-defined]
            else:
                tree[RECORD] = record
        return tree

    def _add_rest(self, tree: dict[Any, Any], rest: Any) -> None:
        """Add what lies in the file beside the metadata to the tree, as frameworks do when they load it."""
        name = cast(DataFile, self._rest).name
        if not is_a(rest, dict):
            raise NotACheckpoint(f"{name} in it holds a {type(rest).__name__}, not a dict")
        twice = next((key for key in rest if key in tree), None)
        if twice is not None:
            raise NotACheckpoint(f"both {METADATA} and {name} in it hold {twice!s:.80}")
        self._rest_keys = list(rest)
        tree |= rest

    def stand_in(self, item: TensorItem) -> StoredTensor:
        """Return the stand-in of a tensor."""
        return self._maker.stored(item.key, item.dtype, item.shape, item.offset)

    def _pickle(self, item: ValueItem) -> bytes | None:
        """Return the pickle of a value; None if it is stored in another form."""
        if item.data is not None:
            return item.data
        place = cast(ValueEntry, item.entry).place
        return self._archives.pickled(named(item.path), place) if self._archives.can_read(place) else None

    def _value(self, item: ValueItem, trusted: Collection[str] = ()) -> Any:
        data = self._pickle(item)
        if data is None:
            return Unread(cast(ValueEntry, item.entry).place)
        if data in self._constants:  # thousands of parameters have the same settings
            return self._constants[data]
        try:
            value = self._unpickled(item, TreeUnpickler(data, trusted, self._touched))
        except NotACheckpoint:
            if not trusted:
                raise
            value = self._unpickled(item, TreeUnpickler(data, touched=self._touched))
            self._touched.append("a trusted class")  # it looks at tensors while it is built; real ones will do
        if type(value) in CONSTANTS:
            self._constants[data] = value
        return self._kept_whole(value)

    def _unpickled(self, item: ValueItem, unpickler: TreeUnpickler) -> Any:
        """Load a value, and note the names in its pickle."""
        try:
            value = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            raise NotACheckpoint(f"{named(item.path):.200} in it is damaged or hostile ({short(error)})") from error
        for name, known in harmless_names(unpickler.names, self._pickle(item) or b"").items():
            self._names[name] = self._names.get(name, True) and known
        return value

    def _kept_whole(self, value: Any) -> Any:
        if type(value) in (dict, list, OrderedDict):
            self._own[id(value)] = value
        return value

    # The tree, to be written

    def pickled(self, tree: Any, copy_shared: bool = False) -> Layout:
        """Turn a tree into the list of its tensors and other values, each with its places in the files."""
        if not is_a(tree, dict):
            raise Unpicklable("the checkpoint", f"a distributed checkpoint holds a dict, not a {type(tree).__name__}")
        metadata = getattr(tree, "_metadata", None)
        record = tree.get(RECORD, metadata.get(RECORD) if is_a(metadata, dict) else None)
        making, items = ItemMaker(self, self._payloads), dict[str, Item]()
        own, rest = self._parted({key: value for key, value in tree.items() if key != RECORD})
        for path, value in leaves(own, self._own, self._metadata.paths is None):
            name = named(path)
            if name in items:
                raise Unpicklable(f"ckpt[{name!r:.80}]", "another value would have the same name")
            if value is not None or type(path[-1]) is not int or name in self._metadata.entries:
                items[name] = making.item(path, value)  # any other None is an empty place of a list
        stashed, spelled = making.with_items(record), None
        if self.stored_rest is not None:
            if RECORD in self._rest_keys and is_a(record, dict):  # a framework shows it to who loads the checkpoint
                rest[RECORD] = {key: value for key, value in record.items() if key != "stash"}
            spelled = making.rest(rest, self.stored_rest)
        contents = self._contents_of(making.keys, making.new)
        names = frozenset(making.names)
        return Layout(b"", making.keys, contents, names, items=tuple(items.values()), record=stashed, rest=spelled)

    def _parted(self, tree: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Part a tree: what the metadata name, and what lies beside them.

        A key stays where it is. A new one goes to the metadata if it holds a tensor, or if nothing lies beside them.
        """
        if self._rest is None:
            return dict(tree), {}
        named_there = {item.path[0] for item in self._layout.items}
        beside = {
            key
            for key, value in tree.items()
            if key in self._rest_keys or (key not in named_there and not has_tensor(value))
        }
        return {key: tree[key] for key in tree if key not in beside}, {key: tree[key] for key in tree if key in beside}

    def stored_values(self) -> Iterator[tuple[str, ValueEntry, bytes]]:
        """Yield the name, the place and the pickle of each value in the files that is no tensor."""
        for name, entry in self._metadata.entries.items():
            if isinstance(entry, ValueEntry) and self._archives.can_read(entry.place):
                yield name, entry, self._archives.pickled(name, entry.place)

    def unchanged(self, path: tuple[str | int, ...], value: Any, changed: Collection[str]) -> StoredTensor | None:
        """Return the stand-in of a real tensor that is one of the last tree, and that nobody has written to.

        Parameters
        ----------
        path : tuple
            Its path.
        value : torch.Tensor
            The tensor.
        changed : collection of str
            Storages in the files that differ from the files.
        """
        from anemoi_ckpt_migrate.storage.tensors.evaluate import equal

        if not value.numel():
            same = (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            alike = (item for item in self._layout.items if isinstance(item, TensorItem) and item[:3] == (path, *same))
            return next(map(self.stand_in, alike), None)
        if value.data_ptr() not in self._real:
            return None
        stand_in, known = self._real[value.data_ptr()]
        if known.shape != value.shape or known.dtype != value.dtype or not value.is_contiguous():
            return None
        key = self._payloads.key_of(known.untyped_storage())
        is_same = key not in changed if key is not None else equal(value, self.content(stand_in))
        return stand_in if is_same else None

    @property
    def files(self) -> Members:
        """The open files with chunks."""
        return self._files

    @property
    def in_files(self) -> Mapping[str, Any]:
        """The places of the storages in the archives that were read, by key."""
        return self._archives.places

    def same(self, one: Any, other: Any, there: Checkpoint | None = None) -> bool:
        """Return whether two tensors have the same content; those of the same chunks are not read."""
        if is_stored(one) and is_stored(other):
            places = self._stored.places_of(one, self._maker.recipes)
            if places is not None and places == self._stored.places_of(other, (there or self).maker.recipes):
                return True
        return super().same(one, other, there)

    # The files

    def facts(self) -> FileInfo:
        """Return facts about the folder."""
        chunks = sum(len(each.chunks) for each in self._metadata.entries.values() if isinstance(each, TensorEntry))
        counts = ((len(self._data_files), "file"), (len(self._ranks()), "rank"), (chunks, "chunk"))
        several = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        return FileInfo(f"torch.distributed.checkpoint, {several}", self.length, 0, self.byteorder, 0, 0, False, (), {})

    def _ranks(self) -> set[str]:
        """Return the numbers of the processes that wrote the files, as their names tell them."""
        found = (re.match(r"__(\d+)_\d+\.distcp$", file.name) for file in self._data_files)
        return {match[1] for match in found if match is not None}

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the names of tensors and values whose archives are damaged."""
        found = []
        for name, entry in self._metadata.entries.items():
            places = places_of(entry)
            if self._is_damaged(name, entry):
                found.append(f"data/={name}" if isinstance(entry, TensorEntry) else name)
            if progress is not None:
                progress(sum(place.length for place in places))
        if self._rest is not None and self._archives.is_damaged(self._rest.name, _whole(self._rest)):
            found.append(self._rest.name)
        return found

    def _is_damaged(self, name: str, entry: Entry) -> bool:
        if isinstance(entry, ValueEntry):
            return self._archives.is_damaged(name, entry.place)
        return any(self._archives.is_damaged(name, chunk.place, most_in(chunk, entry.dtype)) for chunk in entry.chunks)

    @property
    def replaces(self) -> Path | None:
        """The metadata, as all other files stay; None for one in a store."""
        return None if isinstance(self._place, Url) else self._place / METADATA

    def check_writable(self, in_place: bool) -> None:
        """Refuse early a folder that writing would refuse."""
        if in_place:
            raise NotInPlace(
                f"it is a distributed checkpoint, of which {METADATA} alone is replaced anyway",
                "no file of tensors is touched",
            )
        if isinstance(self._place, Url):
            from anemoi_ckpt_migrate.storage.remote.new_object import check_writable as check_store

            check_store(self._place, in_place)
            return
        check_writable(self._target)
        check_writable(self._target / METADATA)

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a new metadata file, and perhaps one new file of tensors; or, if more changes, a new folder."""
        layout = cast(Layout, pickled)
        self._items = {}  # the new metadata need the memory
        record = self._record_beside({**self.attached, **attachments})
        layout = layout if record is None else replace(layout, record=record)
        new = NewFiles(self, self._metadata, layout, self._free())
        if output is None and isinstance(self._place, Url):
            return self._put(new, self._place, backup, progress)
        target = self._target if output is None else local_folder(output)
        check_room(target / METADATA if output is None else target, new.size, new.size)
        if output is None and new.rest is None:
            return self._replaced(new, backup, progress)
        if output is None:
            check_elsewhere(target)
        self._source_of_files.complete_all({METADATA})
        with new_folder(target, self._folder_before if output is None else None) as made:
            if new.archives:
                with made.create(new.name, self._descriptor) as descriptor:
                    new.write_data(descriptor, progress)
            with made.create(METADATA, self._descriptor) as descriptor:
                write_at(descriptor, new.metadata(), 0)
            written = []
            if new.rest is not None and self._rest is not None:
                written.append(self._rest.name)
                with made.create(self._rest.name, self._rest.descriptor) as descriptor:
                    new.write_rest(descriptor, progress)
            self._take_files(made, output is None, progress, written)
            if not isinstance(self._place, Url):
                self._check_files()
            kept = made.publish(backup and output is None)
        return Written(output or self.path, None if kept is None else self._as_named(kept))

    def _put(self, new: NewFiles, url: Url, backup: bool, progress: Progress | None) -> Written:
        """Put the new file into the store under a name of its own, and the metadata in place of the old ones, last."""
        from anemoi_ckpt_migrate.storage.remote.new_object import new_object, removed_if_refused

        if new.rest is not None and self._rest is not None:
            raise Refused(
                f"{self._rest.name} in it would change too, and no store replaces two objects at once; write a local "
                "folder with --output, and upload that"
            )
        check_room(url, new.size, new.size)
        with ExitStack() as stack:
            if new.archives:
                with new_object(url / new.name, None) as data:
                    new.write_data(data.descriptor, progress)
                    data.publish(False)
            content = new.metadata()
            if new.archives:
                stack.enter_context(removed_if_refused(url / new.name, url / METADATA, content))
            with new_object(url / METADATA, self._descriptor) as metadata:
                write_at(metadata.descriptor, content, 0)
                kept = metadata.publish(backup)
        return Written(self.path, kept)

    def _replaced(self, new: NewFiles, backup: bool, progress: Progress | None) -> Written:
        """Write the new file under its name, and then the metadata over the old one."""
        target, place = self._target / METADATA, self._target / new.name
        with ExitStack() as stack:
            if self._rest is not None:
                stack.enter_context(kept_in_place(self._target))
            metadata = stack.enter_context(replacement(target, self._descriptor, self._before))
            if new.archives:
                written = stack.enter_context(_file_beside(target, self._descriptor))
                with open(written, "r+b", 0) as file:
                    new.write_data(file.fileno(), progress)
                    os.fsync(file.fileno())
            write_at(metadata.descriptor, new.metadata(), 0)
            self._check_files()
            if new.archives:
                rename_anew(written, place)
                sync_folder(self._target)
            try:
                kept = metadata.publish(backup)
            except BaseException:
                if new.archives and not changed_meanwhile(os.stat(target), self._before):
                    os.unlink(place)
                raise
        return Written(self.path, None if kept is None else self.path / kept.name)

    def _free(self) -> str:
        """Return a name for a new file."""
        return next(
            name for name in map(_NEW_FILE.format, itertools.count()) if not os.path.lexists(self._folder / name)
        )

    def _record_beside(self, attachments: Mapping[str, bytes | None]) -> Any:
        """Return the record from the entries beside the tree; None if it is in the tree."""
        others = [name for name, text in attachments.items() if text is not None and name != RECORD_ENTRY]
        if others:
            raise Unpicklable(others[0], "a distributed checkpoint has no entries beside its tensors and values")
        text = attachments.get(RECORD_ENTRY)
        return None if text is None else json.loads(text)

    def _check_files(self) -> None:
        """Refuse to name files that another program has changed since they were read."""
        for file in (*self._data_files, *([self._rest] if self._rest is not None else [])):
            if changed_meanwhile(os.stat(self._folder / file.name), file.before):
                raise CannotWrite(f"another program changed {file.name} in the meantime; run the command again")

    def _take_files(
        self, folder: NewFolder, shared: bool, progress: Progress | None, without: Collection[str] = ()
    ) -> None:
        """Take all files of the folder into a new one, except some, and the metadata and its backups."""
        names = [file.name for file in self._data_files if "/" not in file.name]
        for name in names:
            folder.take(place_inside(self._folder, name), name, shared, progress)
        own = [name for name in os.listdir(self._folder) if name == METADATA or name.startswith(f"{METADATA}.")]
        folder.take_rest(self._folder, [*own, *names, *without], shared)

    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the folder unchanged to `output`."""
        if output is None:
            raise NotImplementedError("a distributed checkpoint has no earlier states")
        self._source_of_files.complete_all(())
        with new_folder(local_folder(output), None) as folder:
            self._take_files(folder, False, progress)
            folder.take(self._folder / METADATA, METADATA, False)
            folder.publish(False)
        return Written(output, None)

    def close(self) -> None:
        """Remove the files that hold what was compressed."""
        self._archives.close()

    def release(self) -> None:
        """Free the memory that only loading needs."""
        self._own, self._real, self._items = {}, {}, {}
        super().release()

    def item_of(self, tensor: StoredTensor) -> TensorItem | None:
        """Return the item of a tensor of the files that the last tree has; None for any other."""
        _, item = self._items.get(id(tensor), (None, None))
        return item if item is not None and item.entry is not None else None

    def entry_of(self, tensor: StoredTensor) -> TensorEntry | None:
        """Return the chunks of a plain tensor that is made of whole chunks of the files; None for any other."""
        return self._stored.entry_of(tensor, self._maker.recipes)

    def like(self, key: str) -> TensorEntry | None:
        """Return the first tensor in the files that a storage is made from."""
        return self._stored.like(key, self._maker.recipes)


def _whole(file: DataFile) -> Place:
    """Return the place of an archive that is a file by itself."""
    return Place(file.name, 0, file.before.st_size)


@contextmanager
def _file_beside(target: Path, like: int) -> Iterator[Path]:
    """Yield the hidden name of an empty file with the permissions of another one, and remove that name afterwards."""
    path = beside(target)
    descriptor = create(path, 0o600)
    try:
        keep_modes(like, descriptor)
        os.close(descriptor)
        yield path
    finally:
        with contextlib.suppress(OSError):  # the next run removes a leftover
            os.unlink(path)
