"""The command that shows one revision: show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.branches import _recorded
from anemoi_ckpt_migrate.commands.read_record import read_record
from anemoi_ckpt_migrate.errors import MigrateError, UnknownTarget, UsageError
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.record.record import Applied, Record, Undo
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.scripts.source import source_of
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Shown:
    """One revision, in full.

    Attributes
    ----------
    revision, name : str
        Its id and name.
    parents, depends_on, labels : tuple of str
        The revisions that it follows, others that must be applied first, the labels of its branch.
    versions : dict of str to str
        The versions in its metadata.
    final, reversible : bool
        Whether it is a barrier; whether it can be undone.
    path : str or None
        Its script; None for a revision from a checkpoint.
    checkpoint : str or None
        The checkpoint that it comes from.
    pickled_by : str or None
        The Python version that pickled the rollback in the checkpoint. Only this version can run the pickle, which it
        does if the source cannot run.
    source : str or None
        The source of the script; None if the checkpoint carries none.
    replaces : tuple of str
        The revisions that were squashed into it.
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
        """Return the data that ``--json`` prints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def show(
    revision: str,
    *,
    checkpoint: StrPath | None = None,
    project: Project | StrPath | None = None,
    chain: str | None = None,
) -> Shown:
    """Show one revision, from its script or from a checkpoint. Nothing is run.

    Parameters
    ----------
    revision : str
        A revision, as a target; with a checkpoint, a full or partial id or ``head``.
    checkpoint : path, optional
        Show the revision from this checkpoint's record.
    project : Project or path, optional
        The project to look in; not needed with a checkpoint.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    MigrateError
        There is no such revision, or the project or the checkpoint cannot be read.
    """
    target = targets.parse(revision)
    if checkpoint is not None:
        return _show_carried(target, checkpoint)
    found = resolve_project(project, chain)
    graph = found.graph.seen_from([revision])
    if target == targets.Named("head") and not len(graph):
        raise UsageError("there are no revisions yet; `ckpt-migrate revision NAME` makes one")
    script = graph[resolve.one(graph, target, found.config.package)]
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
            raise UsageError("the record of the checkpoint has no revisions").about(checkpoint)
        found = record.heads[0]
    else:
        raise UsageError("with --from, REV must be head or a revision id")
    entry = _recorded(record, found)
    facts = (entry.revision, entry.name, entry.parents, entry.depends_on, ())
    more = (dict(entry.versions or {}), entry.final, entry.undo is not None)
    carried = (None, None) if entry.undo is None else (entry.undo.python, _source(entry, entry.undo))
    return Shown(*facts, *more, None, os.fspath(checkpoint), *carried)


def _source(entry: Applied, undo: Undo) -> str:
    """Return the rollback that a checkpoint carries, written as a script."""
    if undo.operations is None:
        return undo.source
    from anemoi_ckpt_migrate.runtime.trust import recorded_operations

    try:
        lines = [f"    op.{operation!r},\n" for operation in recorded_operations(entry) or ()]
    except MigrateError as error:
        lines = [f"    # {' '.join(error.sentence.split())}\n"]
    ways_back = f"# The rollback of this checkpoint:\noperations = [\n{''.join(lines)}]\n"
    return f"{undo.source}\n{ways_back}" if undo.source else ways_back
