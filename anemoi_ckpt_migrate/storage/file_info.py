"""Facts about a checkpoint in its file."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.storage.record_copy import COPY_ENTRY
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.zip_archive import Archive, ZipEntry

ZIP = "torch zip"
"""The format of a file of `torch.save` since 1.6, in `FileInfo`."""
_OWN = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


class FileSize(NamedTuple):
    """The size of a checkpoint.

    Attributes
    ----------
    format : str
        As in `FileInfo`.
    size, dead : int
        Its length, and the number of bytes that no entry uses.
    """

    format: str
    size: int
    dead: int


@dataclass(frozen=True)
class FileInfo:
    """Facts about a checkpoint in its file.

    Attributes
    ----------
    format : str
        ``torch zip``, ``torch before 1.6`` or ``safetensors``.
    size, dead : int
        Its length, and the number of bytes that no entry uses.
    byteorder : str
        ``little`` or ``big``.
    protocol : int
        Protocol of the pickle; 0 if there is none.
    unchecked : int
        Number of entries without a CRC to check.
    interrupted : bool
        Whether more bytes follow in the file, left by an interrupted run.
    unused : tuple of str
        Payload without a reference in the pickle.
    attached : dict of str to int
        Entries that are not torch's own, with their sizes in bytes.
    """

    format: str
    size: int
    dead: int
    byteorder: str
    protocol: int
    unchecked: int
    interrupted: bool
    unused: tuple[str, ...]
    attached: dict[str, int]

    @property
    def in_short(self) -> FileSize:
        """Format and size alone."""
        return FileSize(self.format, self.size, self.dead)


def facts_of(
    archive: Archive, byteorder: str, protocol: int, keys: Collection[str], length: int, interrupted: bool
) -> FileInfo:
    """Return facts about a checkpoint in its file.

    Parameters
    ----------
    archive : Archive
        Its entries.
    byteorder : str
        The order of the bytes of its tensors.
    protocol : int
        Protocol of the pickle.
    keys : collection of str
        Storages that the pickle refers to.
    length : int
        Its length, in bytes.
    interrupted : bool
        Whether more bytes follow in the file.
    """
    entries, names = archive.entries, archive.entries or archive.loose
    return FileInfo(
        ZIP if archive.is_zip else "torch before 1.6",
        length,
        archive.dead,
        byteorder if byteorder in ("little", "big") else "unknown",
        protocol,
        sum(not entry.crc and entry.size > 0 for entry in entries.values()) or len(archive.loose),
        interrupted,
        tuple(name for name in names if name.startswith("data/") and name.removeprefix("data/") not in keys),
        {name: entry.size for name, entry in attached(archive).items()},
    )


def attached(archive: Archive) -> dict[str, ZipEntry]:
    """Return the entries that are not torch's own, by name."""
    return {name: entry for name, entry in archive.entries.items() if not _is_own(name)}


def same_attached(one: Archive, other: Archive, but: str, ours: range) -> bool:
    """Return whether two states of one file have the same entries that are not torch's own, in the same places.

    Parameters
    ----------
    one, other : Archive
        The states, the earlier one first.
    but : str
        Prefix of names to ignore.
    ours : range
        Byte range in the later state where entries were rewritten on purpose.
    """

    def places(archive: Archive) -> dict[str, tuple[int, int, int]]:
        found = attached(archive).items()
        return {name: (each.offset, each.size, each.crc) for name, each in found if not name.startswith(but)}

    before, after = places(one), places(other)
    rewritten = {name for name, (offset, _, _) in after.items() if offset in ours and name in before}
    return before.keys() == after.keys() and all(name in rewritten or before[name] == after[name] for name in before)


def _is_own(name: str) -> bool:
    return name.startswith("data/") or name in _OWN or name == COPY_ENTRY
