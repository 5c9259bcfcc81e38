"""The commands that change how a checkpoint lies on the disk, not what it holds: recover, compact."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import storage
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, naming


@dataclass(frozen=True)
class Recovered:
    """What `recover` did.

    Attributes
    ----------
    checkpoint : str
        The file.
    removed : int or None
        How many bytes of an interrupted run were cut off; None if none was interrupted.
    """

    checkpoint: str
    removed: int | None

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"checkpoint": self.checkpoint, "recovered": self.removed is not None, "removed": self.removed}


def recover(checkpoint: StrPath) -> Recovered:
    """Put a checkpoint right on which a run was interrupted while it wrote in place: the old file is back.

    Any command that writes does so first. A file that nothing happened to is left as it is.

    Parameters
    ----------
    checkpoint : path
        The file.

    Raises
    ------
    MigrateError
        The run is still at work; the journal belongs to another file; the system does not let us.
    """
    with naming(checkpoint):
        with storage.opened(Path(checkpoint)):
            storage.check_whole(checkpoint)
        return Recovered(os.fspath(checkpoint), storage.recover(Path(checkpoint)))
