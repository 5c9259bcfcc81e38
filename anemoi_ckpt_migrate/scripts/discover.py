"""Folders of scripts as a graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from anemoi_ckpt_migrate.errors import ConfigurationError, Fault, FaultyScripts
from anemoi_ckpt_migrate.record.record import Applied
from anemoi_ckpt_migrate.revisions import graph, validate
from anemoi_ckpt_migrate.scripts.parse import read_script
from anemoi_ckpt_migrate.scripts.source import signature_of, source_of
from anemoi_ckpt_migrate.util import gc_pause

MANY = 500
"""From how many scripts on only their heads are parsed, and their functions when they are needed."""


def load(folders: Sequence[Path], recursive: bool = False) -> graph.Graph:
    """Read all scripts of some folders; none is run.

    Raises
    ------
    FaultyScripts
        With everything that is wrong with any of them.
    ConfigurationError
        There is no such folder.
    """
    revisions, faults = read_folders(folders, recursive)
    if faults:
        raise FaultyScripts(faults)
    return graph.Graph(revisions)


def read_folders(folders: Sequence[Path], recursive: bool = False) -> tuple[list[graph.Revision], list[Fault]]:
    """Read all scripts of some folders, and all that is wrong with them.

    Parameters
    ----------
    folders : sequence of Path
        Where they lie.
    recursive : bool
        Whether also in the folders below.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """
    revisions, faults, unread = [], [], []
    with gc_pause.paused():
        paths = _scripts(folders, recursive)
        for path in paths:
            revision, wrong = read_script(path, whole=len(paths) < MANY)
            faults += wrong
            if revision is None:
                unread.append(os.path.basename(path))
            else:
                revisions.append(revision)
        # The id of a script that could not be read is part of its name; a child of it is not at fault.
        faults += validate.faults(revisions, lambda rev: any(rev in left for left in unread))
    return revisions, faults


def is_unchanged(script: graph.Revision, entry: Applied) -> bool:
    """Tell whether a script does what it did when a checkpoint had it applied.

    Raises
    ------
    MigrationFailed
        It cannot be read.
    """
    # What the record holds word for word need not be parsed to be known.
    known = entry.undo is not None and entry.undo.source == source_of(script)
    return known or signature_of(script) == entry.signature


def _scripts(folders: Iterable[Path], recursive: bool) -> list[str]:
    """Return the paths of all scripts, each once, whatever lies in whatever."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    for folder in folders:
        found |= dict.fromkeys(_below(os.path.abspath(folder), recursive, seen))
    return list(found)


def _below(folder: str, recursive: bool, seen: set[str]) -> Iterator[str]:
    """Give the scripts in a folder; `seen` are those that were looked at, so that no link leads around."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except FileNotFoundError:
        way = "`ckpt-migrate init` makes it"
        raise ConfigurationError(f"the folder of scripts {folder} does not exist; {way}") from None
    except OSError as error:
        raise ConfigurationError(f"the folder of scripts {folder} cannot be read ({error.strerror})") from error
    for entry in entries:
        if entry.name.startswith(("_", ".")):
            continue
        if entry.name.endswith(".py") and not entry.is_dir():
            yield entry.path
        elif recursive and entry.is_dir():
            yield from _below(entry.path, recursive, seen)
