"""The command that repairs a file after an interrupted in-place run: recover."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import storage
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors


@dataclass(frozen=True)
class Recovered:
    """The result of `recover`.

    Attributes
    ----------
    checkpoint : str
        The file.
    removed : int or None
        The number of bytes of an interrupted run that were cut off; None if no run was interrupted.
    """

    checkpoint: str
    removed: int | None

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {"checkpoint": self.checkpoint, "recovered": self.removed is not None, "removed": self.removed}


def recover(checkpoint: StrPath) -> Recovered:
    """Restore a checkpoint after an in-place run was interrupted.

    Every command that writes does this first. An intact file stays unchanged.

    Parameters
    ----------
    checkpoint : path
        The file.

    Raises
    ------
    MigrateError
        The run is still at work, the journal belongs to another file, or the system denies access.
    """
    with annotate_errors(checkpoint):
        with storage.opened(Path(checkpoint)):
            storage.check_whole(checkpoint)
        return Recovered(os.fspath(checkpoint), storage.recover(Path(checkpoint)))
