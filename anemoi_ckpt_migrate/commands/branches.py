"""Show heads, branches and branch points; write the head file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.scripts import head_file
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Applied, Record
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Head:
    """A revision that nothing follows.

    Attributes
    ----------
    revision, name : str
        Its id and name.
    labels : tuple of str
        The labels of its branch.
    final : bool
        Whether it is a barrier.
    path : str or None
        Its script; None if this project has none.
    """

    revision: str
    name: str
    labels: tuple[str, ...]
    final: bool
    path: str | None = field(default=None, compare=False)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {"revision": self.revision, "name": self.name, "labels": list(self.labels), "final": self.final}


@dataclass(frozen=True)
class Branch:
    """A branch with a label.

    Attributes
    ----------
    label : str
        Its name.
    revisions : int
        The number of its revisions.
    heads : tuple of str
        Its heads.
    """

    label: str
    revisions: int
    heads: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {"label": self.label, "revisions": self.revisions, "heads": list(self.heads)}


@dataclass(frozen=True)
class BranchPoint:
    """A revision with several children.

    Attributes
    ----------
    revision : Head
        The revision.
    children : tuple of Head
        The revisions that follow it.
    """

    revision: Head
    children: tuple[Head, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {**self.revision.to_data(), "children": [child.to_data() for child in self.children]}


@dataclass(frozen=True)
class Branches:
    """The branches of the history.

    Attributes
    ----------
    labelled : tuple of Branch
        The branches with a label.
    points : tuple of BranchPoint
        The revisions where branches part.
    """

    labelled: tuple[Branch, ...]
    points: tuple[BranchPoint, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "branches": [branch.to_data() for branch in self.labelled],
            "points": [point.to_data() for point in self.points],
        }


def heads(*, project: Project | StrPath | None = None, chain: str | None = None) -> list[Head]:
    """List the heads: the revisions that no other follows.

    Parameters
    ----------
    project : Project or path, optional
        The project; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    ConfigurationError, FaultyScripts
        The project or the chain cannot be read.
    """
    graph = resolve_project(project, chain).graph
    return [_head(graph, head) for head in graph.heads]


def branches(*, project: Project | StrPath | None = None, chain: str | None = None) -> Branches:
    """List the branches with labels, and the revisions where branches part.

    The parameters are those of `heads`.

    Raises
    ------
    ConfigurationError, FaultyScripts
        The project or the chain cannot be read.
    """
    graph = resolve_project(project, chain).graph
    ends: dict[str, list[str]] = {label: [] for label in graph.branch_sizes}
    for head in graph.heads:
        for label in graph.labels_of(head):
            ends[label].append(head)
    labelled = (Branch(label, size, tuple(ends[label])) for label, size in graph.branch_sizes.items())
    points = (
        BranchPoint(_head(graph, revision.id), tuple(_head(graph, child) for child in graph.children[revision.id]))
        for revision in graph
        if len(graph.children[revision.id]) > 1
    )
    return Branches(tuple(labelled), tuple(points))


def _head(graph: Graph, revision: str) -> Head:
    found = graph[revision]
    return Head(found.id, found.name, graph.labels_of(revision), found.final, found.path)


def _head_of(record: Record, revision: str, scripts: Graph | None) -> Head:
    if scripts is not None and revision in scripts:
        return _head(scripts, revision)
    entry = _recorded(record, revision)
    return Head(revision, entry.name, (), entry.final)


def _recorded(record: Record, revision: str) -> Applied:
    return next(entry for entry in record.lineage if entry.revision == revision)


def write_head_file(*, project: Project | StrPath | None = None) -> str:
    """Write the head file, which names the heads, and return its path.

    Raises
    ------
    UsageError
        The project has no head file.
    MigrateError
        The project cannot be read, or the file cannot be written.
    """
    found = resolve_project(project)
    if not found.config.head_file:
        raise UsageError(f"the project has no head file; set `head_file = true` in {found.config.path}")
    return os.fspath(head_file.write(found.config.versions[0], found.graph))
