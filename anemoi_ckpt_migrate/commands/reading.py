"""The commands that only read: current, history, heads, show."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import planner, recorder, targets
from anemoi_ckpt_migrate.checkpoints import open_checkpoint
from anemoi_ckpt_migrate.commands.project import Project, StrPath, open_project
from anemoi_ckpt_migrate.config import find_config
from anemoi_ckpt_migrate.errors import MigrateError, NoConfiguration, UsageError
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.record import Applied, LogEntry, Record, to_data
from anemoi_ckpt_migrate.scripts import loader
from anemoi_ckpt_migrate.scripts.functions import read_source


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
    """

    revision: str
    name: str
    labels: tuple[str, ...]
    final: bool

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**asdict(self), "labels": list(self.labels)}


@dataclass(frozen=True)
class Current:
    """Where a checkpoint stands.

    Attributes
    ----------
    checkpoint : str
        The file.
    recorded : bool
        Whether it carries a record; without one it is at base.
    heads : tuple of Head
        The revisions that it is at.
    at_head : bool or None
        Whether those are the heads of the scripts here; None where there are no scripts.
    log : tuple of LogEntry
        What was done to it.
    warnings : tuple of str
        What the user should know.
    """

    checkpoint: str
    recorded: bool
    heads: tuple[Head, ...]
    at_head: bool | None
    log: tuple[LogEntry, ...]
    warnings: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "recorded": self.recorded,
            "heads": [head.to_data() for head in self.heads],
            "at_head": self.at_head,
            "log": to_data(Record(log=self.log))["log"],
        }


@dataclass(frozen=True)
class HistoryEntry:
    """A line of history.

    Attributes
    ----------
    revision, name : str
        Which.
    parents : tuple of str
        What it follows.
    head, final, reversible : bool
        Whether nothing follows it, it is a barrier, it can be undone.
    known : bool
        Whether there is a script for it here.
    applied : bool or None
        Whether the checkpoint has it; None where none was asked about.
    """

    revision: str
    name: str
    parents: tuple[str, ...]
    head: bool
    final: bool
    reversible: bool
    known: bool = True
    applied: bool | None = None

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**asdict(self), "parents": list(self.parents)}


@dataclass(frozen=True)
class History:
    """All revisions, newest first.

    Attributes
    ----------
    entries : tuple of HistoryEntry
        In order.
    warnings : tuple of str
        What the user should know.
    """

    entries: tuple[HistoryEntry, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """One revision, in full.

    Attributes
    ----------
    revision, name : str
        Which.
    parents : tuple of str
        What it follows.
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
    """

    revision: str
    name: str
    parents: tuple[str, ...]
    versions: dict[str, str]
    final: bool
    reversible: bool
    path: str | None
    checkpoint: str | None
    pickled_by: str | None
    source: str | None

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**asdict(self), "parents": list(self.parents)}


def current(checkpoint: StrPath, *, project: Project | StrPath | None = None) -> Current:
    """Tell where a checkpoint stands. Works without a project too; no script is run.

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
    record, recorded = _record(checkpoint)
    heads = tuple(_head_of(record, head) for head in record.heads)
    scripts, warnings = _scripts(project)
    at_head = None
    if scripts is not None:
        at_head = set(record.heads) == set(scripts.heads) if len(scripts) else None
        warnings += planner.changed_since(scripts, record)
    return Current(os.fspath(checkpoint), recorded, heads, at_head, record.log, warnings)


def heads(*, project: Project | StrPath | None = None) -> list[Head]:
    """List the revisions that nothing follows.

    Raises
    ------
    ConfigurationError, FaultyScripts
        The project cannot be read.
    """
    graph = _graph(project)
    return [Head(found.id, found.name, found.labels, found.final) for found in map(graph.__getitem__, graph.heads)]


def history(checkpoint: StrPath | None = None, *, project: Project | StrPath | None = None) -> History:
    """List all revisions, newest first; with a checkpoint, what it has of them.

    Raises
    ------
    MigrateError
        The project, or the checkpoint, cannot be read.
    """
    graph = _graph(project)
    record = None if checkpoint is None else _record(checkpoint)[0]
    applied = set() if record is None else planner.applied_revisions(graph, record)
    entries = [
        _entry(graph[rev], rev in graph.heads, None if record is None else rev in applied)
        for rev in reversed(graph.order(revision.id for revision in graph))
    ]
    if record is None:
        return History(tuple(entries))
    foreign = [_foreign(entry) for entry in reversed(record.lineage) if entry.revision not in graph]
    return History((*foreign, *entries), planner.changed_since(graph, record))


def show(revision: str, *, checkpoint: StrPath | None = None, project: Project | StrPath | None = None) -> Shown:
    """Show one revision, from its script or as a checkpoint carries it. Nothing is run.

    Parameters
    ----------
    revision : str
        A full or partial id, or ``head``.
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
    if not isinstance(target, targets.Id) and target != targets.Named("head"):
        raise UsageError(f"show takes a revision id or head, not {revision!r}")
    if checkpoint is not None:
        return _show_carried(target, checkpoint)
    graph = _graph(project)
    found = planner.resolve(graph, target)
    if not found:
        raise UsageError("there are no revisions to show yet; `ckpt-migrate revision NAME` makes one")
    script = graph[found[0]]
    source = read_source(script.path)
    facts = (script.id, script.name, script.parents, dict(script.versions), script.final, script.reversible)
    return Shown(*facts, script.path, None, None, source)


def _show_carried(target: targets.Target, checkpoint: StrPath) -> Shown:
    record, _ = _record(checkpoint)
    ids = record.heads if target == targets.Named("head") else None
    try:
        found = ids or planner.resolve(Graph(), target, [entry.revision for entry in record.lineage])
    except MigrateError as error:
        raise error.about(checkpoint) from None
    if not found:
        raise UsageError("the checkpoint records no revision").about(checkpoint)
    entry = record.applied(found[0])
    facts = (entry.revision, entry.name, entry.parents, dict(entry.versions or {}), entry.final, entry.undo is not None)
    carried = (None, None) if entry.undo is None else (entry.undo.python, entry.undo.source)
    return Shown(*facts, None, os.fspath(checkpoint), *carried)


def _graph(project: Project | StrPath | None) -> Graph:
    return (project if isinstance(project, Project) else open_project(project)).graph


def _record(checkpoint: StrPath) -> tuple[Record, bool]:
    try:
        with open_checkpoint(checkpoint) as file:
            found = recorder.find(file.load(), file.attachment(recorder.ATTACHMENT))
        return (Record(), False) if found is None else (found, True)
    except MigrateError as error:
        raise error.about(checkpoint) from error.__cause__


def _scripts(project: Project | StrPath | None) -> tuple[Graph | None, tuple[str, ...]]:
    """Return the scripts, however faulty: `current` is about the checkpoint."""
    if isinstance(project, Project):
        return project.graph, ()
    try:
        config = find_config(None if project is None else Path(project))
    except NoConfiguration:
        if project is not None:
            raise
        return None, ()
    revisions, faults = loader.read_folder(config.versions)
    if faults:
        return None, ("some scripts are faulty, so they are not looked at: `ckpt-migrate heads` says more",)
    return Graph(revisions), ()


def _head_of(record: Record, revision: str) -> Head:
    entry = record.applied(revision)
    return Head(revision, entry.name, (), entry.final)


def _entry(revision: Revision, head: bool, applied: bool | None) -> HistoryEntry:
    facts = (revision.id, revision.name, revision.parents, head, revision.final, revision.reversible)
    return HistoryEntry(*facts, applied=applied)


def _foreign(entry: Applied) -> HistoryEntry:
    facts = (entry.revision, entry.name, entry.parents, False, entry.final, entry.undo is not None)
    return HistoryEntry(*facts, known=False, applied=True)
