"""The copy of a record that stands beside the tree: the part that tells where a checkpoint is, as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedRecord, NewerRecord, RecordCopyDiffers
from anemoi_ckpt_migrate.record.record import Record, from_data, to_data
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage import Checkpoint


def spelled(record: Record) -> bytes:
    """Return the copy of a record: heads, revisions without their rollbacks, and the log."""
    return json.dumps(to_data(_short(record))).encode()


def parsed(copy: Any) -> Record | None:
    """Return the record in a copy; None if it cannot be read, so that the tree has to be."""
    try:
        return None if copy is None else from_data(copy)
    except (DamagedRecord, NewerRecord):
        return None


def differs(file: Checkpoint, record: Record) -> bool:
    """Return whether the copy in a file tells something else than its record, which is the truth."""
    copy = parsed(file.record_copy)
    return copy is not None and copy != _short(record)


def check(file: Checkpoint, record: Record) -> None:
    """Check that the copy in a file tells what its record tells.

    Raises
    ------
    RecordCopyDiffers
        It does not: `current` has shown something else than what is true.
    """
    if differs(file, record):
        raise RecordCopyDiffers(file.path)


def _short(record: Record) -> Record:
    whole = record.of_all()
    lineage = tuple(replace(entry, undo=None) for entry in whole.lineage)
    return Record(whole.heads, lineage, whole.log)
