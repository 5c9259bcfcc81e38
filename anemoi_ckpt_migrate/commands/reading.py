"""The commands that only read: current, heads, branches, show."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from anemoi_ckpt_migrate import planner, resolving, targets
from anemoi_ckpt_migrate.checkpoints import membership
from anemoi_ckpt_migrate.commands.arguments import StrPath
from anemoi_ckpt_migrate.commands.project import Project, config_of, opened
from anemoi_ckpt_migrate.commands.records import read_record, standing
from anemoi_ckpt_migrate.errors import (
    HistoryConflict,
    MigrateError,
    UnknownRecorded,
    UnknownTarget,
    UsageError,
)
from anemoi_ckpt_migrate.graph import Graph
from anemoi_ckpt_migrate.record import Applied, LogEntry, Record, Undo, to_data
from anemoi_ckpt_migrate.scripts import loader
from anemoi_ckpt_migrate.scripts.sources import source_of


@dataclass(frozen=True)
class Head:
    """A revision that nothing follows.

    Attributes
    ----------
    revision, name : str
        Which.
    labels : tuple of str
        Of its branch.
    final : bool
        Whether it is a barrier.
    path : str or None
        Its script, if there is one here.
    """

    revision: str
    name: str
    labels: tuple[str, ...]
    final: bool
    path: str | None = field(default=None, compare=False)

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"revision": self.revision, "name": self.name, "labels": list(self.labels), "final": self.final}


@dataclass(frozen=True)
class Current:
    """Where a checkpoint stands.

    Attributes
    ----------
    checkpoint : str
        The file.
    recorded : bool
        Whether it carries a record; without one it is at base, unless it is recognised.
    heads : tuple of Head
        The revisions that it is at.
    at_head : bool or None
        Whether those are the heads of the scripts here; None where there are no scripts.
    log : tuple of LogEntry
        What was done to it.
    warnings : tuple of str
        What the user should know.
    recognised : bool
        Whether it carries no record, and stands there by what it holds, or by what another tool noted in it.
    """

    checkpoint: str
    recorded: bool
    heads: tuple[Head, ...]
    at_head: bool | None
    log: tuple[LogEntry, ...]
    warnings: tuple[str, ...]
    recognised: bool = False

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "recorded": self.recorded,
            "recognised": self.recognised,
            "heads": [head.to_data() for head in self.heads],
            "at_head": self.at_head,
            "log": to_data(Record(log=self.log))["log"],
        }


@dataclass(frozen=True)
class Branch:
    """A branch that has a label.

    Attributes
    ----------
    label : str
        Its name.
    revisions : int
        How many revisions it has.
    heads : tuple of str
        Those of its revisions that nothing follows.
    """

    label: str
    revisions: int
    heads: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"label": self.label, "revisions": self.revisions, "heads": list(self.heads)}


@dataclass(frozen=True)
class BranchPoint:
    """A revision that several follow.

    Attributes
    ----------
    revision : Head
        Which.
    children : tuple of Head
        What follows it.
    """

    revision: Head
    children: tuple[Head, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**self.revision.to_data(), "children": [child.to_data() for child in self.children]}


@dataclass(frozen=True)
class Branches:
    """How the history branches.

    Attributes
    ----------
    labelled : tuple of Branch
        The branches that have a label.
    points : tuple of BranchPoint
        Where branches part.
    """

    labelled: tuple[Branch, ...]
    points: tuple[BranchPoint, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "branches": [branch.to_data() for branch in self.labelled],
            "points": [point.to_data() for point in self.points],
        }


@dataclass(frozen=True)
class Shown:
    """One revision, in full.

    Attributes
    ----------
    revision, name : str
        Which.
    parents, depends_on, labels : tuple of str
        What it follows, what must be applied first beside that, the labels of its branch.
    versions : dict of str to str
        What its metadata notes.
    final, reversible : bool
        Whether it is a barrier; whether it can be undone.
    path : str or None
        Its script; None for one that a checkpoint carries.
    checkpoint : str or None
        The checkpoint that carries it.
    pickled_by : str or None
        The Python whose pickled rollback the checkpoint carries: there that runs, elsewhere the source.
    source : str or None
        The script; None where a checkpoint carries none.
    replaces : tuple of str
        The revisions that a squashed one stands for.
    sets_up : bool
        Whether the script has a ``migrate_setup``.
    """

    revision: str
    name: str
    parents: tuple[str, ...]
    depends_on: tuple[str, ...]
    labels: tuple[str, ...]
    versions: dict[str, str]
    final: bool
    reversible: bool
    path: str | None
    checkpoint: str | None
    pickled_by: str | None
    source: str | None
    replaces: tuple[str, ...] = ()
    sets_up: bool = False

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def current(checkpoint: StrPath, *, project: Project | StrPath | None = None) -> Current:
    """Tell where a checkpoint stands. Works without a project too; no script is run.

    Only for a checkpoint without a record, the `recognise` of the project is run, as the commands that move it do.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project or path, optional
        Whose scripts to compare with; by default those of the current folder's project, if there is one.

    Raises
    ------
    MigrateError
        The checkpoint, or the configuration, cannot be read.
    """
    known, warnings, chain = _scripts(project)
    scripts, notes = None if known is None else known.graph, tuple[str, ...]()
    if known is None:
        found = read_record(checkpoint, chain)
    else:
        found, notes = standing(checkpoint, known)
    record, warnings = found or Record(), (*warnings, *notes)
    at, at_head = record.heads, None
    if scripts is not None:
        scripts = scripts.seen_from(entry.revision for entry in record.lineage)
        at = planner.heads_of(scripts, record)
        at_head = set(at) == set(scripts.heads) if len(scripts) else None
        contradictions = _contradictions(scripts, record)
        at_head = at_head and not contradictions
        warnings += (*loader.changed_since(scripts, record), *contradictions)
    part = membership(checkpoint)
    warnings += () if part is None else (str(part),)
    heads = tuple(_head_of(record, head, scripts) for head in at)
    recorded = found is not None and not notes
    return Current(os.fspath(checkpoint), recorded, heads, at_head, record.log, warnings, bool(notes))


def heads(*, project: Project | StrPath | None = None) -> list[Head]:
    """List the revisions that nothing follows.

    Raises
    ------
    ConfigurationError, FaultyScripts
        The project cannot be read.
    """
    graph = opened(project).graph
    return [_head(graph, head) for head in graph.heads]


def branches(*, project: Project | StrPath | None = None) -> Branches:
    """List the branches that have labels, and the revisions at which branches part.

    Raises
    ------
    ConfigurationError, FaultyScripts
        The project cannot be read.
    """
    graph = opened(project).graph
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


def show(revision: str, *, checkpoint: StrPath | None = None, project: Project | StrPath | None = None) -> Shown:
    """Show one revision, from its script or as a checkpoint carries it. Nothing is run.

    Parameters
    ----------
    revision : str
        A revision, as a target; with a checkpoint, a full or partial id or ``head``.
    checkpoint : path, optional
        Show what this checkpoint carries.
    project : Project or path, optional
        Where to look; not needed with a checkpoint.

    Raises
    ------
    MigrateError
        There is none, or project or checkpoint cannot be read.
    """
    target = targets.parse(revision)
    if checkpoint is not None:
        return _show_carried(target, checkpoint)
    found = opened(project)
    graph = found.graph.seen_from([revision])
    if target == targets.Named("head") and not len(graph):
        raise UsageError("there are no revisions to show yet; `ckpt-migrate revision NAME` makes one")
    script = graph[resolving.one(graph, target, found.config.package)]
    facts = (script.id, script.name, script.parents, script.depends_on, graph.labels_of(script.id))
    more = (dict(script.versions), script.final, script.reversible)
    replaces = tuple(part.id for part in script.replaces)
    return Shown(*facts, *more, script.path, None, None, source_of(script), replaces, script.sets_up)


def _show_carried(target: targets.Target, checkpoint: StrPath) -> Shown:
    record = read_record(checkpoint) or Record()
    ids = [entry.revision for entry in record.lineage]
    if isinstance(target, targets.Id):
        try:
            found = Graph().find(target.text, ids)
        except UnknownTarget as error:
            raise UnknownTarget(error.target, error.near, "history CKPT").about(checkpoint) from None
        except MigrateError as error:
            raise error.about(checkpoint) from None
    elif target == targets.Named("head"):
        if not record.heads:
            raise UsageError("the checkpoint records no revision").about(checkpoint)
        found = record.heads[0]
    else:
        raise UsageError("of what a checkpoint carries, head or a revision id can be shown")
    entry = _recorded(record, found)
    facts = (entry.revision, entry.name, entry.parents, entry.depends_on, ())
    more = (dict(entry.versions or {}), entry.final, entry.undo is not None)
    carried = (None, None) if entry.undo is None else (entry.undo.python, _source(entry.undo))
    return Shown(*facts, *more, None, os.fspath(checkpoint), *carried)


def _source(undo: Undo) -> str:
    """Return what a checkpoint carries, as a script would say it."""
    if undo.operations is None:
        return undo.source
    from anemoi_ckpt_migrate import op  # noqa: F401  (so that all kinds are known)
    from anemoi_ckpt_migrate.operations.base import from_data

    try:
        lines = [f"    op.{from_data(data)!r},\n" for data in undo.operations]
    except MigrateError as error:
        lines = [f"    # {error.sentence}\n"]
    ways_back = f"# What undoes it here:\noperations = [\n{''.join(lines)}]\n"
    return f"{undo.source}\n{ways_back}" if undo.source else ways_back


def _scripts(project: Project | StrPath | None) -> tuple[Project | None, tuple[str, ...], str | None]:
    """Return the scripts, however faulty, and their chain: `current` is about the checkpoint."""
    if isinstance(project, Project):
        return project, (), project.config.chain
    config = config_of(project)
    if config is None:
        return None, (), None
    revisions, faults = loader.read_folders(config.versions, config.recursive)
    if faults:
        return None, ("some scripts are faulty, so they are not looked at: `ckpt-migrate heads` says more",), ""
    return Project(config, Graph(revisions)), (), ""


def _contradictions(scripts: Graph, record: Record) -> tuple[str, ...]:
    try:
        planner.check_recorded(scripts, record)
    except HistoryConflict as conflict:
        return (conflict.sentence,)
    except UnknownRecorded:
        return ()  # it is shown anyway, and `upgrade` says more
    return ()


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
