"""The command that opens a script in an editor: edit."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import FaultyScripts, MigrateError, UsageError
from anemoi_ckpt_migrate.project.project import Project, open_project, resolve_project
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.scripts.parse import read_script

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Revision
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def edit(target: str = "head", *, project: Project | StrPath | None = None) -> Revision:
    """Open a script in the user's editor, ``$VISUAL`` or ``$EDITOR``, and return the edited revision.

    Parameters
    ----------
    target : str
        The revision.
    project : Project or path, optional
        The project; by default that of the current folder.

    Raises
    ------
    MigrateError
        There is no such script, no editor is set, or the editor failed.
    FaultyScripts
        The edited script is faulty.
    """
    import subprocess

    found = resolve_project(project)
    script = found.graph[resolve.one(found.graph, targets.parse(target))]
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not words:
        raise UsageError(f"no editor is set; set VISUAL or EDITOR, or open {script.path} yourself")
    try:
        code = subprocess.run([*words, script.path]).returncode  # noqa: S603  (the user's own editor)
    except OSError as error:
        raise MigrateError(f"the editor {words[0]} could not be started ({error.strerror})") from error
    if code:
        raise MigrateError(f"the editor {words[0]} ended with exit code {code}; the script is {script.path}")
    edited = _read_again(script.path)
    open_project(found.config.path)  # raises if the edit broke the graph
    return edited


def _read_again(path: str) -> Revision:
    script, faults = read_script(path)
    if faults or script is None:
        raise FaultyScripts(faults)
    return script
