"""Read folders of scripts into a graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import ConfigurationError, Fault, FaultyScripts
from anemoi_ckpt_migrate.revisions import validate
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.scripts.parse import read_script
from anemoi_ckpt_migrate.scripts.source import signature_of, source_of
from anemoi_ckpt_migrate.util import gc_pause

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Applied, Record

MANY = 500
"""From this number of scripts on, only their heads are parsed; functions follow when they are needed."""


def load(folders: Sequence[Path], recursive: bool = False) -> Graph:
    """Read all scripts of some folders without running them.

    Raises
    ------
    FaultyScripts
        Scripts have faults; the error lists all of them.
    ConfigurationError
        A folder does not exist or cannot be read.
    """
    revisions, faults = read_folders(folders, recursive)
    if faults:
        raise FaultyScripts(faults)
    return Graph(revisions)


def read_folders(folders: Sequence[Path], recursive: bool = False) -> tuple[list[Revision], list[Fault]]:
    """Read all scripts of some folders, and return the revisions with all faults.

    Parameters
    ----------
    folders : sequence of Path
        The folders.
    recursive : bool
        Whether to include the folders below.

    Raises
    ------
    ConfigurationError
        A folder does not exist or cannot be read.
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
        # The file name of an unreadable script contains its id, so its children are not reported.
        faults += validate.faults(revisions, lambda rev: any(rev in left for left in unread))
    return revisions, faults


def is_unchanged(script: Revision, entry: Applied) -> bool:
    """Return whether a script still does the same as when it was applied to a checkpoint.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    # A script whose source equals the source in the record need not be parsed.
    known = entry.undo is not None and entry.undo.source == source_of(script)
    return known or signature_of(script) == entry.signature


def changed_since(scripts: Graph, record: Record) -> tuple[str, ...]:
    """Return warnings about applied revisions whose scripts have changed.

    Raises
    ------
    MigrationFailed
        A script cannot be read.
    """
    return tuple(
        f"the script of {entry.revision} ({entry.name}) has changed since it was applied: "
        f"{scripts[entry.revision].path} (`ckpt-migrate stamp` accepts it as it is)"
        for entry in record.lineage
        if entry.revision in scripts and not is_unchanged(scripts[entry.revision], entry)
    )


def _scripts(folders: Iterable[Path], recursive: bool) -> list[str]:
    """Return the paths of all scripts, each once, even if folders contain each other."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    for folder in folders:
        found |= dict.fromkeys(_below(os.path.abspath(folder), recursive, seen))
    return list(found)


def _below(folder: str, recursive: bool, seen: set[str]) -> Iterator[str]:
    """Yield the scripts in a folder. `seen` holds the folders visited, so that links form no cycle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except FileNotFoundError:
        way = "`ckpt-migrate init` creates it"
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
