"""The archives in the files of a distributed checkpoint: one of `torch.save` for each chunk and each other value."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, BinaryIO

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint
from anemoi_ckpt_migrate.storage import zip_archive
from anemoi_ckpt_migrate.storage.distributed import compression
from anemoi_ckpt_migrate.storage.distributed.metadata import Chunk, Place
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.pickle.dump import dumped, short
from anemoi_ckpt_migrate.storage.pickle.storage_keys import with_keys
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.deferred import PLAIN, SIZES, known_dtype
from anemoi_ckpt_migrate.storage.tensors.materialize import StoragePlace
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_stored, reduced
from anemoi_ckpt_migrate.util.dataclass import dataclass

_SMALL = 1 << 16  # bytes of an archive that is remembered: thousands of parameters have the same settings
_LARGEST = 256 << 20  # bytes of a compressed value
_AROUND = 1 << 20  # bytes of an archive beside those of its tensor
PROTOCOL = 2
"""The protocol of torch's pickles."""


class Archives:
    """The archives of a checkpoint. Each is read when it is needed; the same bytes are parsed once.

    Parameters
    ----------
    files : Members
        The open files.
    begins : mapping of str to int
        The address of the first byte of each file, by its path in the folder.

    Attributes
    ----------
    places : dict of str to StoragePlace
        The storages in the archives that were read. The key is the file, the first byte of the archive, and the key in
        the archive: ``__0_0.distcp@4096/0``.
    """

    def __init__(self, files: Members, begins: Mapping[str, int]) -> None:
        self._files, self._begins = files, begins
        self.places: dict[str, StoragePlace] = {}
        self._pickles: dict[bytes, bytes] = {}
        self._read_unpacked: dict[tuple[str, int], bytes] = {}
        self._kept: list[IO[bytes]] = []

    def close(self) -> None:
        """Remove the files that hold what was compressed."""
        for file in self._kept:
            file.close()

    def can_read(self, place: Place) -> bool:
        """Return whether an archive can be read: some are stored in another form."""
        return compression.is_known(place.transforms)

    def pickled(self, name: str, place: Place, most: int = _LARGEST) -> bytes:
        """Return the pickle of a value; keys of its storages are those of `places`.

        Parameters
        ----------
        name : str
            The name of the value, for messages.
        place : Place
            The archive.
        most : int
            The number of bytes that it may have, if it is compressed.

        Raises
        ------
        NotACheckpoint
            The archive is damaged or hostile.
        Refused
            It is stored in a form that cannot be read here.
        """
        if not self.can_read(place):
            raise compression.refusal(name, place.transforms)
        begin = self._begins[place.file] + place.start
        try:
            if place.transforms:
                return self._parsed_unpacked(name, place, most)
            if place.length > _SMALL:
                with self._stream(place) as stream:
                    return self._parsed(stream, place, begin)[0]
            raw = self._files.read(begin, place.length)
            if raw not in self._pickles:
                data, is_alone = self._parsed(io.BytesIO(raw), place, begin)
                if not is_alone:
                    return data
                self._pickles[raw] = data
            return self._pickles[raw]
        except NotACheckpoint as error:
            raise NotACheckpoint(f"{name:.200} in {place.file} cannot be read ({error.sentence})") from error
        except CannotRead:
            raise
        except Exception as error:  # a damaged pickle raises almost anything
            raise NotACheckpoint(f"{name:.200} in {place.file} is damaged or hostile ({short(error)})") from error

    def chunk(self, name: str, chunk: Chunk, dtype: str) -> StoredTensor:
        """Return the stand-in of a chunk, as it lies in its archive.

        Raises
        ------
        NotACheckpoint
            The archive is damaged, or holds something else than the metadata says.
        Refused
            It is stored in a form that cannot be read here.
        """
        data = self.pickled(name, chunk.place, most_in(chunk, dtype))
        try:
            value = TreeUnpickler(data).load()
        except Exception as error:
            raise NotACheckpoint(f"{name:.200} in {chunk.place.file} is damaged or hostile ({short(error)})") from error
        if is_stored(value) and reduced(value)[0].pickled_name[1] not in PLAIN:
            raise NotACheckpoint(f"{name:.200} is not a plain tensor, so it can be moved but not changed")
        if not is_stored(value) or known_dtype(value) != dtype or tuple(value.shape) != chunk.sizes:
            raise NotACheckpoint(
                f"the chunk of {name:.200} at {list(chunk.offsets)} in {chunk.place.file} is not a tensor of {dtype} "
                f"with the shape {list(chunk.sizes)}, as the metadata says"
            )
        return value  # type: ignore[no-any-return]

    def is_damaged(self, name: str, place: Place, most: int = _LARGEST) -> bool:
        """Return whether the content of an archive does not match its checksums. Parameters are those of `pickled`."""
        if not self.can_read(place):
            return False
        try:
            with contextlib.ExitStack() as held:
                descriptor, start, length = (
                    self._files.at(self._begins[place.file]).descriptor,
                    place.start,
                    place.length,
                )
                if place.transforms:
                    file = held.enter_context(self._unpacked(name, place, most))
                    descriptor, start, length = file.fileno(), 0, os.fstat(file.fileno()).st_size
                stream = held.enter_context(zip_archive.window(descriptor, length, start))
                for entry in zip_archive.read_sole_archive(stream).entries.values():
                    first = start + zip_archive.payload_offset(stream, entry)
                    if not zip_archive.is_whole(descriptor, entry, first):
                        return True
        except NotACheckpoint:
            return True
        return False

    def _unpacked(self, name: str, place: Place, most: int) -> IO[bytes]:
        try:
            with self._stream(place) as packed:
                return compression.unpack(packed, place.transforms, most)
        except (NotACheckpoint, CannotRead):
            raise
        except Exception as error:  # the errors of the libraries are their own
            raise NotACheckpoint(f"{name:.200} in {place.file} is damaged ({short(error)})") from error

    def _parsed_unpacked(self, name: str, place: Place, most: int) -> bytes:
        """Return the pickle of a compressed archive; if it refers to storages, they lie in a file of their own."""
        key = place.file, place.start
        if key not in self._read_unpacked:
            file = self._unpacked(name, place, most)
            length = os.fstat(file.fileno()).st_size
            with zip_archive.window(file.fileno(), length) as stream:
                self._read_unpacked[key], is_alone = self._parsed(stream, place, self._files.end)
            if is_alone:
                file.close()
            else:
                self._files.add(file.fileno(), length)
                self._kept.append(file)
        return self._read_unpacked[key]

    def _stream(self, place: Place) -> io.BufferedReader:
        member = self._files.at(self._begins[place.file])
        return zip_archive.window(member.descriptor, place.length, place.start)

    def _parsed(self, stream: BinaryIO, place: Place, begin: int) -> tuple[bytes, bool]:
        """Return the pickle in an archive, and whether it refers to no storages; note the places of these.

        Parameters
        ----------
        stream : file
            The archive.
        place : Place
            Its place in the checkpoint.
        begin : int
            The address of its first byte.
        """
        archive = zip_archive.read_sole_archive(stream)
        prefix = f"{place.file}@{place.start}/"
        found = {
            prefix + name[5:]: StoragePlace(begin + zip_archive.payload_offset(stream, entry), entry.size, entry.crc)
            for name, entry in archive.entries.items()
            if name.startswith("data/")
        }
        data = zip_archive.read_entry(stream, archive.entries["data.pkl"])
        if not found:
            return data, True
        order = archive.entries.get("byteorder")
        if order is not None and zip_archive.read_entry(stream, order).decode("ascii", "replace") != sys.byteorder:
            raise NotACheckpoint(f"its tensors are not {sys.byteorder}-endian, so they can be moved but not changed")
        self.places.update(found)
        return with_keys(data, lambda key: prefix + key), False


def most_in(chunk: Chunk, dtype: str) -> int:
    """Return the number of bytes that the archive of a chunk may have, if it is compressed."""
    return math.prod(chunk.sizes) * SIZES[dtype] + _AROUND


@dataclass(frozen=True)
class Unread:
    """A value that is stored in another form, as with compression. It can be moved.

    Attributes
    ----------
    place : Place
        Its bytes.
    """

    place: Place


class ChunkSources(Sequence[StoredTensor]):
    """The chunks of a tensor as sources of its recipe; their archives are read when the content is needed."""

    __slots__ = ("_archives", "_chunks", "_dtype", "_found", "_name")

    def __init__(self, archives: Archives, name: str, chunks: Sequence[Chunk], dtype: str) -> None:
        self._archives, self._name, self._chunks, self._dtype = archives, name, chunks, dtype
        self._found: list[StoredTensor] | None = None

    def _all(self) -> list[StoredTensor]:
        if self._found is None:
            self._found = [self._archives.chunk(self._name, chunk, self._dtype) for chunk in self._chunks]
        return self._found

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[StoredTensor]:
        return iter(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]


def pickled(value: Any) -> bytes:
    """Return the pickle of a value without real tensors."""
    return dumped(value, lambda stream: TreePickler(stream, PROTOCOL))[1]
