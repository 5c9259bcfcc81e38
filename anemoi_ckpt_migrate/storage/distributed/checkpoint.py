"""Folders of torch.distributed.checkpoint as checkpoints.

Tensors that only move, and those that are joined or cut between chunks, change in the metadata alone. All other content
goes to one new file. No file of tensors is ever written again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, NotACheckpoint, NotInPlace, Refused, Unpicklable
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
from anemoi_ckpt_migrate.storage.distributed import chunks as algebra
from anemoi_ckpt_migrate.storage.distributed.archives import (
    PROTOCOL,
    Archives,
    ChunkSources,
    Unread,
    pickled,
    with_keys,
)
from anemoi_ckpt_migrate.storage.distributed.layout import (
    RECORD,
    Item,
    Layout,
    TensorItem,
    ValueItem,
    has_tensor,
    leaves,
    named,
    nested,
    replaced,
)
from anemoi_ckpt_migrate.storage.distributed.metadata import (
    Chunk,
    Entry,
    Metadata,
    Place,
    TensorEntry,
    ValueEntry,
    is_strided,
    metadata_bytes,
    read_metadata,
    with_dtype,
)
from anemoi_ckpt_migrate.storage.distributed.record_attribute import from_attribute, to_attribute
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.folder_exchange import NewFolder, new_folder, rename_anew
from anemoi_ckpt_migrate.storage.lock import beside, create
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.open_inside import opened_inside, place_inside
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, short
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import handed_on
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import (
    TensorExpr,
    is_contiguous,
    known_dtype,
    plain_of,
    storage_of,
)
from anemoi_ckpt_migrate.storage.tensors.materialize import Places
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_real, is_stored, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.zip_archive import ALIGNMENT, Archive
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, write_new

_CONSTANTS = (int, float, bool, str, type(None))
_NEW_FILE = "__ckpt_migrate_{}.distcp"
_BESIDE = {"meta.pt": "Lightning", "common.pt": "Megatron-Core"}
_VERSION = b"3\n"  # of the archives of torch
_BEGIN, _END, _END_LENGTH = b"PK\3\4", b"PK\5\6", 22  # of an archive


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
    path : Path
        The folder, as the user named it.
    metadata : Metadata
        Its metadata.
    descriptor : int
        The open metadata file.
    files : sequence of DataFile
        The open files with chunks.
    trusted : collection of str
        Modules whose classes are built for real.
    """

    byteorder = sys.byteorder  # of each archive; one of the other order is refused when its content is read

    def __init__(
        self,
        path: Path,
        metadata: Metadata,
        descriptor: int,
        files: list[DataFile],
        trusted: Collection[str] = (),
    ) -> None:
        self._metadata, self._descriptor, self._data_files, self._trusted = metadata, descriptor, files, trusted
        self._before = os.fstat(descriptor)
        members = Members([(each.descriptor, each.before.st_size) for each in files])
        super().__init__(path, members, self._before.st_size + sum(each.before.st_size for each in files))
        begins = {file.name: member.begin for file, member in zip(files, members.all, strict=True)}
        self._archives = Archives(members, begins)
        self._entries: dict[str, TensorEntry] = {}  # tensors in the files, by the keys of their storages
        self._names: dict[tuple[str, str], bool] = {}
        self._constants: dict[bytes, Any] = {}
        self._own: dict[int, Any] = {}  # containers of the last tree that are stored in one piece, by id
        self._real: dict[int, tuple[StoredTensor, Any]] = {}  # real tensors of the last tree, by their address
        self._layout = self._read_layout()

    def _read_archive(self) -> Archive:
        return Archive("", {}, self.length, 0)

    def _read_layout(self) -> Layout:
        """Return the tree that the metadata describes, and the record there."""
        items: list[Item] = []
        for name, entry in self._metadata.entries.items():
            path = (name,) if self._metadata.paths is None else self._metadata.paths[name]
            items.append(self._item_of(path, f"={name}", entry))
        record = None
        if RECORD in self._metadata.more:
            try:
                record = replaced(from_attribute(self._metadata.more[RECORD]), self._kept)
            except (ValueError, TypeError) as error:
                record = f"damaged: {error}"  # whoever reads it says so
        return Layout(b"", {}, items=tuple(items), record=record)

    def _item_of(self, path: tuple[str | int, ...], key: str, entry: Entry) -> Item:
        if isinstance(entry, ValueEntry):
            return ValueItem(path, None, entry)
        self._hold(named(path), key, entry)
        return TensorItem(path, entry.dtype, entry.shape, key, 0, entry)

    def _kept(self, value: Any) -> Any:
        """Make a stashed tensor known."""
        if isinstance(value, TensorItem) and value.entry is not None:
            self._check_places("a stashed tensor", value.entry)
            self._hold("a stashed tensor", value.key, value.entry)
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

    def _hold(self, name: str, key: str, entry: TensorEntry) -> None:
        self._entries[key] = entry
        sources = ChunkSources(partial(self._archives.chunk, name, dtype=entry.dtype), entry.chunks)
        offsets = tuple(chunk.offsets for chunk in entry.chunks)
        self._maker.hold(key, TensorExpr("chunks", offsets, sources, entry.shape, entry.dtype))

    def _adopt(self, pickled: Pickled) -> None:
        self._layout = cast(Layout, pickled)

    def _places(self) -> Places:
        return self._archives.places

    @property
    def is_of_torch(self) -> bool:
        """False: `torch.distributed.checkpoint` reads it."""
        return False

    @property
    def is_ordered(self) -> bool:
        """False: tensors are found by name, and several processes list theirs one after the other."""
        return False

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickles of the last tree, and whether they are harmless.

        Those in the metadata are not among them: it is refused if it holds others than torch puts there.
        """
        return self._names

    # The tree

    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins for tensors."""
        self._touched, self._payloads, self._own, self._real = [], None, {}, {}
        self._maker.renew(self._touched)
        return self._tree(self.stand_in, partial(self._value, trusted=self._trusted if trusting else ()))

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
            unpickler = ContentUnpickler(data, payloads, self._trusted)
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
        if self._layout.record is not None:
            record = replaced(self._layout.record, leaf)
            if all(isinstance(item, TensorItem) and len(item.path) == 1 for item in self._layout.items):
                tree._metadata = OrderedDict({RECORD: record})  # type: ignore[attr-defined]
            else:
                tree[RECORD] = record
        return tree

    def stand_in(self, item: TensorItem) -> StoredTensor:
        """Return the stand-in of a tensor."""
        return self._maker.stored(item.key, item.dtype, item.shape, item.offset)

    def _pickle(self, item: ValueItem) -> bytes | None:
        """Return the pickle of a value; None if it is stored in another form."""
        if item.data is not None:
            return item.data
        place = cast(ValueEntry, item.entry).place
        return None if place.transforms else self._archives.pickled(named(item.path), place)

    def _value(self, item: ValueItem, trusted: Collection[str] = ()) -> Any:
        data = self._pickle(item)
        if data is None:
            return Unread(cast(ValueEntry, item.entry).place)
        if data in self._constants:  # thousands of parameters have the same settings
            return self._constants[data]
        value = self._unpickled(item, TreeUnpickler(data, trusted))
        if type(value) in _CONSTANTS:
            self._constants[data] = value
        return self._kept_whole(value)

    def _unpickled(self, item: ValueItem, unpickler: TreeUnpickler) -> Any:
        """Load a value, and note the names in its pickle."""
        try:
            value = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            raise NotACheckpoint(f"{named(item.path):.200} in it is damaged or hostile ({short(error)})") from error
        names = unpickler.names
        self._touched += unpickler.touched
        called = frozenset(name for name, known in names.items() if known and name[1] in ("getattr", "type"))
        leaked = called if called and handed_on(self._pickle(item) or b"", called) else ()
        for name, known in names.items():
            self._names[name] = self._names.get(name, True) and known and name not in leaked
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
        making, items = _Making(self, self._payloads), dict[str, Item]()
        self._check_own(tree)
        rest = {key: value for key, value in tree.items() if key != RECORD}
        for path, value in leaves(rest, self._own, self._metadata.paths is None):
            name = named(path)
            if name in items:
                raise Unpicklable(f"ckpt[{name!r:.80}]", "another value would have the same name")
            if value is not None or type(path[-1]) is not int or name in self._metadata.entries:
                items[name] = making.item(path, value)  # any other None is an empty place of a list
        stashed = making.with_items(record)
        contents = self._contents_of(making.keys, making.new)
        return Layout(b"", making.keys, contents, frozenset(making.names), items=tuple(items.values()), record=stashed)

    def _check_own(self, tree: Mapping[Any, Any]) -> None:
        """Refuse new keys where a framework keeps everything but tensors in a file beside the metadata."""
        known = {item.path[0] for item in self._layout.items}
        for file, framework in _BESIDE.items():
            new = next((key for key in tree if key not in known and key != RECORD and not has_tensor(tree[key])), None)
            if new is not None and (self._target / file).exists():
                raise Refused(
                    f"ckpt[{new!r:.80}] would be new in it, but {framework} keeps everything other than tensors in "
                    f"{file} beside {METADATA}, which cannot be migrated yet; leave this operation out"
                )

    def stored_values(self) -> Iterator[tuple[str, ValueEntry, bytes]]:
        """Yield the name, the place and the pickle of each value in the files that is no tensor."""
        for name, entry in self._metadata.entries.items():
            if isinstance(entry, ValueEntry) and not entry.place.transforms:
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

    def entry_of(self, tensor: StoredTensor) -> TensorEntry | None:
        """Return the chunks of a plain tensor that is made of whole chunks of the files; None for any other."""
        key, offset = storage_of(tensor).key, reduced(tensor)[1][1]
        recipe = self._maker.recipes.get(key)
        if recipe is None or offset or tuple(tensor.shape) != tuple(recipe.shape) or not is_contiguous(tensor):
            return None
        if known_dtype(tensor) != recipe.dtype:
            return None
        if key in self._entries:
            return self._entries[key]
        if recipe.kind not in ("cat", "narrow", "clone"):
            return None
        parts = [self.entry_of(source) for source in recipe.sources]
        known = [part for part in parts if part is not None and is_strided(part)]
        if len(known) < len(parts):
            return None
        if recipe.kind == "clone":
            return known[0]
        dim = recipe.args[0] % len(recipe.shape)
        found: list[Chunk] | None
        if recipe.kind == "cat":
            found = algebra.joined([(part.shape, part.chunks) for part in known], dim)
        else:
            found = algebra.cut(known[0].chunks, dim, *recipe.args[1:])
        return None if found is None else known[0]._replace(shape=tuple(recipe.shape), chunks=tuple(found))

    def same(self, one: Any, other: Any, there: Checkpoint | None = None) -> bool:
        """Return whether two tensors have the same content; those of the same chunks are not read."""
        if is_stored(one) and is_stored(other):
            parts = self._parts(one)
            if parts is not None and parts == cast(DistributedCheckpoint, there or self)._parts(other):
                return True
        return super().same(one, other, there)

    def _parts(self, tensor: StoredTensor) -> set[tuple[Any, ...]] | None:
        """Return all chunks of a tensor, each with its place in it; None if it has others than the files."""
        try:
            entry = self.entry_of(plain_of(tensor))
        except Mismatch:
            return None
        if entry is None:
            return None
        return {(*chunk[:2], *chunk.place[:3]) for chunk in entry.chunks if 0 not in chunk.sizes}

    def like(self, key: str) -> TensorEntry | None:
        """Return the first tensor in the files that a storage is made from."""
        if key in self._entries:
            return self._entries[key]
        recipe = self._maker.recipes.get(key)
        keys = (storage_of(source).key for source in (recipe.sources if recipe is not None else ()))
        return next((found for each in keys if (found := self.like(each)) is not None), None)

    # The files

    def facts(self) -> FileInfo:
        """Return facts about the folder."""
        chunks = sum(len(each.chunks) for each in self._metadata.entries.values() if isinstance(each, TensorEntry))
        kind = f"torch.distributed.checkpoint, {len(self._data_files)} files, {chunks} chunks"
        return FileInfo(kind, self.length, 0, self.byteorder, 0, 0, False, (), {})

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the names of tensors and values whose archives are damaged."""
        found = []
        for name, entry in self._metadata.entries.items():
            places = places_of(entry)
            if any(self._archives.is_damaged(place) for place in places):
                found.append(f"data/={name}" if isinstance(entry, TensorEntry) else name)
            if progress is not None:
                progress(sum(place.length for place in places))
        return found

    def check_writable(self, in_place: bool) -> None:
        """Refuse early a folder that writing would refuse."""
        if in_place:
            self._refuse_in_place()
        check_writable(self._target)
        check_writable(self._target / METADATA)

    def _refuse_in_place(self) -> NoReturn:
        raise NotInPlace(
            f"it is a distributed checkpoint, of which {METADATA} alone is replaced anyway",
            "no file of tensors is touched",
        )

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Refuse: see `check_writable`."""
        self._refuse_in_place()

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Path | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a new metadata file, and perhaps one new file of tensors; or a new folder."""
        layout = cast(Layout, pickled)
        record = self._record_beside({**self.attached, **attachments})
        layout = layout if record is None else replace(layout, record=record)
        new = _NewFiles(self, self._metadata, layout, self._free())
        target = self._target if output is None else Path(os.path.realpath(output))
        check_room(target / METADATA if output is None else target, new.size, new.size)
        if output is None:
            return self._replaced(new, backup, progress)
        with new_folder(target, None) as made:
            if new.archives:
                with made.create(new.name, self._descriptor) as descriptor:
                    new.write_data(descriptor, progress)
            with made.create(METADATA, self._descriptor) as descriptor:
                write_at(descriptor, new.metadata(), 0)
            self._take_files(made, progress)
            made.publish(False)
        return Written(output, None)

    def _replaced(self, new: _NewFiles, backup: bool, progress: Progress | None) -> Written:
        """Write the new file under its name, and then the metadata over the old one."""
        target, place = self._target / METADATA, self._target / new.name
        with replacement(target, self._descriptor, self._before) as metadata, ExitStack() as stack:
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
            name for name in map(_NEW_FILE.format, itertools.count()) if not os.path.lexists(self._target / name)
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
        for file in self._data_files:
            if changed_meanwhile(os.stat(self._target / file.name), file.before):
                raise CannotWrite(f"another program changed {file.name} in the meantime; run the command again")

    def _take_files(self, folder: NewFolder, progress: Progress | None) -> None:
        """Take all files of the folder into a new one, except the metadata and its backups."""
        names = [file.name for file in self._data_files]
        for name in names:
            folder.take(place_inside(self._target, name), name, False, progress)
        own = [name for name in os.listdir(self._target) if name == METADATA or name.startswith(f"{METADATA}.")]
        folder.take_rest(self._target, [*own, *names], False)

    def rewrite(self, output: Path | None = None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Write the metadata anew."""
        return self.write(self.pickled(self.load()), {}, output, backup, progress)

    def copy(self, output: Path | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the folder unchanged to `output`."""
        if output is None:
            raise NotImplementedError("a distributed checkpoint has no earlier states")
        with new_folder(Path(os.path.realpath(output)), None) as folder:
            self._take_files(folder, progress)
            folder.take(self._target / METADATA, METADATA, False)
            folder.publish(False)
        return Written(output, None)

    def release(self) -> None:
        """Free the memory that only loading needs."""
        self._own, self._real = {}, {}
        super().release()


def places_of(entry: Entry) -> list[Place]:
    """Return the places of all chunks of a tensor, or of another value."""
    return [entry.place] if isinstance(entry, ValueEntry) else [chunk.place for chunk in entry.chunks]


class _Making:
    """Turns the values of a tree into items to write.

    Attributes
    ----------
    keys : dict of str to None
        Storages whose content has to be written.
    new : dict of str to Content
        Content of real tensors that a function made.
    names : dict of (str, str) to None
        Modules and names in the pickles of other values, except harmless ones.
    """

    def __init__(self, checkpoint: DistributedCheckpoint, payloads: Any) -> None:
        self._checkpoint, self._payloads = checkpoint, payloads
        self.keys: dict[str, None] = {}
        self.new: dict[str, Content] = {}
        self.names: dict[tuple[str, str], None] = {}
        self._pickles: dict[Any, bytes] = {}
        self._changed: set[str] = set()  # storages in the files that a function has written to
        if payloads is not None:
            self._changed = set(payloads.changed(dict.fromkeys(checkpoint.in_files)))

    def item(self, path: tuple[str | int, ...], value: Any) -> Item:
        """Return a value as it is to be written."""
        where = f"ckpt[{named(path)!r:.80}]" if path else "a stashed value"
        if is_stored(value):
            return self._tensor(path, where, value)
        if is_real(value):
            return self._real(path, where, value)
        if type(value) is Unread:
            return ValueItem(path, None, ValueEntry(value.place))
        return self._value(path, where, value)

    def with_items(self, record: Any) -> Any:
        """Return a record with items in place of stashed values."""
        if not is_a(record, dict) or not is_a(record.get("stash"), dict):
            return record
        stash = {revision: [self._stashed(each) for each in values] for revision, values in record["stash"].items()}
        return {**record, "stash": stash}

    def _stashed(self, value: Any) -> Any:
        if type(value) is dict and all(type(key) in (str, int) for key in value):
            return {key: self._stashed(each) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._stashed(each) for each in value)
        return value if type(value) in _CONSTANTS else self.item((), value)

    def _tensor(self, path: tuple[str | int, ...], where: str, value: StoredTensor) -> TensorItem:
        checkpoint = self._checkpoint
        try:
            plain = plain_of(value)
        except Mismatch as error:
            raise Unpicklable(where, f"a distributed checkpoint gets plain tensors, and {error}") from error
        entry = checkpoint.entry_of(plain)
        if entry is None and not is_contiguous(plain):
            plain = checkpoint.maker.make("clone", (), [plain])
        key = storage_of(plain).key
        if entry is None:
            self.keys[key] = None
        return TensorItem(path, known_dtype(plain), tuple(plain.shape), key, reduced(plain)[1][1], entry)

    def _real(self, path: tuple[str | int, ...], where: str, value: Any) -> TensorItem:
        from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        plain = type(value).__name__ in ("Tensor", "Parameter") and not value.is_nested and not value.is_meta
        if not plain or str(value.layout) != "torch.strided" or value.is_quantized:
            raise Unpicklable(where, "a distributed checkpoint gets plain tensors only")
        value = value.detach().resolve_conj().resolve_neg()
        same = None if self._payloads is None else self._checkpoint.unchanged(path, value, self._changed)
        if same is not None:
            return self._tensor(path, where, same)
        value = value.cpu().contiguous()
        if value.untyped_storage().nbytes() != value.nbytes:
            value = value.clone()  # a part of a larger storage
        key = str(self._next_key)
        self.new[key], self.keys[key] = content_of(value.untyped_storage()), None
        return TensorItem(path, str(value.dtype).removeprefix("torch."), tuple(value.shape), key, 0, None)

    @property
    def _next_key(self) -> int:
        return self._checkpoint.maker.next_key + len(self.new)

    def _value(self, path: tuple[str | int, ...], where: str, value: Any) -> ValueItem:
        kind = (type(value), repr(value)) if type(value) in _CONSTANTS else None
        keys: Mapping[str, None] = {}
        if kind is None or kind not in self._pickles:
            try:
                pickler, data = dumped(value, self._pickler)
            except Unpicklable as error:
                raise Unpicklable(where + error.where.removeprefix("ckpt"), error.what) from error
            keys = pickler.keys
            made = getattr(pickler, "made", {})
            if kind is not None:
                self._pickles[kind] = data
        else:
            pickler, data, made = None, self._pickles[kind], {}
        entry = None if made or not self._changed.isdisjoint(keys) else self._known(named(path), data)
        if entry is None:
            self.keys |= keys
            self.names |= pickler.names if pickler is not None else {}
            if made:
                from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

                self.new |= {key: content_of(storage) for key, storage in made.items()}
        return ValueItem(path, data if entry is None else None, entry)

    def _known(self, name: str, data: bytes) -> ValueEntry | None:
        """Return the place of a value with this pickle; preferably that of this name."""
        by_name, by_pickle = self._stored
        return by_name.get((name, data)) or by_pickle.get(data)

    @cached_property
    def _stored(self) -> tuple[dict[tuple[str, bytes], ValueEntry], dict[bytes, ValueEntry]]:
        """The places of all values in the files, by name and pickle as this tool spells it, and by pickle alone."""
        spelled: dict[bytes, bytes] = {}
        by_name, by_pickle = {}, dict[bytes, ValueEntry]()
        for name, entry, data in self._checkpoint.stored_values():
            if data not in spelled:
                spelled[data] = pickled(TreeUnpickler(data).load())
            by_name[name, spelled[data]] = entry
            by_pickle.setdefault(spelled[data], entry)
        return by_name, by_pickle

    def _pickler(self, stream: BytesIO) -> TreePickler:
        if "torch" not in sys.modules:  # then the tree holds no real tensor either
            return TreePickler(stream, PROTOCOL)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        return ContentPickler(stream, PROTOCOL, self._payloads, self._next_key)


class _NewFiles:
    """The new metadata of a folder, and the new file with all content that the files lack.

    Attributes
    ----------
    name : str
        The name of the new file.
    archives : dict
        The archives to write into it, by item.
    size : int
        The number of bytes of their content.
    """

    def __init__(self, checkpoint: DistributedCheckpoint, metadata: Metadata, layout: Layout, name: str) -> None:
        self._checkpoint, self._metadata, self._layout, self.name = checkpoint, metadata, layout, name
        self._record = layout.record
        self.archives: dict[Any, Contents] = {}
        self._places: dict[Any, Place] = {}
        for item in layout.items:
            self._plan(item)
        replaced(self._record, self._plan)
        contents = (each for archive in self.archives.values() for each in archive.new.values())
        copied = (end - start for archive in self.archives.values() for start, end in archive.loose.values())
        self.size = sum(map(len, contents)) + sum(copied)

    def _plan(self, item: Any) -> None:
        if isinstance(item, (TensorItem, ValueItem)) and item.entry is None and _content(item) not in self.archives:
            data = item.data if isinstance(item, ValueItem) else pickled(self._checkpoint.stand_in(item))
            self.archives[_content(item)] = self._archive(data or b"")

    def _archive(self, data: bytes) -> Contents:
        """Return the archive for a pickle; its storages are numbered."""
        numbers: dict[str, str] = {}
        data = with_keys(data, lambda key: numbers.setdefault(key, str(len(numbers))))
        new: dict[str, Content] = {"data.pkl": data, "byteorder": sys.byteorder.encode(), "version": _VERSION}
        loose: dict[str, tuple[int, int]] = {}
        for key, number in numbers.items():
            if key in self._layout.payloads:
                new[f"data/{number}"] = self._layout.payloads[key]
            else:
                start, length, _ = self._checkpoint.in_files[key]
                loose[f"data/{number}"] = start, start + length
        return Contents("archive", [], new, loose)

    def write_data(self, descriptor: int, progress: Progress | None) -> None:
        """Write the new file into an empty one."""
        at = 0
        for content, archive in self.archives.items():
            at += -at % ALIGNMENT
            length = write_new(archive, self._checkpoint.files, descriptor, progress, at)
            self._places[content] = Place(self.name, at, length)
            at += length

    def metadata(self) -> bytes:
        """Return the new metadata; the new file has to be written before."""
        entries = {named(item.path): self._entry(item) for item in self._layout.items}
        paths = None if self._metadata.paths is None else {named(item.path): item.path for item in self._layout.items}
        more = {key: value for key, value in self._metadata.more.items() if key != RECORD}
        if self._record is not None:
            more[RECORD] = to_attribute(self._record, self._entry)
        return metadata_bytes(Metadata(entries, paths, more))

    def _entry(self, item: Item) -> Entry:
        if item.entry is not None:
            return item.entry
        place = self._places[_content(item)]
        if isinstance(item, ValueItem):
            return ValueEntry(place)
        like = self._checkpoint.like(item.key)
        properties = with_dtype(None if like is None else like.properties, item.dtype)
        return TensorEntry(properties, item.shape, (Chunk((0,) * len(item.shape), item.shape, place),))


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


def _content(item: Item) -> Any:
    """Return a key that is equal for two items with the same content."""
    return item.data if isinstance(item, ValueItem) else item[1:5]


def _last_places(metadata: Metadata) -> list[tuple[str, Place]]:
    """Return the name of the last tensor or value in each file, and its place."""
    last: dict[str, tuple[int, str, Place]] = {}
    for name, entry in metadata.entries.items():
        for place in places_of(entry):
            end = place.start + place.length
            if end > last.get(place.file, (-1,))[0]:
                last[place.file] = end, name, place
    return [last[file][1:] for file in sorted(last)]


def _further_files(metadata: Metadata, known: Collection[str]) -> list[str]:
    """Return the files in which only values that a record keeps still lie."""
    found = set[str]()

    def note(value: Any) -> None:
        if isinstance(value, (TensorItem, ValueItem)) and value.entry is not None:
            found.update(place.file for place in places_of(value.entry))

    with contextlib.suppress(ValueError, TypeError):  # a damaged record is met again when it is read
        replaced(from_attribute(metadata.more.get(RECORD)), note)
    return sorted(found.difference(known))


def _check_holds(descriptor: int, name: str, place: Place) -> None:
    """Refuse a file that does not hold what the metadata say of its end, as one of another generation does not."""
    size, end = os.fstat(descriptor).st_size, place.start + place.length
    begins, ends = os.pread(descriptor, 4, place.start), os.pread(descriptor, len(_END), max(0, end - _END_LENGTH))
    if end > size or not (place.transforms or (begins == _BEGIN and ends == _END)):
        raise NotACheckpoint(
            f"{name:.200} is not where its {METADATA} says, in {place.file}, which has {size:,} bytes; was it cut off, "
            "or does it belong to another checkpoint?"
        )


@contextmanager
def open_distributed(path: Path, trusted: Collection[str] = ()) -> Iterator[DistributedCheckpoint]:
    """Open a folder of torch.distributed.checkpoint. This reads its metadata, but no payload.

    Parameters
    ----------
    path : Path
        The folder, as the user named it.
    trusted : collection of str
        Modules whose classes are built for real.

    Raises
    ------
    CannotRead, NotACheckpoint, Refused
        A file is missing or damaged, or leads out of the folder.
    """
    folder = Path(os.path.realpath(path))
    with ExitStack() as stack:
        descriptor = stack.enter_context(opened_inside(folder, METADATA))
        metadata = read_metadata(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        files = []
        for name, place in _last_places(metadata):
            data = stack.enter_context(opened_inside(folder, place.file))
            _check_holds(data, name, place)
            files.append(DataFile(place.file, data, os.fstat(data)))
        for name in _further_files(metadata, {file.name for file in files}):
            with contextlib.suppress(CannotRead, Refused):  # then the record is damaged, and the checkpoint is not
                data = stack.enter_context(opened_inside(folder, name))
                files.append(DataFile(name, data, os.fstat(data)))
        yield DistributedCheckpoint(path, metadata, descriptor, files, trusted)
