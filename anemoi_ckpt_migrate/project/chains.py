"""Published chains: revisions that an installed package ships for its own checkpoints.

A chain is a folder of scripts in an installed package, or a folder with ``ckpt-migrate.toml``, like a project. The
package declares it by an entry point of the group ``ckpt_migrate.chains``: its name is that of the chain, its value the
(sub)package that is the folder.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from anemoi_ckpt_migrate.errors import ConfigurationError, UsageError
from anemoi_ckpt_migrate.project.config import OWN_FILE, Config, in_folder
from anemoi_ckpt_migrate.util.dataclass import replace

GROUP = "ckpt_migrate.chains"


def chains() -> dict[str, str]:
    """Return the installed chains: the module of each, by name.

    Raises
    ------
    ConfigurationError
        Two packages have chains of the same name.
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
    """Return the configuration of a chain. Its (sub)package is not imported, only the packages around it.

    Raises
    ------
    UsageError
        No chain has that name.
    ConfigurationError
        The entry point of the package is wrong, or the configuration in the folder.
    """
    known = chains()
    if name not in known:
        there = f"; the chains are {', '.join(sorted(known))}" if known else ""
        raise UsageError(f"no installed package has a chain {name!r}{there}")
    module = known[name]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # raised by a package around it as it is imported
        raise ConfigurationError(f"the chain {name} cannot be loaded: {module}: {error}") from error
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise ConfigurationError(f"the chain {name} should be in {module}, which is not an installed package")
    folder = Path(folders[0])
    return replace(in_folder(folder) or Config(folder / OWN_FILE, (folder,), None), chain=name)
