"""The command that moves a script behind another revision: rebase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.revision import update_head_file
from anemoi_ckpt_migrate.errors import ReadOnly, Refused, UsageError
from anemoi_ckpt_migrate.manifests import manifest_file
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import resolve, targets, validate
from anemoi_ckpt_migrate.scripts import edit_script, released
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Rebased:
    """The result of `rebase`.

    Attributes
    ----------
    revision, path : str
        The id and the path of the script.
    before, after : tuple of str
        Its old and its new parents; equal if there was nothing to do.
    forgotten : tuple of str
        Removed files: manifests of revisions that moved, which no longer hold.
    """

    revision: str
    path: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    forgotten: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        lists = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lists}


def rebase(target: str, onto: str | None = None, *, project: Project | StrPath | None = None) -> Rebased:
    """Have a script follow another revision: ``down_revision`` is rewritten.

    Revisions that follow the script move with it. Manifests of earlier revisions that are among the moved ones are
    removed. `upgrade` refuses checkpoints that have the script already but lack its new parent, and explains the way
    out.

    Parameters
    ----------
    target : str
        The revision.
    onto : str, optional
        The new parent; by default the only other head. ``base`` for none.
    project : Project or path, optional
        The project; by default that of the current folder.

    Raises
    ------
    Refused
        The script, or a revision squashed into it, was released; or the script is read-only or a merge.
    UsageError
        The script would come before itself, or it is not clear which head to follow.
    MigrateError
        The project cannot be read or the script cannot be changed.
    """
    found = resolve_project(project)
    graph, config = found.graph, found.config
    script = graph[resolve.one(graph, targets.parse(target))]
    parents = _onto(graph, script, onto)
    if parents == script.parents:
        return Rebased(script.id, script.path, parents, parents)
    _check_movable(graph, script, parents)
    noted = released.read(config.versions[0])
    for rev in (script.id, *(part.id for part in script.replaces)):
        if rev in noted:
            raise Refused(f"{rev} was released, so checkpoints may have it at its place; merge the branches instead")
    stale = manifest_file.bridges_about(config.versions[0], _moving(graph, script))
    try:
        edit_script.set_parents(Path(script.path), parents)
    except ReadOnly:
        raise Refused(f"{script.path} is read-only; allow writing with `chmod u+w`") from None
    update_head_file(config)
    manifest_file.remove(stale)
    return Rebased(script.id, script.path, script.parents, parents, tuple(map(os.fspath, stale)))


def _moving(graph: Graph, script: Revision) -> set[str]:
    """Return a revision and all that rest on it, with the revisions that were squashed into them."""
    moving = graph.above([script.id])
    return moving | {part.id for revision in moving for part in graph[revision].replaces}


def _onto(graph: Graph, script: Revision, onto: str | None) -> tuple[str, ...]:
    if onto == "base":
        return ()
    if onto is not None:
        return (resolve.one(graph, targets.parse(onto)),)
    above = graph.above([script.id])
    others = [head for head in graph.heads if head not in above]
    if not others:
        raise UsageError(f"there is no other head that {script.id} could follow; name a revision with --onto")
    if len(others) > 1:
        raise UsageError(f"there are {len(others)} other heads: {', '.join(others)}; choose one with --onto")
    return (others[0],)


def _check_movable(graph: Graph, script: Revision, parents: tuple[str, ...]) -> None:
    if len(script.parents) > 1:
        raise Refused(f"{script.id} is a merge of {', '.join(script.parents)}; rebase these, then remove it")
    moved = [replace(rev, parents=parents) if rev.id == script.id else rev for rev in graph]
    if validate.faults(moved):
        raise UsageError(f"{', '.join(parents)} needs {script.id}, so {script.id} would come before itself")
