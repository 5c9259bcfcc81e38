"""A folder of scripts as a graph."""

from __future__ import annotations

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
    if not folder.is_dir():
        raise ConfigurationError(f"the folder of scripts {folder} does not exist; `ckpt-migrate init` makes it")
    revisions, faults, unread = [], [], []
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith(("_", ".")):
            continue
        revision, wrong = read_script(path)
        faults += wrong
        if revision is None:
            unread.append(path.name)
        else:
            revisions.append(revision)
    # The id of a script that could not be read starts its name; a child of it is not at fault.
    return revisions, faults + graph.faults(revisions, lambda rev: any(name.startswith(rev) for name in unread))
