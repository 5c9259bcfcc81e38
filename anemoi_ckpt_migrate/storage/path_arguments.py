"""Helpers for path arguments of commands; light, because read-only commands import it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotWrite, MigrateError, denied

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.url import Location

StrPath = str | os.PathLike[str]
Progress = Callable[[int], None]


def checked_output(output: StrPath | None) -> Location | None:
    """Return the output as an absolute path or a URL, checked before any script runs and changes the current folder.

    Raises
    ------
    CannotWrite
        The path exists already, its folder does not exist, or it is a URL that cannot be written.
    """
    if output is None:
        return None
    from anemoi_ckpt_migrate.storage.foreign_formats import is_url  # only writing commands need it
    from anemoi_ckpt_migrate.storage.url import url_of

    url = url_of(output)
    if url is not None:
        from anemoi_ckpt_migrate.storage.remote.new_object import check_new

        check_new(url)
        return url
    if is_url(os.fspath(output)):
        raise CannotWrite(f"{output} is a URL of a kind that is not written; write to a local file, and upload that")
    path = os.path.abspath(output)
    if os.path.lexists(path):
        raise CannotWrite(f"{output} exists already; remove it or write elsewhere")
    if not os.path.isdir(os.path.dirname(path)):
        raise CannotWrite(f"the folder of {output} does not exist; create it or write elsewhere")
    return Path(path)


@contextmanager
def annotate_errors(checkpoint: StrPath) -> Iterator[None]:
    """Make every error name the checkpoint it is about."""
    try:
        yield
    except MigrateError as error:
        raise error.about(checkpoint) from error.__cause__
    except ImportError as error:
        raise denied(error).about(checkpoint) from error
