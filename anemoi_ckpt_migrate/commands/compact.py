"""Shrink a checkpoint that was changed in place."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import storage
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output, naming


@dataclass(frozen=True)
class Compacted:
    """What `compact` did.

    Attributes
    ----------
    checkpoint : str
        The file.
    before, after : int
        Its length, in bytes.
    written, backup : str or None
        The new file, and where the old one is kept; None if there was nothing to gain.
    """

    checkpoint: str
    before: int
    after: int
    written: str | None
    backup: str | None

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self)


def compact(
    checkpoint: StrPath,
    *,
    output: StrPath | None = None,
    backup: bool = True,
    verify: bool = False,
    progress: Progress | None = None,
) -> Compacted:
    """Write a checkpoint anew without the bytes that no record uses: what in-place changes left behind.

    What lies in these bytes, the way back to what the file was, goes with them; rollbacks stay.

    Parameters
    ----------
    checkpoint : path
        The file.
    output : path, optional
        Write there, and leave the checkpoint as it is.
    backup : bool
        Keep the old file beside the new one.
    verify : bool
        Check the CRC of all that the file holds before anything is done.
    progress : callable, optional
        Told how many bytes were copied, from time to time.

    Raises
    ------
    MigrateError
        Nothing was changed.
    """
    path = checked_output(output)
    with naming(checkpoint):
        storage.check_whole(checkpoint)
        if output is None:
            storage.recover(Path(checkpoint))
        with open_checkpoint(checkpoint) as file:
            if verify:
                file.verify(progress)
            before = file.length
            if output is None and not file.dead:
                return Compacted(os.fspath(checkpoint), before, before, None, None)
            written = file.rewrite(path, backup, progress)
        backup_path = None if written.backup is None else os.fspath(written.backup)
        after = os.path.getsize(written.path)
        return Compacted(os.fspath(checkpoint), before, after, os.fspath(written.path), backup_path)
