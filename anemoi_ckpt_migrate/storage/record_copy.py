"""A copy of the record at the end of a torch file, so that `current` need not read the structure of a large model.

The record in the tree is the truth. The copy carries the checksum of the structure, so it counts only as long as that
is unchanged; who writes the file compares both before. The last two lines of the table of contents lead to the
structure and to the copy, so the end of the file is all that is read.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage import zip_archive
from anemoi_ckpt_migrate.storage.atomic_replace import opened

if TYPE_CHECKING:
    from pathlib import Path

COPY_ENTRY = "ckpt_migrate/record_copy.json"
"""The entry of the archive that holds the copy."""
_LONGEST = 1 << 22


class RecordCopy(NamedTuple):
    """A copy of a record.

    Attributes
    ----------
    record : object
        The record, as JSON has it.
    dead : int
        Number of bytes in the file that no entry uses.
    size : int
        Number of bytes of the file.
    """

    record: Any
    dead: int
    size: int


def spelled(record: Any, structure: bytes, dead: int) -> bytes:
    """Return the content of the entry.

    Parameters
    ----------
    record : object
        The record, as JSON has it.
    structure : bytes
        The pickle of the tree that holds it.
    dead : int
        Number of bytes in the file that no entry uses.
    """
    return json.dumps({"structure": _checksum(zlib.crc32(structure)), "dead": dead, "record": record}).encode()


def parsed(content: bytes, crc: int, size: int) -> RecordCopy | None:
    """Return the copy in an entry of a file of this size; None if it is not that of a structure with this CRC-32."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("structure") != _checksum(crc) or type(found.get("dead")) is not int:
        return None
    return RecordCopy(found.get("record"), found["dead"], size)


def read_copy(path: Path) -> RecordCopy | None:
    """Return the copy at the end of a file; None if it has none that counts, or is anything but a whole torch file.

    Parameters
    ----------
    path : Path
        A local file.

    Raises
    ------
    CannotRead
        The file cannot be opened.
    """
    with opened(path) as descriptor:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        with zip_archive.window(descriptor, found.st_size) as stream:
            lines = zip_archive.last_entries(stream, 2) if zip_archive.begins(stream) else []
            if len(lines) < 2:
                return None
            structure, copy = lines
            root = structure.name.removesuffix("/data.pkl")
            if f"{root}/data.pkl" != structure.name or f"{root}/{COPY_ENTRY}" != copy.name or not structure.crc:
                return None
            try:
                content = zip_archive.read_entry(stream, copy) if copy.size <= _LONGEST else b""
            except NotACheckpoint:
                return None
            return parsed(content, structure.crc, found.st_size) if copy.crc else None


def _checksum(crc: int) -> str:
    return f"{crc:08x}"
