"""Files of safetensors as checkpoints: a state dict of plain tensors, and texts beside it.

The record is one of the texts under ``__metadata__``. No torch and no library of safetensors is needed to read a file,
or to write one whose tensors only move.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import NotACheckpoint, NotInPlace, Unpicklable
from anemoi_ckpt_migrate.storage.atomic_replace import Replacement, Written
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range, write_at
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.safetensors_header import (
    BLOCK,
    RESERVED,
    SPELLED,
    SUFFIX,
    HeaderEntry,
    header_bytes,
    is_text,
    read_header,
)
from anemoi_ckpt_migrate.storage.size_limits import check_asked, check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import (
    SIZES,
    TensorBuilder,
    is_contiguous,
    known_dtype,
    plain_of,
    storage_of,
)
from anemoi_ckpt_migrate.storage.tensors.materialize import Made, Source
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_real, is_stored, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.zip_archive import Archive, window

_WORTH_SHARING = 64 * BLOCK


@dataclass(frozen=True)
class _Item:
    """A tensor of the tree: its name and form, and the storage of its content.

    Attributes
    ----------
    name, dtype, shape
        As in a header.
    key : str
        The key of the storage: ``=`` and the name of a tensor in the file, or a number.
    offset : int
        The first element in the storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    key: str
    offset: int = 0


class SafetensorsCheckpoint(Checkpoint):
    """An open file of safetensors. Its tree is a dict of tensors."""

    def __init__(self, path: Path, descriptor: int, before: os.stat_result, length: int) -> None:
        super().__init__(path, descriptor, before, length)
        self._header = read_header(descriptor, length)
        # Keys of storages in the file begin with a sign: keys of new ones are numbers, and so may names be.
        self._items = [_Item(each.name, each.dtype, each.shape, f"={each.name}") for each in self._header.entries]
        self._places = {f"={each.name}": (each.start, each.end) for each in self._header.entries}
        self._unwritten: dict[str, memoryview] = {}
        self._reading: Source | None = None
        self._maker = TensorBuilder(self._first_key(), [])

    suffix = SUFFIX

    @property
    def is_of_torch(self) -> bool:
        """False: the library of safetensors reads it."""
        return False

    @property
    def is_ordered(self) -> bool:
        """False: tensors are found by name."""
        return False

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """An empty dict: the format names no classes."""
        return {}

    def load(self, trusting: bool = True) -> dict[str, StoredTensor]:
        """Return the state dict with stand-ins for tensors."""
        self._touched = []
        self._maker.renew(self._touched)
        return {item.name: self._stand_in(item) for item in self._items}

    def load_content(self) -> dict[str, Any]:
        """Return the state dict with real tensors over the file."""
        return {name: self.content(tensor) for name, tensor in self.load().items()}

    def _stand_in(self, item: _Item) -> StoredTensor:
        return self._maker.stored(item.key, item.dtype, item.shape, item.offset)

    def pickled(self, tree: Any) -> Pickled:
        """Turn a state dict into the list of its tensors, each with the storage of its content."""
        if not is_a(tree, dict):
            raise Unpicklable(
                "the checkpoint", f"a safetensors file holds a dict of tensors, not a {type(tree).__name__}"
            )
        items, real = list[_Item](), dict[str, memoryview]()
        for name, value in tree.items():
            items.append(self._item(name, value, real))
        _check_shared(items)
        recipes = self._maker.recipes
        keys = dict.fromkeys(item.key for item in items)
        payloads: dict[str, Any] = {
            key: real[key] if key in real else self._source().made(key) for key in keys if key in real or key in recipes
        }
        check_asked(sum(len(each) for key, each in payloads.items() if key in self._maker.asked), self.length)
        data = json.dumps([[each.name, each.dtype, each.shape, each.key, each.offset] for each in items])
        return Pickled(data.encode(), keys, payloads)

    def _item(self, name: Any, value: Any, real: dict[str, memoryview]) -> _Item:
        """Return a value of the tree as a tensor to write; add the content of a real tensor to `real`."""
        where = f"ckpt[{name!r:.80}]"
        if not isinstance(name, str) or name in RESERVED or not is_text(name):
            raise Unpicklable(
                where, f"a tensor of a safetensors file has a name of text, other than {' and '.join(RESERVED)}"
            )
        if is_stored(value):
            try:
                plain = plain_of(value)
            except Mismatch as error:
                raise Unpicklable(where, f"a safetensors file holds plain tensors, and {error}") from error
            if not is_contiguous(plain):
                plain = self._maker.make("clone", (), [plain])
            dtype, shape = known_dtype(plain), tuple(plain.shape)
            key, offset = storage_of(plain).key, reduced(plain)[1][1]
        elif is_real(value):
            key, offset = self._content_of(value, where, real), 0
            dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
        else:
            raise Unpicklable(where, f"a safetensors file holds tensors only, not a {type(value).__name__}")
        if dtype not in SPELLED:
            raise Unpicklable(where, f"safetensors has no dtype {dtype}")
        return _Item(name, dtype, shape, key, offset)

    def _content_of(self, value: Any, where: str, real: dict[str, memoryview]) -> str:
        from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        plain = type(value).__name__ in ("Tensor", "Parameter") and not value.is_nested and not value.is_meta
        if not plain or str(value.layout) != "torch.strided" or value.is_quantized:
            raise Unpicklable(where, "a safetensors file holds plain tensors only")
        key = str(self._maker.next_key + len(real))
        real[key] = content_of(value.detach().resolve_conj().resolve_neg().cpu().contiguous().clone().untyped_storage())
        return key

    def draft(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> SafetensorsCheckpoint:
        """Return the result of `write` without writing it: you can load, change and compare it."""
        made = copy.copy(self)
        made._items, made.attached = _items(pickled), {**self.attached, **attachments}
        content = {key: each for key, each in pickled.payloads.items() if key not in self._maker.recipes}
        made._unwritten = {**self._unwritten, **content}  # type: ignore[dict-item]
        made._maker = self._maker.forked(made._first_key(), made._unwritten)
        made._reading = None
        return made

    def attachment(self, name: str) -> bytes | None:
        """Return a text under ``__metadata__``; None if there is no such text."""
        if name in self.attached:
            return self.attached[name]
        found = self._header.metadata.get(name)
        return None if found is None else found.encode()

    def facts(self) -> FileInfo:
        """Return facts about the file."""
        entries = self._header.entries
        texts = {name: len(text.encode()) for name, text in self._header.metadata.items()}
        return FileInfo(
            "safetensors", self.length, 0, "little", 0, sum(e.end > e.start for e in entries), False, (), texts
        )

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return an empty list: the format has no checksums."""
        return []

    def release(self) -> None:
        """Free the stand-ins' descriptions."""
        self._items = []

    def _check_in_place(self) -> None:
        raise NotInPlace(
            "it is a safetensors file, which is only ever replaced as a whole", "a new file takes its place"
        )

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Refuse: see `check_writable`."""
        self._check_in_place()
        raise NotImplementedError

    def rewrite(self, output: Path | None = None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Write the file anew."""
        return self.write(self.pickled(self.load()), {}, output, backup, progress)

    def _write_to(
        self,
        new: Replacement,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        target: Path,
        progress: Progress | None,
    ) -> None:
        items = _in_aligned_order(_items(pickled))
        metadata = dict(self._header.metadata)
        for name, content in {**self.attached, **attachments}.items():
            metadata.pop(name, None)
            if content is not None:
                metadata[name] = content.decode()
        entries, end = [], 0
        for item in items:
            size = _size(item)
            entries.append(HeaderEntry(item.name, item.dtype, item.shape, end, end + size))
            end += size
        try:
            header = header_bytes(entries, metadata, self._header.end if end > _WORTH_SHARING else 0)
        except ValueError as error:
            raise Unpicklable("the record", str(error)) from error
        made = sum(len(each) for each in pickled.payloads.values())
        check_room(target, len(header) + made, len(header) + end)
        write_at(new.descriptor, header, 0)
        at = len(header)
        for start, stop in _merged(self._parts(items, pickled, new.descriptor, len(header))):
            if start is None:
                at += stop
            else:
                copy_range(self._descriptor, new.descriptor, start, stop, at, progress)
                at += stop - start

    def _parts(self, items: list[_Item], pickled: Pickled, target: int, at: int) -> Iterator[tuple[int | None, int]]:
        """Yield the content of the new file in order: ranges of the old file; (None, count) for bytes written here."""
        for item in items:
            size, start = _size(item), item.offset * SIZES[item.dtype]
            content = pickled.payloads.get(item.key)
            if content is None:
                begin = self._places[item.key][0] + start
                yield begin, begin + size
            elif isinstance(content, Made) and (extents := self._maker.extents(self._stand_in(item))) is not None:
                for key, first, count in extents:
                    begin = self._places[key][0] + first
                    yield begin, begin + count
            else:
                written = 0
                chunks = [content] if isinstance(content, (bytes, memoryview)) else content.chunks()
                for chunk in chunks:
                    view = memoryview(chunk)[max(0, start - written) : start + size - written]
                    write_at(target, view, at + max(0, written - start))
                    written += len(chunk)
                yield None, size
            at += size

    def _first_key(self) -> int:
        return max(map(int, self._unwritten), default=-1) + 1

    def _source(self) -> Source:
        if self._reading is None:
            if sys.byteorder != "little" and self._maker.recipes:
                raise NotACheckpoint(
                    "the content of its tensors is little-endian, so on this machine they can only be moved"
                )
            loose = {f"data/{name}": place for name, place in self._places.items()}
            archive = Archive("", {}, self.length, 0, loose)
            stream = partial(window, self._descriptor, self.length)
            self._reading = Source(self._descriptor, archive, stream, self._maker, set(), self._unwritten)
        return self._reading


def _items(pickled: Pickled) -> list[_Item]:
    return [
        _Item(name, dtype, tuple(shape), key, offset) for name, dtype, shape, key, offset in json.loads(pickled.data)
    ]


def _size(item: _Item) -> int:
    count = SIZES[item.dtype]
    for size in item.shape:
        count *= size
    return count


def _in_aligned_order(items: list[_Item]) -> list[_Item]:
    """Return the items in their order; the largest elements first if one would not be aligned otherwise."""
    at = 0
    for item in items:
        if at % SIZES[item.dtype]:
            return sorted(items, key=lambda each: -SIZES[each.dtype])
        at += _size(item)
    return items


def _check_shared(items: list[_Item]) -> None:
    """Refuse tensors that share memory, which the format cannot express."""
    known: dict[tuple[str, int], str] = {}
    for item in items:
        place = item.key, item.offset * SIZES[item.dtype]
        if _size(item) and place in known:
            raise Unpicklable(
                f"ckpt[{item.name!r:.80}]",
                f"it shares its memory with {known[place]:.80}, which safetensors cannot express",
            )
        known[place] = item.name


def _merged(parts: Iterator[tuple[int | None, int]]) -> Iterator[tuple[int | None, int]]:
    """Join ranges that continue each other, so that each is copied at once."""
    last: tuple[int | None, int] | None = None
    for start, stop in parts:
        if last is not None and last[0] is not None and start == last[1]:
            last = last[0], stop
            continue
        if last is not None:
            yield last
        last = start, stop
    if last is not None:
        yield last
