"""The command that shows the revision of a checkpoint: current."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.branches import Head, _head_of
from anemoi_ckpt_migrate.commands.read_record import read_standing, standing
from anemoi_ckpt_migrate.errors import HistoryConflict, UnknownRecorded
from anemoi_ckpt_migrate.project.project import Project, config_of, project_or_chain
from anemoi_ckpt_migrate.record.record import LogEntry, Record, to_data
from anemoi_ckpt_migrate.revisions import planner
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.scripts import discover
from anemoi_ckpt_migrate.storage import FileSize, is_interrupted, membership
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Current:
    """The place of a checkpoint in the history.

    Attributes
    ----------
    checkpoint : str
        The file.
    recorded : bool
        Whether it has a record; without one it is at base, unless it is recognised.
    heads : tuple of Head
        The revisions it is at.
    at_head : bool or None
        Whether these are the heads of the project's scripts; None without scripts.
    log : tuple of LogEntry
        The commands that changed it.
    warnings : tuple of str
        Warnings for the user.
    recognised : bool
        Whether it has no record, and its place was recognised from its content or from the notes of another tool.
    file : FileSize or None
        Format and size of the file.
    """

    checkpoint: str
    recorded: bool
    heads: tuple[Head, ...]
    at_head: bool | None
    log: tuple[LogEntry, ...]
    warnings: tuple[str, ...]
    recognised: bool = False
    file: FileSize | None = None

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        file = {} if self.file is None else {name: getattr(self.file, name) for name in ("format", "size", "dead")}
        return {
            "checkpoint": self.checkpoint,
            "recorded": self.recorded,
            "recognised": self.recognised,
            "heads": [head.to_data() for head in self.heads],
            "at_head": self.at_head,
            **file,
            "log": to_data(Record(log=self.log))["log"],
        }


def current(checkpoint: StrPath, *, project: Project | StrPath | None = None, chain: str | None = None) -> Current:
    """Return the place of a checkpoint in the history. A project is not needed; no script is run.

    One exception: for a checkpoint without a record, the project's `recognise` is run, as `upgrade` does.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project or path, optional
        The project with the scripts to compare with; by default that of the current folder, if there is one.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    MigrateError
        The checkpoint or the configuration cannot be read.
    """
    known, warnings, only = _scripts(project_or_chain(project, chain))
    scripts = None if known is None else known.graph
    found = read_standing(checkpoint, only, True) if known is None else standing(checkpoint, known, True)
    record, notes = found.record or Record(), found.notes
    warnings += notes
    at, at_head = record.heads, None
    if scripts is not None:
        scripts = scripts.seen_from(entry.revision for entry in record.lineage)
        at = planner.heads_of(scripts, record)
        at_head = set(at) == set(scripts.heads) if len(scripts) else None
        contradictions = _contradictions(scripts, record)
        at_head = at_head and not contradictions
        warnings += (*discover.changed_since(scripts, record), *contradictions)
    part = membership(checkpoint)
    warnings += () if part is None else (str(part),)
    if is_interrupted(checkpoint):
        warnings += ("a run in place was interrupted: this is the file that `recover` restores",)
    heads = tuple(_head_of(record, head, scripts) for head in at)
    recorded = found.record is not None and not notes
    return Current(os.fspath(checkpoint), recorded, heads, at_head, record.log, warnings, bool(notes), found.file)


def _scripts(project: Project | StrPath | None) -> tuple[Project | None, tuple[str, ...], str | None]:
    """Return the project (None if there is none, or scripts are faulty), warnings, and the chain to read."""
    if isinstance(project, Project):
        return project, (), project.config.chain
    config = config_of(project)
    if config is None:
        return None, (), None
    revisions, faults = discover.read_folders(config.versions, config.recursive)
    if faults:
        return None, ("some scripts have errors, so scripts are ignored: `ckpt-migrate heads` lists the errors",), ""
    return Project(config, Graph(revisions)), (), ""


def _contradictions(scripts: Graph, record: Record) -> tuple[str, ...]:
    try:
        planner.check_recorded(scripts, record)
    except HistoryConflict as conflict:
        return (conflict.sentence,)
    except UnknownRecorded:
        return ()  # `current` shows it anyway, and `upgrade` explains it
    return ()
