"""A folder of scripts as a graph."""

from __future__ import annotations

import os
from pathlib import Path

from anemoi_ckpt_migrate import graph
from anemoi_ckpt_migrate.errors import ConfigurationError, Fault, FaultyScripts
from anemoi_ckpt_migrate.scripts.reader import read_script


def load(folder: Path) -> graph.Graph:
    """Read all scripts of a folder; none is run.

    Raises
    ------
    FaultyScripts
        With everything that is wrong with any of them.
    ConfigurationError
        There is no such folder.
    """
    revisions, faults = read_folder(folder)
    if faults:
        raise FaultyScripts(faults)
    return graph.Graph(revisions)


def read_folder(folder: Path) -> tuple[list[graph.Revision], list[Fault]]:
    """Read all scripts of a folder, and all that is wrong with them.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        way = "`ckpt-migrate init` makes it"
        raise ConfigurationError(f"the folder of scripts {folder} does not exist; {way}") from None
    except OSError as error:
        raise ConfigurationError(f"the folder of scripts {folder} cannot be read ({error.strerror})") from error
    revisions, faults, unread = [], [], []
    for name in names:
        if name.startswith(("_", ".")) or not name.endswith(".py"):
            continue
        revision, wrong = read_script(folder / name)
        faults += wrong
        if revision is None:
            unread.append(name)
        else:
            revisions.append(revision)
    # The id of a script that could not be read starts its name; a child of it is not at fault.
    return revisions, faults + graph.faults(revisions, lambda rev: any(left.startswith(rev) for left in unread))
