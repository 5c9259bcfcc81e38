"""The command that brings a checkpoint to the heads of the scripts, down and up: sync."""

from __future__ import annotations

from dataclasses import replace

from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import planner
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime import executor, session, step_actions, trust
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


def sync(
    checkpoint: StrPath,
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    check_model: bool = True,
    dry_run: bool = False,
    trust_checkpoint_code: bool = False,
    discard_changes: bool = False,
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
    found = opened(project)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        tree, record, noted = recognised(found, file, tree, record)
        graph, parameters = seen_from(found.graph, record), found.config.parameters
        down, between, up = planner.plan_sync(graph, record, found.config.package)
        plan = Plan(record.heads, up.end, (*down.steps, *up.steps))
        entries = {entry.revision: entry for entry in record.lineage}
        undone = [entries[step.revision] for step in down.steps]
        trust.check_own_code(graph, undone, checkpoint, trust_checkpoint_code)
        plan = replace(plan, steps=trust.marked(graph, plan.steps, entries))
        warnings = (*noted, *session.changed_since(graph, record))
        revisions = [graph[step.revision] for step in up.steps]
        actions = [
            *(step_actions.down(graph, entry, trust_checkpoint_code) for entry in undone),
            *map(step_actions.up, revisions),
        ]
        gone = [entry.revision for entry in undone]
        settings = executor.Settings(step_actions.parameters_of(record, gone, parameters), discard_changes)
        check = ModelCheck(found, graph, plan.end, file, check_model)
        names = step_actions.name_check(file, found, graph, plan, trust_checkpoint_code)
        added: tuple[NewName, ...] = ()
        if plan.steps:
            check.before(tree, record)
        if dry_run:
            said, added = foresee(file, tree, record, actions, settings, check.result, names)
            warnings = (*warnings, *said)
        if dry_run or not plan.steps:
            return replace(unchanged(file, plan, options, warnings), names=added)
        applied = step_actions.applied(revisions)
        lineages = [*step_actions.shrunk(record.lineage, gone), *step_actions.grown(between.lineage, applied)]
        actions, noted_elsewhere = keeping(file, tree, record, actions, lineages)

        def after(walk: executor.RunContext) -> Record:
            lineage = step_actions.with_undo(applied, graph, walk, parameters)
            walk.warnings += [*step_actions.notes(graph, lineage, walk), *check.result(walk)]
            entry = log_entry("sync", "", plan)
            return replace(record.logged(entry, (*between.lineage, *lineage)), migrations_list=noted_elsewhere)

        return write(file, tree, record, plan, actions, settings, after, options, warnings, names)
