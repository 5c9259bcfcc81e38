"""Folders of Hugging Face with weights in shards of `torch.save`: ``pytorch_model-00001-of-00002.bin``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from anemoi_ckpt_migrate.errors import Refused, Unpicklable
from anemoi_ckpt_migrate.storage.checkpoint import RECORD_ENTRY
from anemoi_ckpt_migrate.storage.huggingface.folder import HuggingFaceFolder, NewShard
from anemoi_ckpt_migrate.storage.huggingface.torch_files import damaged, read_torch_file
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, made_content
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import harmless_names
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.storage.safetensors_file import MOST_KEPT
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES, known_dtype, plain_of, storage_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.zip_archive import Archive
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.tensors.materialize import Places
    from anemoi_ckpt_migrate.storage.zip_writer import Content


class _Part(NamedTuple):
    """A part of the tree, which is one file.

    Attributes
    ----------
    old : int
        The number of the shard from which most of it comes.
    data : bytes
        Its pickle. The key of a storage is the number of its shard and its key there: ``0/12``.
    names : tuple of str
        Its tensors.
    size, elements : int
        The number of bytes and of elements of its tensors.
    """

    old: int
    data: bytes
    names: tuple[str, ...] = ()
    size: int = 0
    elements: int = 0


@dataclass(frozen=True)
class _PickledParts(Pickled):
    """A tree, ready to be written in several files.

    Attributes
    ----------
    parts : tuple of _Part
        The files.
    """

    parts: tuple[_Part, ...] = ()


class TorchFolder(HuggingFaceFolder):
    """An open folder of Hugging Face with shards of `torch.save`."""

    _kind = "files of torch"

    @property
    def most_kept(self) -> int | None:
        """1 MiB: the record is JSON, in the index."""
        return MOST_KEPT

    def _read_archive(self) -> Archive:
        """Read the tables of contents and the pickles, and compare them with the index."""
        self._unpicklers: list[TreeUnpickler] = []
        pairs = enumerate(zip(self._shards, self._files.all, strict=False))
        self._opened = [read_torch_file(shard, number, member.begin) for number, (shard, member) in pairs]
        self._where = {key: place for file in self._opened for key, place in file.places.items()}
        self._old = self._parts = [self._part(number, file.data) for number, file in enumerate(self._opened)]
        self._homes((part.old, name) for part in self._old for name in part.names)
        return Archive("", {}, self.length, 0, {}, self._own_texts())

    def _own_texts(self) -> dict[str, bytes]:
        """Return the record; without an index, it lies in the archive of the one file."""
        text = self._opened[0].small.get(RECORD_ENTRY)
        return super()._own_texts() if self._index is not None or text is None else {RECORD_ENTRY: text}

    def _part(self, number: int, data: bytes) -> _Part:
        """Return a file as a part of the tree."""
        values = self._unpickled(number, TreeUnpickler(data))
        size, elements = sum(map(_size, values.values())), sum(int(value.numel()) for value in values.values())
        return _Part(number, data, tuple(values), size, elements)

    def _adopt(self, pickled: Pickled) -> None:
        self._parts = list(cast(_PickledParts, pickled).parts)

    def _places(self) -> Places:
        return self._where

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickles of the last tree, and whether they are harmless."""
        return self._names_of_weights()

    def _names_of_weights(self) -> dict[tuple[str, str], bool]:
        found: dict[tuple[str, str], bool] = {}
        for part, unpickler in zip(self._parts, self._unpicklers, strict=True):
            for name, known in harmless_names(unpickler.names, part.data).items():
                found[name] = found.get(name, True) and known
        return found

    def load(self, trusting: bool = True) -> dict[str, Any]:
        """Return the state dict with stand-ins for tensors."""
        self._payloads = None
        return self._loaded(TreeUnpickler)

    def load_content(self) -> dict[str, Any]:
        """Return the state dict with real tensors over the files."""
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler

        payloads = self._open_payloads()
        tree = self._loaded(partial(ContentUnpickler, payloads=payloads))
        self._payloads = payloads
        return tree

    def _loaded(self, kind: Any) -> dict[str, Any]:
        self._touched = touched = list[str]()
        self._unpicklers = [kind(part.data, touched=touched) for part in self._parts]
        self._maker.renew(touched)
        pairs = zip(self._parts, self._unpicklers, strict=True)
        trees = [self._unpickled(part.old, unpickler) for part, unpickler in pairs]
        held = self._places().keys() | self._unwritten.keys() | self._maker.recipes.keys()
        for part, unpickler in zip(self._parts, self._unpicklers, strict=True):
            self._opened[part.old].check(unpickler.keys, held)
        return {name: value for tree in trees for name, value in tree.items()}

    def _unpickled(self, number: int, unpickler: TreeUnpickler) -> dict[str, Any]:
        """Return the dict of tensors in a file."""
        shard = self._shards[number]
        try:
            tree = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            raise damaged(shard.name, error) from error
        if not is_a(tree, dict) or not all(type(name) is str for name in tree):
            raise Refused(f"{shard.name} in it does not hold tensors by name, and only such shards are migrated")
        other = next((name for name, value in tree.items() if not is_stored(value) and not is_real(value)), None)
        if other is not None:
            raise Refused(f"{other:.80} in {shard.name} is not a tensor, and only shards of tensors are migrated")
        return cast(dict[str, Any], tree)

    # The tree, to be written

    def pickled(self, tree: Any, copy_shared: bool = False) -> Pickled:
        """Turn a state dict into the pickles of its files."""
        if not is_a(tree, dict):
            raise Unpicklable("the checkpoint", f"shards hold a dict of tensors, not a {type(tree).__name__}")
        for name, value in tree.items():
            if type(name) is not str or not (is_stored(value) or is_real(value)):
                raise Unpicklable(f"ckpt[{name!r:.80}]", "shards hold tensors by name, and nothing else")
        largest = None if self._index is None else max(part.size for part in self._old)
        parts, keys, names = [], dict[str, None](), set[tuple[str, str]]()
        new: dict[str, Content] = {}
        for old, items in self._parted(tree.items(), self._key_of, lambda item: _size(item[1]), largest):
            pickler, data = dumped(self._filled(old, items), partial(self._pickler, new=new))
            keys |= pickler.keys
            names |= set(pickler.names)
            new |= made_content(pickler)
            size, elements = sum(_size(value) for _, value in items), sum(int(value.numel()) for _, value in items)
            parts.append(_Part(old, data, tuple(name for name, _ in items), size, elements))
        contents = self._contents_of(keys, new)
        return _PickledParts(b"", keys, contents, frozenset(names), parts=tuple(parts))

    def _filled(self, old: int, items: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return a dict of the kind that the old shard holds, with other tensors."""
        container: dict[str, Any] = TreeUnpickler(self._old[old].data).load()
        container.clear()
        container.update(items)
        return container

    def _pickler(self, stream: BytesIO, new: Mapping[str, Content]) -> TreePickler:
        protocol = max(2, protocol_of(self._old[0].data))
        if "torch" not in sys.modules:  # then the tree holds no real tensor either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        first = max(self._first_key(), self._maker.next_key) + len(new)
        return ContentPickler(stream, protocol, self._payloads, first)

    def _key_of(self, item: tuple[str, Any]) -> str:
        """Return the key of the storage of a tensor; empty if no file holds it."""
        value = item[1]
        if is_stored(value):
            try:
                return storage_of(plain_of(value)).key
            except Mismatch as error:
                raise Unpicklable(f"ckpt[{item[0]!r:.80}]", str(error)) from error
        return (self._payloads.key_of(value.untyped_storage()) if self._payloads is not None else None) or ""

    def _home_of_stored(self, key: str) -> int | None:
        number, slash, _ = key.partition("/")
        return int(number) if slash else None

    def _new_shards(self, pickled: Pickled, record: bytes | None, largest: int | None) -> list[NewShard]:
        parts = cast(_PickledParts, pickled).parts or (_Part(0, dumped(self._filled(0, []), self._plain_pickler)[1]),)
        # The record lies in the one file only while there is no index.
        own = record if self._index is None and len(parts) == 1 else None
        places = self._places()
        return [
            NewShard(
                part.old,
                part.names,
                part.size,
                part.elements,
                self._opened[part.old].laid_out(part.data, pickled, places, self._files, {RECORD_ENTRY: own}),
            )
            for part in parts
        ]

    def _plain_pickler(self, stream: BytesIO) -> TreePickler:
        return TreePickler(stream, max(2, protocol_of(self._old[0].data)))

    # The files

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the storages that do not match their checksums."""
        found = []
        for key, (start, length, crc) in self._where.items():
            if crc and self._files.checksum(start, start + length) != crc:
                found.append(f"data/{key}")
            if progress is not None:
                progress(length)
        return found


def _size(value: Any) -> int:
    """Return the number of bytes of a tensor."""
    if is_real(value):
        return int(value.nbytes)
    return int(value.numel()) * SIZES.get(known_dtype(value), 1)
