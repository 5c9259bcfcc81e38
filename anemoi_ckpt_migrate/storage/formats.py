"""Formats of checkpoints that other packages add."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint

GROUP = "ckpt_migrate.formats"
"""The group of entry points through which packages add formats. The value is a class without parameters."""


class Format(ABC):
    """A format of checkpoints. A package adds one by an entry point in the group ``ckpt_migrate.formats``.

    It is asked about files and folders that no built-in format knows.

    Examples
    --------
    >>> class Npz(Format):
    ...     def recognises(self, path):
    ...         return path.suffix == ".npz"
    ...
    ...     def open(self, path):
    ...         return open_npz(path)
    """

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Return whether a file or a folder is of this format; this should read little of it."""

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[Checkpoint]:
        """Return a context manager with the open checkpoint.

        Raises
        ------
        MigrateError
            It cannot be read.
        """


def find_format(path: Path) -> Format | None:
    """Return the format that another package adds for a path; None if there is none.

    Raises
    ------
    ConfigurationError
        A package's format cannot be made, or several recognise the path.
    """
    found = {name: each for name, each in _published().items() if each.recognises(path)}
    if len(found) > 1:
        raise ConfigurationError(
            f"the formats {' and '.join(sorted(found))} both recognise {path}; uninstall one of them"
        )
    return next(iter(found.values()), None)


def any_formats() -> bool:
    """Return whether another package adds a format."""
    return bool(_published())


@functools.cache
def _published() -> dict[str, Format]:
    from importlib.metadata import entry_points

    found: dict[str, Format] = {}
    for point in entry_points(group=GROUP):
        try:
            made = point.load()()
        except Exception as error:  # the code is the package's
            raise ConfigurationError(
                f"the format {point.name} ({point.value}) cannot be made: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(made, Format):
            raise ConfigurationError(f"the format {point.name} ({point.value}) is not a Format")
        found[point.name] = made
    return found
