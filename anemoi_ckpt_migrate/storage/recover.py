"""Restore a checkpoint after a run that wrote it was interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from anemoi_ckpt_migrate.storage import in_place
from anemoi_ckpt_migrate.storage.folder_names import folder_of_index
from anemoi_ckpt_migrate.storage.url import url_of


class Recovery(NamedTuple):
    """The end of an interrupted run.

    Attributes
    ----------
    removed : int
        The number of bytes of the run that were removed.
    completed : bool
        Whether the run was completed instead: it had only to put the old folder away.
    """

    removed: int
    completed: bool = False


def _has_exchanged(target: Path) -> bool:
    """Return whether the exchange of a folder was interrupted."""
    if not os.path.lexists(in_place.journal_of(target)):
        return False
    from anemoi_ckpt_migrate.storage import folder_exchange  # only a journal, or a folder that is written, needs it

    return folder_exchange.has_journal(target)


def is_folder(path: Path) -> bool:
    """Return whether a path means a folder, or one whose exchange was interrupted."""
    try:
        target = Path(os.path.realpath(folder_of_index(path) or path))
    except ValueError:
        return False
    return target.is_dir() or _has_exchanged(target)


def recover(path: str | os.PathLike[str]) -> Recovery | None:
    """Undo or complete an interrupted run; return None if no run was interrupted.

    Parameters
    ----------
    path : path
        The checkpoint. An object of a store is replaced at once, so nothing of it is ever left half done.

    Raises
    ------
    Busy
        The run is still at work.
    ForeignJournal
        The journal does not belong to the checkpoint.
    CannotWrite
        The system refused.
    """
    if url_of(path) is not None:
        return None
    try:
        target = Path(os.path.realpath(folder_of_index(Path(path)) or path))
    except ValueError:  # not a file name; opening it will report that
        return None
    if _has_exchanged(target):
        from anemoi_ckpt_migrate.storage import folder_exchange

        done = folder_exchange.recover(target)
        return Recovery(done.removed, done.exchanged)
    removed = None if target.is_dir() else in_place.recover(target)
    return None if removed is None else Recovery(removed)
