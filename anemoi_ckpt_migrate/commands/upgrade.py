"""The command that brings a checkpoint up along its history: upgrade."""

from __future__ import annotations

from dataclasses import replace

from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime import executor, session, step_actions, verify_rollback
from anemoi_ckpt_migrate.runtime.added_names import NewName
from anemoi_ckpt_migrate.runtime.model_check import ModelCheck
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.runtime.session import (
    Options,
    Result,
    foresee,
    log_entry,
    reading,
    seen_from,
    unchanged,
    write,
)
from anemoi_ckpt_migrate.runtime.update_list import keeping
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output


def upgrade(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    check_model: bool = True,
    dry_run: bool = False,
    check_rollback: bool = False,
    trust_checkpoint_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Bring a checkpoint up to a target.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        ``head``, ``heads``, ``barrier``, ``+N``, ``REV+N``, ``LABEL@TARGET``, a specifier of the tracked package, a
        full or partial revision id, a label or a name.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.
    output : path, optional
        Write to this path, and leave the checkpoint unchanged.
    backup : bool
        Keep the old file beside the new one.
    in_place : bool
        Append the new data to the file and move nothing, so that large files need no copy. The new file contains the
        old one, which `downgrade` can restore; there is no backup. Unused bytes stay until `compact`.
    verify : bool
        First check the CRC of every entry of the file.
    check_model : bool
        Before the result is written, compare it with the manifest's state of the target, or with the configured model.
        A checkpoint without a record is compared with the manifest's state at base before anything is run.
    dry_run : bool
        Only plan, and try operations on names, shapes and dtypes.
    check_rollback : bool
        Before anything is written, upgrade and downgrade this checkpoint, and compare the result with the original.
    trust_checkpoint_code : bool
        Let the pickle name functions that can run code when it is loaded, even if it named none before.
    progress : callable, optional
        Called from time to time with the number of bytes copied.

    Returns
    -------
    Result
        The result; it has no steps if the checkpoint was at the target already.

    Raises
    ------
    MigrateError
        Nothing was changed; the class of the error tells the reason.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        tree, record, noted = recognised(found, file, tree, record)
        graph = seen_from(found.graph, record, [wanted], found.config.package)
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        warnings = (*noted, *session.changed_since(graph, record))
        revisions = [graph[step.revision] for step in plan.steps]
        actions = [step_actions.up(revision) for revision in revisions]
        settings = executor.Settings(found.config.parameters)
        check = ModelCheck(found, graph, plan.end, file, check_model)
        names = step_actions.name_check(file, found, graph, plan, trust_checkpoint_code)
        added: tuple[NewName, ...] = ()
        if plan.steps:
            check.before(tree, record)
        if dry_run:
            said, added = foresee(file, tree, record, actions, settings, check.result, names)
            warnings = (*warnings, *said)
        if check_rollback and plan.steps:
            verify_rollback.check_reversible(revisions)
            verify_rollback.prove(file, graph, record, revisions, settings)
            tree, _ = embed.unrecorded(file)
        if dry_run or not plan.steps:
            return replace(unchanged(file, plan, options, warnings), names=added)
        applied = step_actions.applied(revisions)
        parameters = found.config.parameters
        actions, noted_elsewhere = keeping(file, tree, record, actions, step_actions.grown(record.lineage, applied))

        def after(walk: executor.RunContext) -> Record:
            entry = log_entry("upgrade", target, plan, proven=check_rollback)
            lineage = step_actions.with_undo(applied, graph, walk, parameters)
            walk.warnings += [*step_actions.notes(graph, lineage, walk), *check.result(walk)]
            return replace(record.logged(entry, (*record.lineage, *lineage)), migrations_list=noted_elsewhere)

        return write(file, tree, record, plan, actions, settings, after, options, warnings, names)
