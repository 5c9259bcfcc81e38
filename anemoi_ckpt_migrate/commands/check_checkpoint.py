"""The part of `check` that is about one checkpoint."""

from __future__ import annotations

import os
import shlex

from anemoi_ckpt_migrate.commands.check_result import Checked, Problem
from anemoi_ckpt_migrate.commands.current import current
from anemoi_ckpt_migrate.commands.prove_rollback import prove_rollback
from anemoi_ckpt_migrate.commands.upgrade import upgrade
from anemoi_ckpt_migrate.errors import USAGE, MigrateError, Unrelated
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def check_checkpoint(
    checkpoint: StrPath,
    *,
    rollback: bool = False,
    known_only: bool = False,
    project: Project | StrPath | None = None,
) -> Checked:
    """Check that a checkpoint is at head, or that its rollbacks hold.

    Parameters
    ----------
    checkpoint : path
        The file.
    rollback : bool
        Try its rollbacks instead, as `prove_rollback` does. Nothing is written.
    known_only : bool
        Refuse a checkpoint without a record that nothing ties to the project.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.

    Returns
    -------
    Checked
        Errors of the checkpoint are problems in it.

    Raises
    ------
    Unrelated
        Only with `known_only`.
    NoCheckpointInFolder
        It is a folder that is no checkpoint.
    """
    found = resolve_project(project)
    try:
        if rollback:
            if known_only:
                _check_known(checkpoint, found)
            return Checked(0, 1, (), proofs=(prove_rollback(checkpoint, project=found),))
        place = current(checkpoint, project=found)
        if known_only and not place.recorded:
            _check_known(checkpoint, found)
    except Unrelated:
        raise
    except MigrateError as error:
        if error.exit_code == USAGE:
            raise
        kind = "rollback" if rollback else "checkpoint"
        return Checked(0, 1, (Problem(kind, error.sentence, os.fspath(checkpoint), pending=False),))
    if place.at_head is not False:
        return Checked(0, 1, ())
    at = ", ".join(head.revision for head in place.heads) or "base"
    at += ", recognised but not recorded" * place.recognised
    way = _way_to_head(checkpoint, found)
    return Checked(0, 1, (Problem("checkpoint", f"it is at {at}, not at head; {way}", os.fspath(checkpoint)),))


def _way_to_head(path: StrPath, project: Project) -> str:
    target = "heads" if len(project.graph.heads) > 1 else "head"
    try:
        upgrade(path, target, project=project, dry_run=True)
    except MigrateError as error:
        return error.sentence
    return f"`ckpt-migrate upgrade {target} {shlex.quote(os.fspath(path))}`"


def _check_known(path: StrPath, project: Project) -> None:
    """Raise Unrelated for a checkpoint that nothing ties to the project; other errors belong to the check itself."""
    try:
        upgrade(path, "heads", project=project, dry_run=True, known_only=True)
    except Unrelated:
        raise
    except MigrateError:
        return
