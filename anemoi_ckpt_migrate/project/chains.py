"""Published chains: revisions that an installed package brings for its own checkpoints, by entry point.

A chain is a folder of scripts in an installed package, or one with ``ckpt-migrate.toml``, as a project is. The package
says so in its metadata: an entry point of the group ``ckpt_migrate.chains``, named as the chain, whose value is the
(sub)package that the folder is.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from anemoi_ckpt_migrate.errors import ConfigurationError, UsageError
from anemoi_ckpt_migrate.project.config import OWN_FILE, Config, in_folder

GROUP = "ckpt_migrate.chains"


def chains() -> dict[str, str]:
    """Return the names of the chains that are installed, and the module of each.

    Raises
    ------
    ConfigurationError
        Two packages bring chains of one name.
    """
    from importlib.metadata import entry_points

    found: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        if found.setdefault(point.name, point.value) != point.value:
            raise ConfigurationError(
                f"two chains are called {point.name}, in {found[point.name]} and {point.value}: uninstall one of them"
            )
    return found


def find_chain(name: str) -> Config:
    """Return the configuration of a chain. The package that brings it is not imported, only what it lies in.

    Raises
    ------
    UsageError
        No chain has that name.
    ConfigurationError
        What the package says of it is wrong.
    """
    known = chains()
    if name not in known:
        there = f"; there are {', '.join(sorted(known))}" if known else ""
        raise UsageError(f"no installed package brings a chain {name!r}{there}")
    module = known[name]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # whatever the package around it does when it is imported
        raise ConfigurationError(f"the chain {name} cannot be found: {module}: {error}") from error
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise ConfigurationError(f"the chain {name} is said to be in {module}, which is no installed package")
    folder = Path(folders[0])
    return replace(in_folder(folder) or Config(folder / OWN_FILE, (folder,), None), chain=name)
