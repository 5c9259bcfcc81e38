"""Files of safetensors as checkpoints: a state dict of plain tensors, and texts beside it.

The record is one of the texts under ``__metadata__``. No torch and no library of safetensors is needed to read a file,
or to write one whose tensors only move.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from anemoi_ckpt_migrate.errors import NotInPlace, Unpicklable
from anemoi_ckpt_migrate.storage.atomic_replace import Written
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.safetensors_header import (
    BLOCK,
    RESERVED,
    SPELLED,
    Header,
    HeaderEntry,
    header_bytes,
    is_named_so,
    is_text,
    read_header,
)
from anemoi_ckpt_migrate.storage.single_file import NewFile, SingleFile
from anemoi_ckpt_migrate.storage.tensors.deferred import (
    SIZES,
    is_contiguous,
    known_dtype,
    plain_of,
    storage_of,
)
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_a, is_real, is_stored, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.url import Location
from anemoi_ckpt_migrate.storage.zip_archive import Archive
from anemoi_ckpt_migrate.storage.zip_writer import Content

_WORTH_SHARING = 64 * BLOCK


@dataclass(frozen=True)
class StoredItem:
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

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return self.elements * SIZES[self.dtype]


class SafetensorsTree(Checkpoint):
    """The tree of an open checkpoint in one or several files of safetensors: a dict of tensors.

    Attributes
    ----------
    items : list of StoredItem
        The tensors.
    """

    byteorder = "little"
    items: list[StoredItem]

    def _adopt(self, pickled: Pickled) -> None:
        self.items = items_of(pickled)

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
        self._touched, self._payloads = [], None
        self._maker.renew(self._touched)
        return {item.name: self._stand_in(item) for item in self.items}

    def load_content(self) -> dict[str, Any]:
        """Return the state dict with real tensors over the file."""
        from anemoi_ckpt_migrate.storage.tensors.evaluate import evaluated

        tree, self._payloads, made = self.load(), self._open_payloads(), dict[str, Any]()
        return {name: evaluated(each, self._maker.recipes, self._payloads, made) for name, each in tree.items()}

    def _stand_in(self, item: StoredItem) -> StoredTensor:
        return self._maker.stored(item.key, item.dtype, item.shape, item.offset)

    def pickled(self, tree: Any) -> Pickled:
        """Turn a state dict into the list of its tensors, each with the storage of its content."""
        if not is_a(tree, dict):
            raise Unpicklable(
                "the checkpoint", f"a safetensors file holds a dict of tensors, not a {type(tree).__name__}"
            )
        new: dict[str, Content] = {}
        items = [self._item(name, value, new) for name, value in tree.items()]
        _check_shared(items)
        keys = dict.fromkeys(item.key for item in items)
        data = json.dumps([[each.name, each.dtype, each.shape, each.key, each.offset] for each in items])
        return Pickled(data.encode(), keys, self._contents_of(keys, new))

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
        from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        plain = type(value).__name__ in ("Tensor", "Parameter") and not value.is_nested and not value.is_meta
        if not plain or str(value.layout) != "torch.strided" or value.is_quantized:
            raise Unpicklable(where, "a safetensors file holds plain tensors only")
        value = value.detach().resolve_conj().resolve_neg()
        if self._payloads is not None and value.is_contiguous():
            key = self._payloads.key_of(value.untyped_storage())
            if key is not None:  # it lies in the file, changed or not
                return key, value.storage_offset()
        value = value.cpu().contiguous()
        if value.untyped_storage().nbytes() != value.nbytes:
            value = value.clone()  # a part of a larger storage
        key = str(self._maker.next_key + len(new))
        new[key] = content_of(value.untyped_storage())
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
        entries, end = [], 0
        for item in items:
            entries.append(HeaderEntry(item.name, item.dtype, item.shape, end, end + item.size))
            end += item.size
        try:
            header = header_bytes(entries, metadata, begin if end > _WORTH_SHARING else 0)
        except ValueError as error:
            raise Unpicklable("the record", str(error)) from error
        held = dict.fromkeys(item.key for item in items if item.key in pickled.payloads)
        made = len(header) + sum(len(pickled.payloads[key]) for key in held)
        return NewFile(made, len(header) + end, partial(self._write, header, items, pickled))

    def _write(
        self, header: bytes, items: list[StoredItem], pickled: Pickled, target: int, progress: Progress | None
    ) -> None:
        write_at(target, header, 0)
        at = len(header)
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
            is_held = isinstance(pickled.payloads.get(item.key), (bytes, memoryview))
            extents = None if is_held else self._maker.extents(self._stand_in(item))
            if extents is not None:
                for key, first, count in extents:
                    begin = self._archive.loose[f"data/{key}"][0] + first
                    yield begin, begin + count
            else:
                written, content = 0, pickled.payloads[item.key]
                chunks = [content] if isinstance(content, (bytes, memoryview)) else content.chunks()
                for chunk in chunks:
                    view = memoryview(chunk)[max(0, start - written) : max(0, start + size - written)]
                    write_at(target, view, at + max(0, written - start))
                    written += len(chunk)
                yield None, size
            at += size


class SafetensorsCheckpoint(SafetensorsTree, SingleFile):
    """An open file of safetensors."""

    def _read_archive(self) -> Archive:
        """Read the header. Its texts are entries beside the tree, and the content of each tensor is a storage."""
        header = read_header(self._descriptor, self.length)
        self.items = items_in(header)
        loose = {f"data/={each.name}": (each.start, each.end) for each in header.entries}
        texts = {name: text.encode() for name, text in header.metadata.items()}
        return Archive("", {}, self.length, 0, loose, texts)

    def fits(self, name: str) -> bool:
        """Return whether the name is that of a safetensors file, or of a backup of one."""
        return is_named_so(name)

    def facts(self) -> FileInfo:
        """Return facts about the file."""
        texts = {name: len(text) for name, text in self._archive.small.items()}
        unchecked = sum(end > start for start, end in self._archive.loose.values())
        return FileInfo("safetensors", self.length, 0, self.byteorder, 0, unchecked, False, (), texts)

    def _check_in_place(self) -> NoReturn:
        raise NotInPlace(
            "it is a safetensors file, which is only ever replaced as a whole", "a new file takes its place"
        )

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Refuse: see `check_writable`."""
        self._check_in_place()

    def rewrite(self, output: Location | None = None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Write the file anew."""
        return self.write(self.pickled(self.load()), {}, output, backup, progress)

    def _new_file(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> NewFile:
        texts = {**self._archive.small, **self.attached, **attachments}
        metadata = {name: text.decode() for name, text in texts.items() if text is not None}
        begin = min((start for start, _ in self._archive.loose.values()), default=0)
        return self.laid_out(items_of(pickled), metadata, pickled, begin)


def items_in(header: Header) -> list[StoredItem]:
    """Return the tensors of a header."""
    # Keys of storages in the file begin with a sign: keys of new ones are numbers, and so may names be.
    return [StoredItem(each.name, each.dtype, each.shape, f"={each.name}") for each in header.entries]


def items_of(pickled: Pickled) -> list[StoredItem]:
    """Return the tensors of a tree that is ready to be written."""
    return [StoredItem(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in json.loads(pickled.data)]


def _in_aligned_order(items: list[StoredItem]) -> list[StoredItem]:
    """Return the items in their order; the largest elements first if one would not be aligned otherwise."""
    at = 0
    for item in items:
        if at % SIZES[item.dtype]:
            return sorted(items, key=lambda each: -SIZES[each.dtype])
        at += item.size
    return items


def _check_shared(items: list[StoredItem]) -> None:
    """Refuse tensors that share memory, which the format cannot express."""
    known: dict[tuple[str, int], str] = {}
    for item in items:
        place = item.key, item.offset * SIZES[item.dtype]
        if item.size and place in known:
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
