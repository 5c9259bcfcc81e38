"""The command that notes the scripts of a release: release."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.scripts import released
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Release:
    """The result of `release`.

    Attributes
    ----------
    path : str
        The file that lists released scripts.
    revisions : tuple of str
        The revisions that were added to it.
    """

    path: str
    revisions: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {"path": self.path, "revisions": list(self.revisions)}


def release(*, project: Project | StrPath | None = None) -> Release:
    """Mark all scripts as released: from now on `check` fails if one of them is changed, moved or removed.

    Raises
    ------
    Refused
        A script that was released before has changed.
    MigrateError
        The project cannot be read, or the file cannot be written.
    """
    found = resolve_project(project)
    folder = found.config.versions[0]
    before = released.read(folder)
    wrong = [problem.sentence for problem in released.problems(folder, found.graph)]
    if wrong:
        raise Refused(wrong[0])
    path = released.write(folder, found.graph)
    return Release(os.fspath(path), tuple(rev for rev in released.read(folder) if rev not in before))
