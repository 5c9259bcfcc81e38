"""Files of safetensors as checkpoints: a state dict of plain tensors, and texts beside it.

The record is one of the texts under ``__metadata__``. No torch and no library of safetensors is needed to read a file,
or to write one whose tensors only move.
"""

from __future__ import annotations

import dataclasses
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from anemoi_ckpt_migrate.errors import NotInPlace, Unpicklable
from anemoi_ckpt_migrate.storage.atomic_replace import Written
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.in_place import HeaderMark, Mark, changing
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.safetensors_header import (
    BLOCK,
    RESERVED,
    SPELLED,
    Header,
    HeaderEntries,
    HeaderEntry,
    begin_of,
    header_parts,
    header_text,
    is_text,
    read_header,
)
from anemoi_ckpt_migrate.storage.safetensors_magic import is_named_so
from anemoi_ckpt_migrate.storage.shard_sets import check_whole
from anemoi_ckpt_migrate.storage.single_file import NewFile, SingleFile
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import (
    SIZES,
    is_contiguous,
    known_dtype,
    plain_of,
    storage_of,
)
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_real, is_stored, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.zip_archive import Archive
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.url import Location
    from anemoi_ckpt_migrate.storage.zip_writer import Content

_WORTH_SHARING = 64 * BLOCK
MOST_KEPT = 1 << 20
"""The most bytes of tensors that a record in JSON holds."""
_CONTENT = "data/="
_ANEW = "a new file takes its place"


@dataclasses.dataclass(frozen=True, slots=True)  # there is one for each tensor
class StoredItem:
    """A tensor of the tree: its name and form, and the storage of its content.

    Attributes
    ----------
    name, dtype, shape
        As in a header.
    key : str
        The key of the storage: ``=`` and the number or the name of a tensor in the files, or the number of a new one.
    offset : int
        The first element in the storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    key: str
    offset: int = 0

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return self.elements * SIZES[self.dtype]


@dataclass(frozen=True)
class _Laid(Pickled):
    """A tree, ready to be written: the tensors of a header take the place of a pickle."""

    items: tuple[StoredItem, ...] = ()


class _Places(Mapping[str, tuple[int, int]]):
    """The places of the content of a file's tensors, by their keys. They are computed, as there may be many."""

    def __init__(self, entries: HeaderEntries) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> tuple[int, int]:
        number = key.removeprefix(_CONTENT)
        if number == key or not number.isdecimal() or int(number) >= len(self._entries):
            raise KeyError(key)
        entry = self._entries[int(number)]
        return entry.start, entry.end

    def __iter__(self) -> Iterator[str]:
        return (f"{_CONTENT}{number}" for number in range(len(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)


class ItemsIn:
    """The tensors of a header as items. They are made when they are asked for, as there may be many."""

    def __init__(self, header: Header) -> None:
        self._entries = header.entries

    def __iter__(self) -> Iterator[StoredItem]:
        # Keys of storages in the file begin with a sign: keys of new ones are numbers.
        entries = enumerate(self._entries)
        return (StoredItem(each.name, each.dtype, each.shape, f"={number}") for number, each in entries)


class SafetensorsTree(Checkpoint):
    """The tree of an open checkpoint in one or several files of safetensors: a dict of tensors.

    Attributes
    ----------
    items : iterable of StoredItem
        The tensors.
    """

    byteorder = "little"
    is_of_torch = is_ordered = keeps_order = shares_memory = False
    record_is_text = True  # the format has no place for anything but plain tensors and texts
    items: Iterable[StoredItem]

    def _adopt(self, pickled: Pickled) -> None:
        self.items = items_of(pickled)

    @property
    def most_kept(self) -> int | None:
        """1 MiB: the record is a text in the header."""
        return MOST_KEPT

    def name_of(self, tensor: Any) -> str:
        """Return the name of a tensor in the file, if its bytes begin with those of one."""
        extents = self._maker.extents(plain_of(tensor)) if is_stored(tensor) else None
        return self._name_of_stored(extents[0][0]) if extents else super().name_of(tensor)

    def _name_of_stored(self, key: str) -> str:
        """Return the name of the tensor in the file whose storage has a key."""
        return key.removeprefix("=")

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """An empty dict: the format names no classes."""
        return {}

    def load(self, trusting: bool = True) -> dict[str, StoredTensor]:
        """Return the state dict with stand-ins for tensors."""
        return self._stand_ins()

    def _stand_ins(self) -> dict[str, StoredTensor]:
        self._touched, self._payloads = [], None
        self._maker.renew(self._touched)
        return {item.name: self._stand_in(item) for item in self.items}

    def load_content(self) -> dict[str, Any]:
        """Return the state dict with real tensors over the file."""
        from anemoi_ckpt_migrate.storage.tensors.evaluate import evaluated

        tree, self._payloads, made = self._stand_ins(), self._open_payloads(), dict[str, Any]()
        return {name: evaluated(each, self._maker.recipes, self._payloads, made) for name, each in tree.items()}

    def _stand_in(self, item: StoredItem) -> StoredTensor:
        return self._maker.stored(item.key, item.dtype, item.shape, item.offset)

    def pickled(self, tree: Any, copy_shared: bool = False) -> Pickled:
        """Turn a state dict into the list of its tensors, each with the storage of its content."""
        if not is_a(tree, dict):
            raise Unpicklable(
                "the checkpoint", f"a safetensors file holds a dict of tensors, not a {type(tree).__name__}"
            )
        kept, new = self._kept()
        items = tuple(self._item(name, value, new) for name, value in tree.items())
        keys = dict.fromkeys(item.key for item in items)
        if not copy_shared and len(keys) < len(items):
            _check_shared(items)
        keys |= dict.fromkeys(kept)
        return _Laid(b"", keys, self._contents_of(keys, new), items=items)

    def _kept(self) -> tuple[Iterable[str], dict[str, Content]]:
        """Return the storages of values that are kept for a downgrade, and the content of those that no file holds."""
        return (), {}

    def _item(self, name: Any, value: Any, new: dict[str, Content]) -> StoredItem:
        """Return a value of the tree as a tensor to write; add the content of a tensor that is not in the file."""
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
            key, offset = self._storage_of(value, where, new)
            dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
        else:
            raise Unpicklable(where, f"a safetensors file holds tensors only, not a {type(value).__name__}")
        if dtype not in SPELLED:
            raise Unpicklable(where, f"safetensors has no dtype {dtype}")
        return StoredItem(name, dtype, shape, key, offset)

    def _storage_of(self, value: Any, where: str, new: dict[str, Content]) -> tuple[str, int]:
        """Return the storage of a real tensor, and its first element there."""
        from anemoi_ckpt_migrate.storage.tensors.torch_content import own_content, plain_content

        value = plain_content(value)
        if value is None:
            raise Unpicklable(where, "a safetensors file holds plain tensors only")
        if self._payloads is not None and value.is_contiguous():
            key = self._payloads.key_of(value.untyped_storage())
            if key is not None:  # it lies in the file, changed or not
                return key, value.storage_offset()
        key = str(self._maker.next_key + len(new))
        new[key] = own_content(value)
        return key, 0

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return an empty list: the format has no checksums."""
        return []

    def laid_out(self, items: list[StoredItem], metadata: dict[str, str], pickled: Pickled, begin: int) -> NewFile:
        """Lay out a file of tensors.

        Parameters
        ----------
        items : list of StoredItem
            The tensors.
        metadata : dict of str to str
            Texts by name.
        pickled : Pickled
            The tree to which the tensors belong.
        begin : int
            Where the content of the old file begins, so that both can share blocks.
        """
        items = _in_aligned_order(items)
        count = sum(item.size for item in items)
        text = _text(_placed(items), metadata)
        start = begin_of(text, begin if count > _WORTH_SHARING else 0)
        held = dict.fromkeys(item.key for item in items if item.key in pickled.payloads)
        made = start + sum(len(pickled.payloads[key]) for key in held)
        return NewFile(made, start + count, partial(self._write, text, start, items, pickled))

    def _write(
        self,
        text: bytearray,
        begin: int,
        items: list[StoredItem],
        pickled: Pickled,
        target: int,
        progress: Progress | None,
    ) -> None:
        for part, at in header_parts(text, begin):
            write_at(target, part, at)
        self._write_content(items, pickled, target, begin, progress)

    def _write_content(
        self, items: list[StoredItem], pickled: Pickled, target: int, at: int, progress: Progress | None
    ) -> None:
        for start, stop in _merged(self._parts(items, pickled, target, at)):
            if start is None:
                at += stop
            else:
                self._files.copy(target, start, stop, at, progress)
                at += stop - start

    def _parts(
        self, items: list[StoredItem], pickled: Pickled, target: int, at: int
    ) -> Iterator[tuple[int | None, int]]:
        """Yield the content of the new file in order: ranges of the old file; (None, count) for bytes written here."""
        for item in items:
            size, start = item.size, item.offset * SIZES[item.dtype]
            ranges = self._ranges(item, pickled)
            if ranges is not None:
                yield from ranges
            else:
                written, content = 0, pickled.payloads[item.key]
                chunks = [content] if isinstance(content, (bytes, memoryview)) else content.chunks()
                for chunk in chunks:
                    view = memoryview(chunk)[max(0, start - written) : max(0, start + size - written)]
                    write_at(target, view, at + max(0, written - start))
                    written += len(chunk)
                yield None, size
            at += size

    def _ranges(self, item: StoredItem, pickled: Pickled) -> list[tuple[int, int]] | None:
        """Return where the bytes of a tensor lie in the file, in order; None if they have to be written."""
        is_held = isinstance(pickled.payloads.get(item.key), (bytes, memoryview))
        extents = None if is_held else self._maker.extents(self._stand_in(item))
        if extents is None:
            return None
        starts = ((self._archive.loose[f"data/{key}"][0] + first, count) for key, first, count in extents)
        return [(start, start + count) for start, count in starts]


class SafetensorsCheckpoint(SafetensorsTree, SingleFile):
    """An open file of safetensors.

    Parameters
    ----------
    path, descriptor, before, length
        As for `SingleFile`.
    left : Mark, optional
        How the file is whole, if a run in place was interrupted.
    """

    def __init__(
        self, path: Location, descriptor: int, before: os.stat_result, length: int, left: Mark | None = None
    ) -> None:
        self._left = left
        super().__init__(path, descriptor, before, length)

    def _read_archive(self) -> Archive:
        """Read the header. Its texts are entries beside the tree, and the content of each tensor is a storage."""
        header = read_header(self._descriptor, self.length, b"" if self._left is None else self._left.start)
        self._begin, self._names, self.items = header.begin, header.entries.names, ItemsIn(header)
        texts = {name: text.encode() for name, text in header.metadata.items()}
        return Archive("", {}, self.length, 0, _Places(header.entries), texts)

    def _name_of_stored(self, key: str) -> str:
        number = key.removeprefix("=")
        return self._names[int(number)] if number != key else key

    def fits(self, name: str) -> bool:
        """Return whether the name is that of a safetensors file, or of a backup of one."""
        return is_named_so(name)

    def facts(self) -> FileInfo:
        """Return facts about the file."""
        texts = {name: len(text) for name, text in self._archive.small.items()}
        unchecked = sum(end > start for start, end in self._archive.loose.values())
        left = self._left is not None
        return FileInfo("safetensors", self.length, 0, self.byteorder, 0, unchecked, left, (), texts)

    def _check_in_place(self) -> None:
        """Refuse nothing: whether the new header fits is known when it is made."""

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Write over the header, and leave the content of tensors where it is. New tensors are appended.

        Parameters
        ----------
        pickled, attachments
            As for `write`.

        Raises
        ------
        NotInPlace
            The new header does not fit, or the content of a tensor would have to move.
        MigrateError
            Those of `changing`.
        """
        check_whole(self.path)
        staying, added = self._staying(pickled)
        end = sum(item.size for item in staying)
        appended = tuple(_placed(added, end))
        for entry in appended:
            if entry.start % SIZES[entry.dtype]:
                raise NotInPlace(f"{entry.name:.80} would not be aligned at the end of the file", _ANEW)
        header = self._header_in_place(chain(_placed(staying), appended), attachments)
        length = appended[-1].end + self._begin if appended else end + self._begin
        old = HeaderMark(self.length, read_at(self._descriptor, self._begin, 0), header)
        shorter = HeaderMark(length, header, old.start) if length < self.length else None
        grown = max(0, length - self.length)
        check_room(self._target, 2 * len(header) + grown, length)
        with changing(self._target, self._before, old, shorter) as descriptor:
            self._write_content(added, pickled, descriptor, end + self._begin, None)
            write_at(descriptor, header, 0)
        return Written(self.path, None)

    def _staying(self, pickled: Pickled) -> tuple[list[StoredItem], list[StoredItem]]:
        """Return the tensors whose bytes stay where they are in the file, one behind the other, and those to append."""
        found, starts = list[StoredItem](), array("Q")
        staying, added, end = list[StoredItem](), list[StoredItem](), self._begin
        for item in items_of(pickled):
            start = self._place_of(item, pickled)
            if start is None:
                added.append(item)
            else:
                found.append(item)
                starts.append(start)
        for number in sorted(range(len(found)), key=starts.__getitem__):
            start, item = starts[number], found[number]
            if start > end:
                raise NotInPlace(f"the content of {item.name:.80} would have to move in the file", _ANEW)
            if start < end:  # the bytes are those of another tensor too
                added.append(item)
            else:
                staying.append(item)
                end += item.size
        if end < self.length and any(item.size for item in added):
            raise NotInPlace("new tensors would take the place of old ones, which no journal could bring back", _ANEW)
        return staying, _in_aligned_order(added, end - self._begin)

    def _place_of(self, item: StoredItem, pickled: Pickled) -> int | None:
        """Return the first byte of a tensor in the file; None if its bytes do not lie there together."""
        ranges = list(_merged(iter(self._ranges(item, pickled) or ())))
        return ranges[0][0] if len(ranges) == 1 else None

    def _header_in_place(self, entries: Iterable[HeaderEntry], attachments: Mapping[str, bytes | None]) -> bytes:
        text = _text(entries, self._metadata(attachments))
        if 8 + len(text) > self._begin:
            raise NotInPlace(
                f"the header of the file has room for {self._begin - 8:,} bytes, and the new one has {len(text):,}",
                f"{_ANEW}, with room for later changes",
            )
        return b"".join(part for part, _ in header_parts(text, self._begin))

    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the file; after an interrupted run, what it is by its journal."""
        if self._left is None:
            return super().copy(output, backup, progress)
        return self.rewrite(output, backup, progress)

    def _new_file(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> NewFile:
        return self.laid_out(list(items_of(pickled)), self._metadata(attachments), pickled, self._begin)

    def _metadata(self, attachments: Mapping[str, bytes | None]) -> dict[str, str]:
        texts = {**self._archive.small, **self.attached, **attachments}
        return {name: text.decode() for name, text in texts.items() if text is not None}


def items_of(pickled: Pickled) -> tuple[StoredItem, ...]:
    """Return the tensors of a tree that is ready to be written."""
    return cast(_Laid, pickled).items


def _text(entries: Iterable[HeaderEntry], metadata: Mapping[str, str]) -> bytearray:
    try:
        return header_text(entries, metadata)
    except ValueError as error:
        raise Unpicklable("the record", str(error)) from error


def _in_aligned_order(items: list[StoredItem], at: int = 0) -> list[StoredItem]:
    """Return the items in their order; the largest elements first if one would not be aligned otherwise."""
    for item in items:
        if at % SIZES[item.dtype]:
            return sorted(items, key=lambda each: -SIZES[each.dtype])
        at += item.size
    return items


def _placed(items: list[StoredItem], at: int = 0) -> Iterator[HeaderEntry]:
    """Yield the entries of tensors, one behind the other from a place on."""
    for item in items:
        yield HeaderEntry(item.name, item.dtype, item.shape, at)
        at += item.size


def _check_shared(items: tuple[StoredItem, ...]) -> None:
    """Refuse tensors that share memory, which the format cannot express."""
    known: dict[Any, str] = {}
    for item in items:
        place = (item.key, item.offset * SIZES[item.dtype]) if item.offset else item.key
        if item.size and place in known:
            raise Unpicklable(
                f"ckpt[{item.name!r:.80}]",
                f"it shares its memory with {known[place]:.80}, which safetensors cannot express: drop one of them, or "
                "write both with --copy-shared",
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
