"""Note the scripts of a release."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.scripts import released
from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Release:
    """What `release` did.

    Attributes
    ----------
    path : str
        The file that notes what was released.
    revisions : tuple of str
        Those that it notes now and did not before.
    """

    path: str
    revisions: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"path": self.path, "revisions": list(self.revisions)}


def release(*, project: Project | StrPath | None = None) -> Release:
    """Note all scripts as released: from now on `check` fails if one of them is changed, moved or removed.

    Raises
    ------
    Refused
        What was released before is not any more what it was.
    MigrateError
        The project cannot be read, or does not take the file.
    """
    found = opened(project)
    folder = found.config.versions[0]
    before = released.read(folder)
    wrong = [problem.sentence for problem in released.problems(folder, found.graph)]
    if wrong:
        raise Refused(wrong[0])
    path = released.write(folder, found.graph)
    return Release(os.fspath(path), tuple(rev for rev in released.read(folder) if rev not in before))
