"""A checkpoint file is opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from anemoi_ckpt_migrate.checkpoints.growing import whole_length
from anemoi_ckpt_migrate.checkpoints.publish import opened
from anemoi_ckpt_migrate.checkpoints.store import Checkpoint


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint file. Reads its table of contents and its pickle, no payload.

    Parameters
    ----------
    path : path
        The file.
    trusted : collection of str
        Modules whose classes are built for real where they can be imported.

    Raises
    ------
    CannotRead
        The file cannot be opened.
    NotACheckpoint
        It is none that can be read.
    """
    with opened(Path(path)) as descriptor:
        before = os.fstat(descriptor)
        length = whole_length(Path(os.path.realpath(path)), descriptor)
        yield Checkpoint(Path(path), descriptor, before, length, trusted)
