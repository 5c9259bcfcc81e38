"""Folders of Hugging Face with weights in files of safetensors. Without an index, the record lies in the file."""

from __future__ import annotations

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.checkpoint import RECORD_ENTRY
from anemoi_ckpt_migrate.storage.huggingface.folder import HuggingFaceFolder, NewShard, Shard
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.safetensors_file import ItemsIn, SafetensorsTree, StoredItem, items_of
from anemoi_ckpt_migrate.storage.safetensors_header import Header, read_header
from anemoi_ckpt_migrate.storage.single_file import NewFile
from anemoi_ckpt_migrate.storage.zip_archive import Archive


class SafetensorsFolder(HuggingFaceFolder, SafetensorsTree):
    """An open folder of Hugging Face with files of safetensors."""

    _kind = "safetensors"

    def _read_archive(self) -> Archive:
        """Read the headers, and compare them with the index."""
        self._headers = [_header(shard) for shard in self._shards]
        numbered = [(number, item) for number, header in enumerate(self._headers) for item in ItemsIn(header)]
        self._home = self._homes((number, item.name) for number, item in numbered)
        self.items = [item for _, item in numbered]
        loose = {
            f"data/={each.name}": (member.begin + each.start, member.begin + each.end)
            for header, member in zip(self._headers, self._files.all, strict=True)
            for each in header.entries
        }
        return Archive("", {}, self.length, 0, loose, self._own_texts())

    def _own_texts(self) -> dict[str, bytes]:
        text = self._headers[0].metadata.get(RECORD_ENTRY)
        if self._index is not None or text is None:
            return super()._own_texts()
        return {RECORD_ENTRY: text.encode()}

    def _unchecked(self) -> int:
        return sum(end > start for start, end in self._archive.loose.values())

    def _new_shards(self, pickled: Pickled, record: bytes | None) -> list[NewShard]:
        largest = None
        if self._index is not None:
            largest = max(sum(entry.end - entry.start for entry in header.entries) for header in self._headers)
        parts = self._parted(items_of(pickled), lambda item: item.key, lambda item: item.size, largest)
        return [self._new_shard(old, items, pickled, record) for old, items in parts] or [
            self._new_shard(0, [], pickled, record)
        ]

    def _new_shard(self, old: int, items: list[StoredItem], pickled: Pickled, record: bytes | None) -> NewShard:
        size, elements = sum(item.size for item in items), sum(item.elements for item in items)
        file = self._content(old, items, pickled, record)
        return NewShard(old, tuple(item.name for item in items), size, elements, file)

    def _home_of_stored(self, key: str) -> int | None:
        return self._home.get(key.removeprefix("=")) if key.startswith("=") else None

    def _content(self, old: int, items: list[StoredItem], pickled: Pickled, record: bytes | None) -> NewFile | None:
        """Lay out a file with weights; None if it stays as it is."""
        header = self._headers[old]
        metadata = dict(header.metadata)
        if self._index is None:
            metadata.pop(RECORD_ENTRY, None)
            metadata |= {} if record is None else {RECORD_ENTRY: record.decode()}
        kept = not any(item.key in pickled.payloads for item in items)
        if kept and metadata == header.metadata and items == list(ItemsIn(header)):
            return None
        begin = min((entry.start for entry in header.entries), default=0)
        return self.laid_out(items, metadata, pickled, begin)


def _header(shard: Shard) -> Header:
    try:
        return read_header(shard.descriptor, shard.length)
    except NotACheckpoint as error:
        raise NotACheckpoint(f"{shard.name}: {error.sentence}") from error
