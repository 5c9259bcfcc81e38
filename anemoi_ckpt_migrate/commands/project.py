"""A project, and the commands that make one and its scripts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anemoi_ckpt_migrate.config import Config, Laid, find_config, lay_out, read_template
from anemoi_ckpt_migrate.errors import CannotWrite, UsageError
from anemoi_ckpt_migrate.graph import Graph
from anemoi_ckpt_migrate.scripts import loader, writer

StrPath = str | os.PathLike[str]
SCRIPT_FORMAT = "1.0.0"


@dataclass(frozen=True)
class Project:
    """A configuration and the revisions that it leads to.

    Attributes
    ----------
    config : Config
        The configuration.
    graph : Graph
        The revisions.
    """

    config: Config
    graph: Graph


@dataclass(frozen=True)
class NewRevision:
    """A script that was made.

    Attributes
    ----------
    revision : str
        Its id.
    path : str
        The file.
    parents : tuple of str
        What it follows.
    warnings : tuple of str
        What the author should know.
    """

    revision: str
    path: str
    parents: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def open_project(config: StrPath | None = None) -> Project:
    """Find a project and read its scripts; none is run.

    Parameters
    ----------
    config : path, optional
        The configuration file or its folder; by default the one of the current folder or of one above.

    Raises
    ------
    ConfigurationError
        There is none, or it is wrong.
    FaultyScripts
        With everything that is wrong with any script.
    """
    found = find_config(None if config is None else Path(config))
    return Project(found, loader.load(found.versions))


def init(folder: StrPath = ".", package: str | None = None) -> list[Laid]:
    """Make a folder a project. What is there already is kept.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    package : str, optional
        The package whose version the scripts are to note; by default the one that ``pyproject.toml`` describes.

    Raises
    ------
    ConfigurationError
        What is there is wrong.
    CannotWrite
        The folder does not take the files.
    """
    return lay_out(Path(folder), package)


def revision(
    name: str, *, final: bool = False, rev_id: str | None = None, project: Project | StrPath | None = None
) -> NewRevision:
    """Make a new script that follows the head.

    Parameters
    ----------
    name : str
        What changes, in a line.
    final : bool
        Make a barrier.
    rev_id : str, optional
        The id; by default a new one.
    project : Project or path, optional
        Where; by default that of the current folder.

    Raises
    ------
    UsageError
        The name or the id will not do, or there are several heads to follow.
    ConfigurationError, FaultyScripts, CannotWrite
        The project cannot be read, or does not take the script.
    """
    opened = project if isinstance(project, Project) else open_project(project)
    writer.check_name(name)
    if rev_id is not None:
        writer.check_id(rev_id)
        if rev_id in opened.graph:
            raise CannotWrite(f"revision {rev_id} exists already: {opened.graph[rev_id].path}")
    heads = opened.graph.heads
    if len(heads) > 1:
        tuple_of_heads = ", ".join(f'"{head}"' for head in heads)
        raise UsageError(
            f"there are {len(heads)} heads: {', '.join(heads)}; write by hand a script that merges them "
            f"(down_revision = ({tuple_of_heads})), then make the new one"
        )
    versions, warnings = _versions(opened.config.package)
    chosen = rev_id or writer.new_id()
    config = opened.config
    template = read_template(config.template)
    path = writer.write_script(config.versions, template, chosen, name, heads, versions, final)
    return NewRevision(chosen, os.fspath(path), heads, warnings)


def _versions(package: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    from importlib import metadata

    versions = {"migration": SCRIPT_FORMAT}
    if package is None:
        return versions, ()
    try:
        versions[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
        return versions, (f"{package} is not installed here, so the script notes no version of it",)
    return versions, ()
