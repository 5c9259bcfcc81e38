"""A project, and the command that makes one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import NoConfiguration, UsageError
from anemoi_ckpt_migrate.project.config import Config, find_config
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.scripts import discover
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.scaffold import CreatedPath
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Project:
    """A configuration and the revisions in its folders.

    Attributes
    ----------
    config : Config
        The configuration.
    graph : Graph
        The revisions.
    """

    config: Config
    graph: Graph


def open_project(config: StrPath | None = None) -> Project:
    """Find a project and read its scripts, without running any.

    Parameters
    ----------
    config : path, optional
        The configuration file or its folder; by default that of the current folder or of one above.

    Raises
    ------
    ConfigurationError
        There is no configuration, or it is wrong.
    FaultyScripts
        Some scripts are faulty; the error lists all faults.
    """
    found = find_config(None if config is None else Path(config))
    return Project(found, discover.load(found.versions, found.recursive))


def open_chain(name: str) -> Project:
    """Find a chain of an installed package and read its scripts, without running any.

    Raises
    ------
    UsageError
        No chain has that name.
    ConfigurationError, FaultyScripts
        The chain or its scripts are wrong.
    """
    from anemoi_ckpt_migrate.project.chains import find_chain

    config = find_chain(name)
    return Project(config, discover.load(config.versions, config.recursive))


def config_of(project: Project | StrPath | None, chain: str | None = None) -> Config | None:
    """Return the configuration for a command's arguments; None if none are given and there is no configuration.

    Raises
    ------
    ConfigurationError
        It is wrong, or not at the given path.
    UsageError
        Both are given, or no chain has that name.
    """
    project = project_or_chain(project, chain)
    if isinstance(project, Project):
        return project.config
    try:
        return find_config(None if project is None else Path(project))
    except NoConfiguration:
        if project is not None:
            raise
        return None


def resolve_project(project: Project | StrPath | None, chain: str | None = None) -> Project:
    """Return the project or the chain for a command's arguments.

    Raises
    ------
    MigrateError
        As for `open_project` and `open_chain`; or both are given.
    """
    found = project_or_chain(project, chain)
    return found if isinstance(found, Project) else open_project(found)


def project_or_chain(project: Project | StrPath | None, chain: str | None) -> Project | StrPath | None:
    """Return the argument `project`, or the chain of that name in its place.

    Raises
    ------
    UsageError
        Both are given, or no chain has that name.
    ConfigurationError, FaultyScripts
        The chain or its scripts are wrong.
    """
    if chain is None:
        return project
    if project is not None:
        raise UsageError("a chain has its own configuration: give either `project` or `chain`")
    return open_chain(chain)


def opened_all(project: Project | StrPath | None, chain: str | Iterable[str]) -> tuple[Project, ...]:
    """Return the project and the chains for arguments; without any, the current folder's project.

    Raises
    ------
    MigrateError
        As for `open_project` and `open_chain`.
    """
    chains = [open_chain(name) for name in ([chain] if isinstance(chain, str) else chain)]
    own = [resolve_project(project)] if project is not None or not chains else []
    return tuple({found.config.chain: found for found in (*own, *chains)}.values())


def planned_project(folder: StrPath = ".") -> Project:
    """Return the project that `init` would make of a folder without one; writes nothing."""
    from anemoi_ckpt_migrate.project.scaffold import config_of_new

    config = config_of_new(Path(folder).absolute())
    return Project(config, Graph())


def init(folder: StrPath = ".", package: str | None = None) -> list[CreatedPath]:
    """Make a folder a project. Existing files are kept.

    Parameters
    ----------
    folder : path
        The folder; created if it does not exist.
    package : str, optional
        The package whose version scripts note; by default the one that ``pyproject.toml`` describes.

    Raises
    ------
    ConfigurationError
        The existing configuration is wrong.
    CannotWrite
        The files cannot be written.
    """
    from anemoi_ckpt_migrate.project.scaffold import lay_out

    return lay_out(Path(folder), package)
