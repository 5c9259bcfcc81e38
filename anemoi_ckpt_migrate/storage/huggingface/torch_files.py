"""Files of `torch.save` that are parts of a folder. Keys of storages name the file too: ``0/12``."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage import legacy_format, zip_archive
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, short
from anemoi_ckpt_migrate.storage.pickle.storage_keys import with_keys
from anemoi_ckpt_migrate.storage.single_file import NewFile
from anemoi_ckpt_migrate.storage.tensors.materialize import Places, StoragePlace
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, write_new
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.members import Members


class Shard(NamedTuple):
    """An open file of a folder.

    Attributes
    ----------
    name : str
        Its name in the folder.
    descriptor : int
        The file.
    length : int
        Its length, in bytes.
    """

    name: str
    descriptor: int
    length: int


@dataclass(frozen=True)
class TorchFile:
    """A file of `torch.save` in a folder.

    Attributes
    ----------
    name : str
        Its name.
    data : bytes
        Its pickle, with the keys of the folder.
    root : str
        The folder in the archive that holds all entries.
    small : dict of str to bytes
        Its entries besides the pickle and the storages.
    places : dict of str to StoragePlace
        The places of its storages, by the keys of the folder.
    """

    name: str
    data: bytes
    root: str
    small: dict[str, bytes]
    places: dict[str, StoragePlace]

    def with_data(self, data: bytes) -> TorchFile:
        """Return the file with another pickle."""
        return replace(self, data=data)

    def check(self, keys: Collection[str], held: Collection[str]) -> None:
        """Refuse a pickle that names a storage that is not there.

        Raises
        ------
        NotACheckpoint
            As above.
        """
        missing = next((key for key in keys if key not in held), None)
        if missing is not None:
            raise NotACheckpoint(f"{self.name}: the payload data/{missing.partition('/')[2]} is missing")

    def laid_out(
        self, data: bytes, pickled: Pickled, places: Places, files: Members, texts: Mapping[str, bytes | None]
    ) -> NewFile | None:
        """Lay out the file with another pickle; None if it stays as it is.

        Parameters
        ----------
        data : bytes
            The pickle, with the keys of the folder.
        pickled : Pickled
            The tree to which it belongs.
        places : mapping of str to StoragePlace
            The places of all storages of the folder.
        files : Members
            The open files of the folder.
        texts : mapping of str to bytes or None
            Further entries of the archive; None removes one.
        """
        numbers: dict[str, str] = {}
        renamed = with_keys(data, lambda key: numbers.setdefault(key, str(len(numbers))))
        same = all(self.small.get(name) == text for name, text in texts.items())
        if same and data == self.data and not any(key in pickled.payloads for key in numbers):
            return None
        new: dict[str, Content] = {"data.pkl": renamed}
        new |= {name: text for name, text in (self.small | dict(texts)).items() if text is not None}
        if ".format_version" in new:
            new[".format_version"] = b"0"  # the sizes alone no longer determine the offsets; 0 makes torch look them up
        held = {key: pickled.payloads.get(key) for key in numbers}
        new |= {
            f"data/{number}": _Kept(places[key]) if (own := held[key]) is None else own
            for key, number in numbers.items()
        }
        contents = Contents(self.root, [], new)
        made = len(renamed) + sum(len(own) for own in held.values() if own is not None)

        def write(target: int, progress: Progress | None) -> None:
            write_new(contents, files, target, progress)

        return NewFile(made, sum(map(len, new.values())), write)


class _Kept:
    """The content of a storage that stays as it is."""

    def __init__(self, place: StoragePlace) -> None:
        self._place = place

    def __len__(self) -> int:
        return self._place.length

    def prepare(self) -> None:
        """There is nothing to compute."""

    def stretches(self) -> list[tuple[int, int, int | None]]:
        """Return its place, with its checksum if known: damaged content keeps a checksum that tells."""
        start, length, crc = self._place
        return [(start, start + length, crc or None)]

    def chunks(self) -> Iterator[bytes]:
        """Yield nothing: all content lies in the files."""
        return iter(())


def read_torch_file(file: Shard, number: int, begin: int) -> TorchFile:
    """Read the table of contents and the pickle of a file.

    Parameters
    ----------
    file : Shard
        The file.
    number : int
        Its number among the files of the folder.
    begin : int
        The address of its first byte among them.

    Raises
    ------
    NotACheckpoint
        It is damaged, or no file of `torch.save`.
    """
    places, small = dict[str, StoragePlace](), dict[str, bytes]()
    try:
        with zip_archive.window(file.descriptor, file.length) as stream:
            if legacy_format.is_legacy(stream):
                raise NotACheckpoint("torch before 1.6 saved it; load it, and save it again with torch.save")
            archive = zip_archive.read_sole_archive(stream)
            for name, entry in archive.entries.items():
                if name.startswith("data/"):
                    start = begin + zip_archive.payload_offset(stream, entry)
                    places[f"{number}/{name[5:]}"] = StoragePlace(start, entry.size, entry.crc)
                else:
                    small[name] = zip_archive.read_entry(stream, entry)
    except NotACheckpoint as error:
        raise NotACheckpoint(f"{file.name}: {error.sentence}") from error
    if small.get("byteorder", b"little").decode("ascii", "replace") != sys.byteorder:
        raise NotACheckpoint(f"{file.name}: its tensors are not {sys.byteorder}-endian")
    try:
        data = with_keys(small.pop("data.pkl"), lambda key: f"{number}/{key}")
    except Exception as error:  # a damaged pickle raises almost anything
        raise damaged(file.name, error) from error
    return TorchFile(file.name, data, archive.root, small, places)


def damaged(name: str, error: BaseException) -> NotACheckpoint:
    """Return the error for a file whose pickle cannot be read."""
    return NotACheckpoint(f"{name}: its data.pkl is damaged or hostile ({short(error)})")
