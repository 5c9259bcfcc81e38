"""What commands that write have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anemoi_ckpt_migrate.commands.project import StrPath
from anemoi_ckpt_migrate.errors import CannotWrite, MigrateError, UsageError

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Options:
    """How to write.

    Attributes
    ----------
    output : Path or None
        Write there, and leave the checkpoint as it is.
    backup : bool
        Keep the old file.
    in_place : bool
        Write what is new at the end of the file, and move nothing.
    verify : bool
        Check all that the file holds before anything is done.
    dry_run : bool
        Only plan.
    progress : callable or None
        Told how many bytes were copied, from time to time.
    """

    output: Path | None = None
    backup: bool = True
    in_place: bool = False
    verify: bool = False
    dry_run: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.in_place and self.output is not None:
            raise UsageError("in place means in the checkpoint itself, and --output elsewhere: give one of them")


def checked_output(output: StrPath | None) -> Path | None:
    """Return where to write, whatever a script makes the current folder; looked at before anything is run.

    Raises
    ------
    CannotWrite
        Something stands there, or there is no such folder.
    """
    if output is None:
        return None
    path = os.path.abspath(output)
    if os.path.lexists(path):
        raise CannotWrite(f"{output} exists already; remove it or write elsewhere")
    if not os.path.isdir(os.path.dirname(path)):
        raise CannotWrite(f"the folder of {output} does not exist; make it or write elsewhere")
    return Path(path)


@contextmanager
def naming(checkpoint: StrPath) -> Iterator[None]:
    """Have whatever goes wrong say which checkpoint it is about."""
    try:
        yield
    except MigrateError as error:
        raise error.about(checkpoint) from error.__cause__
