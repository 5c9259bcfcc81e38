"""What arguments of commands have in common; light, since commands that only read import it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, MigrateError

StrPath = str | os.PathLike[str]
Progress = Callable[[int], None]


def checked_output(output: StrPath | None) -> Path | None:
    """Return where to write, whatever a script makes the current folder; looked at before anything is run.

    Raises
    ------
    CannotWrite
        Something stands there, there is no such folder, or it is a URL.
    """
    if output is None:
        return None
    from anemoi_ckpt_migrate.storage.foreign_formats import is_url  # only commands that write need it

    if is_url(os.fspath(output)):
        raise CannotWrite(f"{output} is a URL; write to a file of this machine, and upload that")
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
