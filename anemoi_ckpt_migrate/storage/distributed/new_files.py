"""The files of a changed distributed checkpoint: its metadata, and one file with all content that the files lack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from anemoi_ckpt_migrate.storage.copy_range import Progress
from anemoi_ckpt_migrate.storage.distributed.archives import pickled
from anemoi_ckpt_migrate.storage.distributed.layout import RECORD, Item, Layout, TensorItem, ValueItem, replaced
from anemoi_ckpt_migrate.storage.distributed.metadata import (
    Chunk,
    Entry,
    Metadata,
    Place,
    TensorEntry,
    ValueEntry,
    named,
    with_dtype,
)
from anemoi_ckpt_migrate.storage.distributed.metadata_writer import metadata_bytes
from anemoi_ckpt_migrate.storage.distributed.record_attribute import to_attribute
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.pickle.storage_keys import with_keys
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor
from anemoi_ckpt_migrate.storage.zip_archive import ALIGNMENT
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, write_new

_VERSION = b"3\n"  # of the archives of torch


class Home(Protocol):
    """The open checkpoint that is to be written."""

    @property
    def files(self) -> Members:
        """The open files with chunks."""

    @property
    def in_files(self) -> Mapping[str, Any]:
        """The places of the storages in the files that were read, by key."""

    @property
    def stored_rest(self) -> bytes | None:
        """The pickle of the file beside the metadata; None if there is none."""

    def like(self, key: str) -> TensorEntry | None:
        """Return the first tensor in the files that a storage is made from."""

    def stand_in(self, item: TensorItem) -> StoredTensor:
        """Return the stand-in of a tensor."""


class NewFiles:
    """The new metadata of a folder, and the new file with all content that the files lack.

    Attributes
    ----------
    name : str
        The name of the new file.
    archives : dict
        The archives to write into it, by item.
    rest : Contents or None
        The file beside the metadata, if it changes.
    size : int
        The number of bytes of their content.
    """

    def __init__(self, checkpoint: Home, metadata: Metadata, layout: Layout, name: str) -> None:
        self._checkpoint, self._metadata, self._layout, self.name = checkpoint, metadata, layout, name
        self._record = layout.record
        self.archives: dict[Any, Contents] = {}
        self._places: dict[Any, Place] = {}
        for item in layout.items:
            self._plan(item)
        replaced(self._record, self._plan)
        has_rest = layout.rest is not None and layout.rest != checkpoint.stored_rest
        self.rest = self._archive(layout.rest or b"") if has_rest else None
        archives = [*self.archives.values(), *([self.rest] if self.rest is not None else [])]
        contents = (each for archive in archives for each in archive.new.values())
        copied = (end - start for archive in archives for start, end in archive.loose.values())
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

    def write_rest(self, descriptor: int, progress: Progress | None) -> None:
        """Write the file beside the metadata, which changes, into an empty one."""
        if self.rest is not None:
            write_new(self.rest, self._checkpoint.files, descriptor, progress)

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


def _content(item: Item) -> Any:
    """Return a key that is equal for two items with the same content."""
    return item.data if isinstance(item, ValueItem) else item[1:5]
