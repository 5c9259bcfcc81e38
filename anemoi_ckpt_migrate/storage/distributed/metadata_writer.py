"""The metadata of a distributed checkpoint (``.metadata``), written as torch's pickler spells it.

So `metadata_patterns` reads it fast again. The objects in the three maps are not made, only spelled.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.distributed.closed_pickle import Piece, Struct, Writer, repeated, spelled_integer
from anemoi_ckpt_migrate.storage.distributed.metadata import (
    NAMES,
    Chunk,
    Metadata,
    Path,
    Place,
    TensorEntry,
    ValueEntry,
)
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.util.recursion import deep_recursion


def metadata_bytes(metadata: Metadata) -> bytes:
    """Return the content of a metadata file.

    Raises
    ------
    NotACheckpoint
        An attribute that is kept as it is cannot be written.
    """
    with deep_recursion():
        try:
            return _Writing().whole(metadata)
        except ValueError as error:
            raise NotACheckpoint(f"its {METADATA} cannot be written again ({error})") from error


class _Writing(Writer):
    """Writes the attributes of the object, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._tensor = Piece(NAMES.tensor, _NEW, "properties")
        self._size, self._chunks = Piece("size"), Piece("chunks", _LIST)
        self._chunk, self._sizes_of_chunk = Piece(NAMES.chunk, _NEW, "offsets"), Piece("sizes")
        self._value = Piece(NAMES.value, _OBJECT)
        self._index, self._number_of_chunk = Piece(NAMES.index, _NEW, "fqn"), Piece("index")
        self._offset, self._length = Piece("offset"), Piece("length")
        self._place_of_chunk = Piece(_SET, NAMES.place, _NEW, "relative_path")
        self._pieces_of_tensor = self._tensor, self._size, self._chunks, self._chunk, self._sizes_of_chunk
        self._pieces_of_place = (
            self._index,
            self._number_of_chunk,
            self._offset,
            self._place_of_chunk,
            self._length,
        )
        self._forms: dict[int, bytes] = {}  # the spelling of properties, by id

    def whole(self, metadata: Metadata) -> bytes:
        """Return the pickle."""
        self.piece(Piece(NAMES.whole, _NEW, "state_dict_metadata"))
        self._begin_map()
        for name, entry in metadata.entries.items():
            self.text(name)
            if isinstance(entry, ValueEntry):
                self._write_value(entry)
            elif len(entry.chunks) != 1 or entry.more or entry.chunks[0].more or not self._repeat_tensor(entry):
                self._write_tensor(entry)
        self._end_map()
        self.text("planner_data")
        if metadata.paths is None:
            self.value(None)
        else:
            self._write_paths(metadata.paths)
        self.text("storage_data")
        self._begin_map()
        for name, entry in metadata.entries.items():
            if isinstance(entry, ValueEntry):
                self._write_place(name, None, None, entry.place)
                continue
            for number, chunk in enumerate(entry.chunks):
                if chunk.place.more or not self._repeat_place(name, number, chunk):
                    self._write_place(name, number, chunk.offsets, chunk.place)
        self._end_map()
        self._end(metadata.more)
        return self.finished()

    def _write_value(self, entry: ValueEntry) -> None:
        self.piece(self._value)
        if entry.more:
            self.mapping(entry.more)
            self.out += pickle.BUILD

    def _write_tensor(self, entry: TensorEntry) -> None:
        self.piece(self._tensor)
        self._write_properties(entry.properties)
        self.piece(self._size)
        self.size(entry.shape)
        self.piece(self._chunks)
        alone = len(entry.chunks) == 1
        self.out += b"" if alone else pickle.MARK
        for chunk in entry.chunks:
            self.piece(self._chunk)
            self.size(chunk.offsets)
            self.piece(self._sizes_of_chunk)
            self.size(chunk.sizes)
            self._end(chunk.more)
        self.out += pickle.APPEND if alone else pickle.APPENDS
        self._end(entry.more)

    def _repeat_place(self, name: str, number: int, chunk: Chunk) -> bool:
        """Write the place of a chunk at once, if all but the numbers in it is repeated; return whether it is."""
        begin, middle, offset, place, length = self._pieces_of_place
        if not (place.known and length.known):
            return False
        texts, (file, start, count, _) = self._texts, chunk.place
        known, known_file, offsets = texts.get(name), texts.get(file), self._sizes.get(chunk.offsets)
        if known is None or known_file is None or offsets is None:
            return False
        self.out += b"".join(
            (
                begin.known,
                repeated(known),
                middle.known,
                spelled_integer(number),
                offset.known,
                repeated(offsets),
                place.known,
                repeated(known_file),
                offset.known,
                spelled_integer(start),
                length.known,
                spelled_integer(count),
                _SET,
            )
        )
        self._count += begin.numbers + place.numbers
        return True

    def _repeat_tensor(self, entry: TensorEntry) -> bool:
        """Write a tensor of one chunk at once, if all of it is repeated; return whether it is."""
        begin, size, chunks, chunk, sizes = self._pieces_of_tensor
        (part,), get = entry.chunks, self._sizes.get
        form, shape = self._forms.get(id(entry.properties)), get(entry.shape)
        first, extent = get(part.offsets), get(part.sizes)
        if form is None or shape is None or first is None or extent is None or not sizes.known:
            return False
        self.out += b"".join(
            (
                begin.known,
                form,
                size.known,
                repeated(shape),
                chunks.known,
                chunk.known,
                repeated(first),
                sizes.known,
                repeated(extent),
                _SET,
                pickle.APPEND,
                _SET,
            )
        )
        self._count += begin.numbers + 2 + chunks.numbers + chunk.numbers
        return True

    def _write_properties(self, properties: Struct) -> None:
        """Write an object for each tensor, although those that are alike are one here."""
        known = self._forms.get(id(properties))
        if known is not None:
            self.out += known
            self._count += 2
            return
        begin, before = len(self.out), self._count
        self.name(properties.name)
        self.out += _OBJECT + pickle.MARK
        self._count += 1
        for each in properties.state:
            self.value(each)
        self.out += pickle.TUPLE + pickle.MEMOIZE + pickle.BUILD
        self._count += 1
        if self._count == before + 2:  # all else is repeated, as it will be from here on
            self._forms[id(properties)] = bytes(self.out[begin:])

    def _write_paths(self, paths: Mapping[str, Path]) -> None:
        self._begin_map()
        for name, path in paths.items():
            self.text(name)
            if len(path) == 1 and type(path[0]) is str:
                self.text(path[0])
                self.out += _ALONE
                self._count += 1
            else:
                self.parts(path)
        self._end_map()

    def _write_place(self, name: str, number: int | None, offsets: tuple[int, ...] | None, place: Place) -> None:
        self.piece(self._index)
        self.text(name)
        self.piece(self._number_of_chunk)
        self.value(number)
        if offsets is not None:
            self.piece(self._offset)
            self.size(offsets)
        self.piece(self._place_of_chunk)
        self.text(place.file)
        self.piece(self._offset)
        self.integer(place.start)
        self.piece(self._length)
        self.integer(place.length)
        self._end(place.more)

    def _end(self, more: Mapping[str, Any]) -> None:
        """Write the last attributes of an object, and set them all."""
        for name, value in more.items():
            self.text(name)
            self.value(value)
        self.out += _SET

    def _begin_map(self) -> None:
        self.out += _MAP
        self._count += 1

    def _end_map(self) -> None:
        self.out += pickle.SETITEMS


_OBJECT = pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.MEMOIZE
_NEW = _OBJECT + pickle.EMPTY_DICT + pickle.MEMOIZE + pickle.MARK
_LIST, _MAP = pickle.EMPTY_LIST + pickle.MEMOIZE, pickle.EMPTY_DICT + pickle.MEMOIZE + pickle.MARK
_SET, _ALONE = pickle.SETITEMS + pickle.BUILD, pickle.TUPLE1 + pickle.MEMOIZE
