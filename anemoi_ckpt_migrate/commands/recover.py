"""The command that repairs a checkpoint after an interrupted run: recover."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import storage
from anemoi_ckpt_migrate.storage import recover as recovery
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.url import url_of
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class Recovered:
    """The result of `recover`.

    Attributes
    ----------
    checkpoint : str
        The file.
    removed : int or None
        The number of bytes of an interrupted run that were removed; None if no run was interrupted.
    completed : bool
        Whether the run was completed instead of undone: only the old folder was left to put away.
    """

    checkpoint: str
    removed: int | None
    completed: bool = False

    @property
    def changes(self) -> bool:
        """Whether a run was interrupted."""
        return self.removed is not None

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "recovered": self.removed is not None,
            "removed": self.removed,
            "completed": self.completed,
        }


def recover(checkpoint: StrPath) -> Recovered:
    """Restore a checkpoint after a run was interrupted that wrote in place or exchanged a folder.

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
        # A missing file, or none that can be read, is refused.
        if url_of(checkpoint) is not None:
            with storage.open_checkpoint(checkpoint):
                pass
        elif not recovery.is_folder(Path(checkpoint)):
            with storage.opened(Path(checkpoint)):
                pass
        storage.check_whole(checkpoint)
        found = recovery.recover(checkpoint)
        return Recovered(os.fspath(checkpoint), found and found.removed, found is not None and found.completed)
