"""Shared by tests: in place."""

from __future__ import annotations

from pathlib import Path

from anemoi_ckpt_migrate.storage import in_place, open_checkpoint


def interrupted(checkpoint: Path, junk: bytes = b"half written") -> Path:
    """Leave a checkpoint as a run does that was killed in the middle of writing in place."""
    with open_checkpoint(checkpoint) as file:
        mark = file._mark()
    journal = in_place.journal_of(checkpoint)
    journal.write_bytes(mark.to_json())
    with checkpoint.open("ab") as file:
        file.write(junk)
    return journal
