"""The values of a tree as items to write: with their places in the files, as far as they lie there."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from io import BytesIO
from typing import Any, Protocol

from anemoi_ckpt_migrate.errors import Unpicklable
from anemoi_ckpt_migrate.storage.distributed.archives import PROTOCOL, Unread, pickled
from anemoi_ckpt_migrate.storage.distributed.layout import CONSTANTS, Item, TensorItem, ValueItem
from anemoi_ckpt_migrate.storage.distributed.metadata import TensorEntry, ValueEntry, named
from anemoi_ckpt_migrate.storage.pickle.dump import dumped, made_content
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.deferred import TensorBuilder, is_contiguous, known_dtype, plain_of, storage_of
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_real, is_stored, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.zip_writer import Content


class Home(Protocol):
    """The open checkpoint that a tree came from."""

    @property
    def maker(self) -> TensorBuilder:
        """The maker of new tensors."""

    @property
    def in_files(self) -> Mapping[str, Any]:
        """The places of the storages in the files that were read, by key."""

    def item_of(self, tensor: StoredTensor) -> TensorItem | None:
        """Return the item of a tensor of the files that the last tree has; None for any other."""

    def entry_of(self, tensor: StoredTensor) -> TensorEntry | None:
        """Return the chunks of a plain tensor that is made of whole chunks of the files; None for any other."""

    def stored_values(self) -> Iterator[tuple[str, ValueEntry, bytes]]:
        """Yield the name, the place and the pickle of each value in the files that is no tensor."""

    def unchanged(self, path: tuple[str | int, ...], value: Any, changed: Collection[str]) -> StoredTensor | None:
        """Return the stand-in of a real tensor that is one of the last tree, and that nobody has written to."""


class ItemMaker:
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

    def __init__(self, checkpoint: Home, payloads: Any) -> None:
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
        if is_stored(value):
            return self._tensor(path, value)
        if is_real(value):
            return self._real(path, value)
        if type(value) is Unread:
            return ValueItem(path, None, ValueEntry(value.place))
        return self._value(path, value)

    def rest(self, value: Any, stored: bytes) -> bytes:
        """Return the pickle of the file beside the metadata: the stored one, if nothing in it changes."""
        pickler, data = self._dumped("ckpt", value)
        made = made_content(pickler)
        if not made and self._changed.isdisjoint(pickler.keys) and data == pickled(TreeUnpickler(stored).load()):
            return stored
        self._note(pickler, made)
        return data

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
        return value if type(value) in CONSTANTS else self.item((), value)

    def _tensor(self, path: tuple[str | int, ...], value: StoredTensor) -> TensorItem:
        checkpoint = self._checkpoint
        item = checkpoint.item_of(value)
        if item is not None:
            return TensorItem(path, *item[1:])
        try:
            plain = plain_of(value)
        except Mismatch as error:
            raise Unpicklable(_where(path), f"a distributed checkpoint gets plain tensors, and {error}") from error
        entry = checkpoint.entry_of(plain)
        if entry is None and not is_contiguous(plain):
            plain = checkpoint.maker.make("clone", (), [plain])
        key = storage_of(plain).key
        if entry is None:
            self.keys[key] = None
        return TensorItem(path, known_dtype(plain), tuple(plain.shape), key, reduced(plain)[1][1], entry)

    def _real(self, path: tuple[str | int, ...], value: Any) -> TensorItem:
        from anemoi_ckpt_migrate.storage.tensors.torch_content import own_content, plain_content

        value = plain_content(value)
        if value is None:
            raise Unpicklable(_where(path), "a distributed checkpoint gets plain tensors only")
        same = None if self._payloads is None else self._checkpoint.unchanged(path, value, self._changed)
        if same is not None:
            return self._tensor(path, same)
        key = str(self._next_key)
        self.new[key], self.keys[key] = own_content(value), None
        return TensorItem(path, str(value.dtype).removeprefix("torch."), tuple(value.shape), key, 0, None)

    @property
    def _next_key(self) -> int:
        return self._checkpoint.maker.next_key + len(self.new)

    def _value(self, path: tuple[str | int, ...], value: Any) -> ValueItem:
        kind = (type(value), repr(value)) if type(value) in CONSTANTS else None
        pickler, data = (None, self._pickles[kind]) if kind in self._pickles else self._dumped(_where(path), value)
        if kind is not None:
            self._pickles[kind] = data
        made = {} if pickler is None else made_content(pickler)
        keys = {} if pickler is None else pickler.keys
        entry = None if made or not self._changed.isdisjoint(keys) else self._known(named(path), data)
        if entry is None and pickler is not None:
            self._note(pickler, made)
        return ValueItem(path, data if entry is None else None, entry)

    def _note(self, pickler: TreePickler, made: Mapping[str, Content]) -> None:
        """Note what a pickle to write needs."""
        self.keys |= pickler.keys
        self.names |= pickler.names
        self.new |= made

    def _dumped(self, where: str, value: Any) -> tuple[TreePickler, bytes]:
        try:
            return dumped(value, self._pickler)
        except Unpicklable as error:
            raise Unpicklable(where + error.where.removeprefix("ckpt"), error.what) from error

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


def _where(path: tuple[str | int, ...]) -> str:
    """Return the place of a value in the tree, for messages."""
    return f"ckpt[{named(path)!r:.80}]" if path else "a stashed value"
