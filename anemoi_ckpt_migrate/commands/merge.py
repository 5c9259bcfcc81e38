"""The command that joins branches: merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.commands.revision import NewRevision, _check_apart, _check_heads, _draft, _make
from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import resolve, targets

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def merge(
    revisions: Sequence[str] = ("heads",),
    name: str = "merge branches",
    *,
    rev_id: str | None = None,
    splice: bool = False,
    branch_labels: Sequence[str] = (),
    version_path: StrPath | None = None,
    project: Project | StrPath | None = None,
) -> NewRevision:
    """Make a script that joins branches and changes nothing itself.

    Parameters
    ----------
    revisions : sequence of str
        The heads to join; ``heads`` for all of them.
    name : str
        A description of the merge, in one line.
    splice : bool
        Also join revisions that are not heads.

    The other parameters, the result and the errors are those of `revision`.
    """
    found = resolve_project(project)
    parents: set[str] = set()
    for text in revisions:
        parents.update(resolve.resolve(found.graph, targets.parse(text), found.config.package))
    if len(parents) < 2:
        only = f"only {', '.join(parents)}" if parents else "nothing"
        raise UsageError(f"there is {only} to merge; a merge needs two heads or more")
    if splice:
        _check_apart(found.graph, parents)
    else:
        _check_heads(found.graph, sorted(parents), "a merge joins heads", "; --splice joins it anyway")
    return _make(found, _draft(found, name, tuple(sorted(parents)), rev_id, branch_labels), version_path)
