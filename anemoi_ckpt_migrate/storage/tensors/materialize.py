"""The bytes of tensors that are made when the file is written: copied from elsewhere in it, or computed."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from anemoi_ckpt_migrate.errors import CannotMake, Damaged
from anemoi_ckpt_migrate.storage import zip_archive
from anemoi_ckpt_migrate.storage.crc32 import combined
from anemoi_ckpt_migrate.storage.tensors.deferred import (
    SIZES,
    Extent,
    TensorBuilder,
    TensorExpr,
    is_contiguous,
    known_dtype,
    storage_of,
)
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from anemoi_ckpt_migrate.storage.members import Members
    from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor
    from anemoi_ckpt_migrate.storage.zip_archive import Archive

_CHUNK = 8 << 20
_IMPORTING = threading.Lock()
"""Held while torch is imported: if that fails in one of two threads, the other one must not get half a module."""


class StoragePlace(NamedTuple):
    """The bytes of a storage.

    Attributes
    ----------
    start, length : int
        The address of the first byte among the files of the checkpoint, and the number of bytes.
    crc : int
        Their CRC-32; 0 if unknown.
    """

    start: int
    length: int
    crc: int = 0


Places = Mapping[str, StoragePlace]
"""The place of each storage, by key."""


def places_in(archive: Archive, stream: Callable[[], BinaryIO]) -> Places:
    """Return the place of each storage of a checkpoint."""
    with stream() as opened:
        zip_archive.expect_headers(opened, archive.entries.values())
        places = {
            name.removeprefix("data/"): StoragePlace(zip_archive.payload_offset(opened, entry), entry.size, entry.crc)
            for name, entry in archive.entries.items()
            if name.startswith("data/")
        }
    loose = archive.loose.items()
    return places | {name.removeprefix("data/"): StoragePlace(start, end - start) for name, (start, end) in loose}


class Made:
    """The content of a storage that is made while it is written.

    Parameters
    ----------
    recipe : TensorExpr
        Its recipe.
    extents : list of Extent or None
        The places of its bytes in the file, if they lie there.
    source : Source
        The file.
    """

    def __init__(self, recipe: TensorExpr, extents: list[Extent] | None, source: Source) -> None:
        self._recipe, self._extents, self._source = recipe, extents, source
        self._count = SIZES[recipe.dtype]
        for size in recipe.shape:
            self._count *= size
        self._begun: Future[memoryview | None] | None = None

    def __len__(self) -> int:
        return self._count

    def prepare(self) -> None:
        """Start computing the bytes in another thread, unless they will be copied."""
        if self._extents is None:
            self._begun = self._source.beside(self._compute)

    def stretches(self) -> list[tuple[int, int, int | None]] | None:
        """Return the places of the bytes in the file: from, to, and the CRC if known; None if they do not lie there."""
        return None if self._extents is None else [self._source.stretch(extent) for extent in self._extents]

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes, if they do not lie in the file."""
        computed = self._compute() if self._begun is None else self._begun.result()
        self._begun = None
        if computed is not None:
            yield computed
        else:
            for start in range(0, self._count, _CHUNK):
                yield bytes(min(_CHUNK, self._count - start))

    def _compute(self) -> memoryview | None:
        """Return the computed bytes; None for zeros."""
        fill = self._recipe.args[2] if self._recipe.kind == "fill" else None
        if isinstance(fill, (int, float)) and repr(float(fill)) == "0.0":  # -0.0 has other bytes
            return None
        return self._source.compute(self._recipe)


class Source:
    """The source of new tensors.

    Parameters
    ----------
    files : Members
        The file, or the files.
    places : mapping of str to StoragePlace
        The place of each storage; more may be added later.
    maker : TensorBuilder
        Holds the recipes.
    checked : set of str
        Storages already compared with their CRCs; more are added.
    unwritten : mapping of str to memoryview
        Content of storages outside the file.
    """

    def __init__(
        self,
        files: Members,
        places: Places,
        maker: TensorBuilder,
        checked: set[str],
        unwritten: Mapping[str, memoryview],
    ) -> None:
        self._unwritten = unwritten
        self._files, self._places, self._maker, self._checked = files, places, maker, checked
        self._payloads: Any = None
        self._last: dict[str, Any] = {}
        self._thread: ThreadPoolExecutor | None = None

    def contents(self) -> dict[str, Callable[[], memoryview]]:
        """Return functions for the content of each storage that the file lacks or holds differently."""
        held = {key: partial(memoryview, content) for key, content in self._unwritten.items()}
        return {**held, **{key: partial(self.compute, recipe) for key, recipe in self._maker.recipes.items()}}

    def beside(self, work: Callable[[], memoryview | None]) -> Future[memoryview | None]:
        """Run work in the one background thread."""
        from concurrent.futures import ThreadPoolExecutor

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        return self._thread.submit(work)

    def made(self, key: str) -> Made:
        """Return the content of a storage to be made."""
        recipe = self._maker.recipes[key]
        return Made(recipe, self._maker.extents_of(recipe), self)

    def same(self, one: list[Extent], other: list[Extent]) -> bool | None:
        """Return whether two parts of the file have the same bytes; None for long ones, which torch compares faster."""
        if one == other:
            return True
        if max(sum(count for _, _, count in each) for each in (one, other)) > _CHUNK:
            return None
        self.check({key for key, _, _ in (*one, *other)})
        return self._read(one) == self._read(other)

    def _read(self, extents: list[Extent]) -> bytes:
        starts = ((self._places[key].start + first, count) for key, first, count in extents)
        return b"".join(self._files.read(start, count) for start, count in starts)

    def stretch(self, extent: Extent) -> tuple[int, int, int | None]:
        """Return the place of bytes in the file: from, to, and the CRC if known."""
        key, first, count = extent
        place = self._places[key]
        crc = place.crc if place.crc and place.length == count else None
        if crc is None:
            self.check({key})  # damaged bytes would get a CRC that says they are whole
        return place.start + first, place.start + first + count, crc

    def compute(self, recipe: TensorExpr) -> memoryview:
        """Return the content that a recipe makes."""
        with _IMPORTING:
            from anemoi_ckpt_migrate.storage.tensors.evaluate import evaluated_recipe
            from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        self.check(self._storages(recipe))
        try:
            found = evaluated_recipe(recipe, self._maker.recipes, self._opened(), self._last)
        except Mismatch as error:
            raise CannotMake(recipe.kind, recipe.shape, recipe.dtype, str(error)) from error
        if found.untyped_storage().nbytes() != found.nbytes:
            found = found.clone()  # a part of a larger storage
        return content_of(found.untyped_storage())

    def tensor(self, tensor: StoredTensor) -> Any:
        """Return the real tensor of a stand-in."""
        from anemoi_ckpt_migrate.storage.tensors.evaluate import evaluated

        recipe = self._maker.recipes.get(storage_of(tensor).key)
        self.check({storage_of(tensor).key} if recipe is None else self._storages(recipe))
        return evaluated(tensor, self._maker.recipes, self._opened(), self._last)

    def digest(self, tensor: StoredTensor) -> str:
        """Return the dtype and the CRC-32 of a stand-in's content, its elements in order."""
        found = 0
        extents = self._maker.extents(tensor)
        if extents is None:
            found = zlib.crc32(self._content(tensor))
        for extent in extents or ():
            start, end, crc = self.stretch(extent)
            own = self._files.checksum(start, end) if crc is None else crc
            found = combined(found, own, end - start)
        return f"{known_dtype(tensor)} {found:08x}"

    def read(self, tensor: StoredTensor) -> bytes:
        """Return the content of a stand-in, its elements in order."""
        extents = self._maker.extents(tensor)
        if extents is not None:
            self.check({key for key, _, _ in extents})
            return self._read(extents)
        held = self._unwritten.get(storage_of(tensor).key)
        size = math.prod(tensor.shape) * SIZES[known_dtype(tensor)]
        whole = held is not None and len(held) == size and is_contiguous(tensor)
        return bytes(held) if held is not None and whole else bytes(self._content(tensor))

    def _content(self, tensor: StoredTensor) -> memoryview:
        from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        return content_of(self.tensor(tensor).contiguous().clone().untyped_storage())

    def check(self, keys: Iterable[str]) -> None:
        """Compare storages with their CRCs before they are used; each storage once."""
        damaged = []
        for key in keys:
            if key in self._places and key not in self._checked:
                start, length, crc = self._places[key]
                if crc and self._files.checksum(start, start + length) != crc:
                    damaged.append(f"data/{key}")
                self._checked.add(key)
        if damaged:
            raise Damaged(damaged)

    def _opened(self) -> Any:
        if self._payloads is None:
            from anemoi_ckpt_migrate.storage.tensors.torch_content import Payloads

            unwritten = {key: partial(memoryview, content) for key, content in self._unwritten.items()}
            self._payloads = Payloads(self._files, self._places, unwritten)
        return self._payloads

    def _storages(self, recipe: TensorExpr) -> set[str]:
        """Return the keys of the file's storages that a recipe uses."""
        found: set[str] = set()
        for source in recipe.sources:
            key = storage_of(source).key
            inner = self._maker.recipes.get(key)
            found |= {key} if inner is None else self._storages(inner)
        return found
