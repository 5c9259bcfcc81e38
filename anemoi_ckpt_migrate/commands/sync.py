"""The command that brings a checkpoint to the heads of the scripts, down and up: sync."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import planner
from anemoi_ckpt_migrate.runtime.session import open_session
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, folder_options
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime.result import Result


def sync(
    checkpoint: StrPath,
    *,
    project: Project | StrPath | None = None,
    chain: str | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    check_model: bool = True,
    dry_run: bool = False,
    trust_checkpoint_code: bool = False,
    discard_changes: bool = False,
    copy_shared: bool = False,
    hard_link: bool = False,
    max_shard_size: int | str | None = None,
    known_only: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Bring a checkpoint to the heads of the scripts: first down to a revision that they know, then up.

    Revisions that the scripts lack, or have in another order, are undone, with all that rest on them. Rollbacks
    that the scripts lack come from the checkpoint's record. The file is written once.

    Parameters
    ----------
    trust_checkpoint_code : bool
        Run the rollbacks that the checkpoint carries where the scripts here have none. Also let the pickle name
        functions that can run code when it is loaded, even if it named none before.
    discard_changes : bool
        As for `downgrade`.

    The other parameters and the result are those of `upgrade`.

    Raises
    ------
    Irreversible, UntrustedCode
        A revision that has to be undone has no rollback, or only code from the checkpoint can undo it.
    MigrateError
        Nothing was changed; the class of the error tells the reason.
    """
    found = resolve_project(project, chain)
    options = WriteOptions(
        output=checked_output(output),
        backup=backup,
        in_place=in_place,
        verify=verify,
        dry_run=dry_run,
        check_model=check_model,
        trust_checkpoint_code=trust_checkpoint_code,
        discard_changes=discard_changes,
        copy_shared=copy_shared,
        folder=folder_options(hard_link, max_shard_size),
        known_only=known_only,
        progress=progress,
    )
    with open_session(checkpoint, found, options) as session:
        graph = session.graph()
        plan = session.planned(lambda: planner.plan_sync(graph, session.record, found.config.package))
        return session.run("sync", "", graph, plan)
