"""Folders of Hugging Face with weights in files of safetensors. Without an index, the record lies in the file.

Values that are kept for a downgrade lie in a file of their own, which is no shard: the index does not name it. The
record tells where each of them is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedStash, NotACheckpoint
from anemoi_ckpt_migrate.storage.checkpoint import RECORD_ENTRY, StoredAt
from anemoi_ckpt_migrate.storage.huggingface.folder import HuggingFaceFolder, NewShard
from anemoi_ckpt_migrate.storage.safetensors_file import MOST_KEPT, SafetensorsTree, StoredItem, items_of
from anemoi_ckpt_migrate.storage.safetensors_header import Header, read_header
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES, storage_of
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_real
from anemoi_ckpt_migrate.storage.zip_archive import Archive

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.folder_exchange import FolderState
    from anemoi_ckpt_migrate.storage.huggingface.index import Index
    from anemoi_ckpt_migrate.storage.huggingface.layout import Layout
    from anemoi_ckpt_migrate.storage.huggingface.torch_files import Shard
    from anemoi_ckpt_migrate.storage.open_inside import FolderSource
    from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
    from anemoi_ckpt_migrate.storage.single_file import NewFile
    from anemoi_ckpt_migrate.storage.url import Location
    from anemoi_ckpt_migrate.storage.zip_writer import Content

_KEPT, _TENSOR = "~", "$tensor"
_Kept = tuple[str, tuple[int, ...], StoredAt]


class SafetensorsFolder(HuggingFaceFolder, SafetensorsTree):
    """An open folder of Hugging Face with files of safetensors.

    Parameters
    ----------
    path, layout, before, source, shards, index
        As for `HuggingFaceFolder`.
    stash : Shard or None
        The open file with kept values.
    states
        As for `HuggingFaceFolder`.
    """

    _kind = "safetensors"

    def __init__(
        self,
        path: Location,
        layout: Layout,
        before: FolderState,
        source: FolderSource,
        shards: Sequence[Shard],
        index: Index | None,
        stash: Shard | None = None,
        states: Sequence[Shard] = (),
    ) -> None:
        self._stash_file = stash
        self._kept_keys: dict[str, None] = {}
        self._kept_content: dict[str, Content] = {}
        super().__init__(path, layout, before, source, shards, index, () if stash is None else (stash,), states)

    def _read_archive(self) -> Archive:
        """Read the headers, and compare them with the index."""
        self._headers = [_header(shard) for shard in self._shards]
        numbered = [(number, item) for number, header in enumerate(self._headers) for item in _items_in(header)]
        self._home = self._homes((number, item.name) for number, item in numbered)
        self.items = [item for _, item in numbered]
        loose = {
            f"data/={each.name}": (member.begin + each.start, member.begin + each.end)
            for header, member in zip(self._headers, self._files.all, strict=False)
            for each in header.entries
        }
        if self._stash_file is not None:
            begin, header = self._files.all[len(self._shards)].begin, _header(self._stash_file)
            loose |= {f"data/{_KEPT}{each.name}": (begin + each.start, begin + each.end) for each in header.entries}
        return Archive("", {}, self.length, 0, loose, self._own_texts())

    def _own_texts(self) -> dict[str, bytes]:
        text = self._headers[0].metadata.get(RECORD_ENTRY)
        if self._index is not None or text is None:
            return super()._own_texts()
        return {RECORD_ENTRY: text.encode()}

    @property
    def most_kept(self) -> int | None:
        """None: kept values lie in a file of their own; but 1 MiB where the folder is one file, which may be alone."""
        return MOST_KEPT if self._may_be_alone else None

    @property
    def _may_be_alone(self) -> bool:
        """Whether its one file may be given, and copied, without the folder."""
        return self._index is None and not self._state_files

    def kept_as(self, tensor: Any) -> tuple[str, tuple[int, ...], bytes | StoredAt]:
        """Return a tensor with its place; where its file may be alone, with its bytes."""
        if self._may_be_alone:
            return super().kept_as(tensor)
        if is_real(tensor):
            found, shape, content = self.bytes_of(tensor)
            made = self._maker.outside(found, shape)
            # A copy that may be written to: torch warns of other memory.
            self._kept_content[storage_of(made).key] = memoryview(bytearray(content))
            tensor = made
        item = self._item("a kept value", tensor, {})
        self._kept_keys[item.key] = None
        return item.dtype, item.shape, StoredAt(item.key, item.offset)

    def _kept(self) -> tuple[Iterable[str], dict[str, Content]]:
        return self._kept_keys, dict(self._kept_content)

    def held(self, dtype: str, shape: tuple[int, ...], content: bytes | StoredAt) -> StoredTensor:
        """Return the stand-in of a kept tensor."""
        if not isinstance(content, StoredAt):
            return super().held(dtype, shape, content)
        start, end = self._archive.loose.get(f"data/{content.key}", (0, 0))
        there = any(content.key in made for made in (self._maker.recipes, self._unwritten, self._kept_content))
        if not there and (content.offset + math.prod(shape)) * SIZES[dtype] > end - start:
            raise ValueError(f"the storage {content.key:.80} is missing")
        return self._maker.stored(content.key, dtype, shape, content.offset)

    def _laid_out_stash(self, pickled: Pickled, record: bytes | None) -> tuple[bytes | None, NewFile | None]:
        data = None if record is None or self._may_be_alone else json.loads(record)
        if data is None or not data.get("stash"):
            return record, None
        items: dict[_Kept, StoredItem] = {}
        data["stash"] = self._replaced(data["stash"], items)
        file = self.laid_out(list(items.values()), {}, pickled, 0) if items else None
        return json.dumps(data).encode(), file

    def _replaced(self, data: Any, items: dict[_Kept, StoredItem]) -> Any:
        """Return a stash with the places of kept tensors in a new file; add these tensors to `items`."""
        if type(data) is list:
            return [self._replaced(each, items) for each in data]
        if type(data) is not dict:
            return data
        if list(data) != [_TENSOR]:
            return {key: self._replaced(each, items) for key, each in data.items()}
        try:
            dtype, sizes, content = data[_TENSOR]
            if type(content) is str:  # its bytes
                return data
            kept = dtype, shape, place = dtype, tuple(sizes), StoredAt(*content)
            self.held(*kept)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStash(str(error)) from error
        item = items.setdefault(kept, StoredItem(str(len(items)), dtype, shape, *place))
        return {_TENSOR: [dtype, list(shape), [f"{_KEPT}{item.name}", 0]]}

    def _old_files(self) -> Sequence[Shard]:
        return self._shards if self._stash_file is None else (*self._shards, self._stash_file)

    def _new_shards(self, pickled: Pickled, record: bytes | None, largest: int | None) -> list[NewShard]:
        if self._index is not None and largest is None:
            largest = max(sum(entry.end - entry.start for entry in header.entries) for header in self._headers)
        parts = list(self._parted(items_of(pickled), lambda item: item.key, lambda item: item.size, largest))
        # The record lies in the one file only while there is no index.
        own = {} if self._index is not None or len(parts) > 1 or record is None else {RECORD_ENTRY: record.decode()}
        return [self._new_shard(old, items, pickled, own) for old, items in parts or [(0, [])]]

    def _new_shard(self, old: int, items: list[StoredItem], pickled: Pickled, texts: dict[str, str]) -> NewShard:
        size, elements = sum(item.size for item in items), sum(item.elements for item in items)
        file = self._content(old, items, pickled, texts)
        return NewShard(old, tuple(item.name for item in items), size, elements, file)

    def _home_of_stored(self, key: str) -> int | None:
        return self._home.get(key.removeprefix("=")) if key.startswith("=") else None

    def _content(self, old: int, items: list[StoredItem], pickled: Pickled, texts: dict[str, str]) -> NewFile | None:
        """Lay out a file with weights; None if it stays as it is."""
        header = self._headers[old]
        metadata = {name: text for name, text in header.metadata.items() if name != RECORD_ENTRY} | texts
        kept = not any(item.key in pickled.payloads for item in items)
        if kept and metadata == header.metadata and set(items) == set(_items_in(header)):  # their order means nothing
            return None
        begin = min((entry.start for entry in header.entries), default=0)
        return self.laid_out(items, metadata, pickled, begin)


def _items_in(header: Header) -> Iterator[StoredItem]:
    """Yield the tensors of a file. Their keys are their names, which are those of one file only."""
    return (StoredItem(each.name, each.dtype, each.shape, f"={each.name}") for each in header.entries)


def _header(shard: Shard) -> Header:
    try:
        return read_header(shard.descriptor, shard.length)
    except NotACheckpoint as error:
        raise NotACheckpoint(f"{shard.name}: {error.sentence}") from error
