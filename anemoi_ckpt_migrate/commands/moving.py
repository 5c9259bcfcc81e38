"""The commands that move a checkpoint along its history: upgrade, downgrade."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from anemoi_ckpt_migrate import executor, planner, recorder, rollbacks, targets
from anemoi_ckpt_migrate.checkpoints import Checkpoint, Written
from anemoi_ckpt_migrate.commands.project import Project, StrPath, opened
from anemoi_ckpt_migrate.commands.writing import (
    Options,
    Progress,
    Result,
    applied_of,
    checked_output,
    log_entry,
    reading,
    result_of,
    seen_from,
    unchanged,
    write,
)
from anemoi_ckpt_migrate.errors import MigrationFailed, UntrustedCode
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.planner import Step
from anemoi_ckpt_migrate.record import Applied, Record
from anemoi_ckpt_migrate.scripts import loader
from anemoi_ckpt_migrate.scripts.functions import Function, load_module, load_source
from anemoi_ckpt_migrate.scripts.sources import source_of

_MOST_KEPT = 100


def upgrade(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
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
        Whose scripts; by default those of the current folder's project.
    output : path, optional
        Write there, and leave the checkpoint as it is.
    backup : bool
        Keep the old file beside the new one.
    in_place : bool
        Write what is new at the end of the file and move nothing, however large it is. The old file is in the new one,
        for `downgrade` to go back to, and there is no backup. What is no longer used stays until `compact`.
    verify : bool
        Check the CRC of all that the file holds before anything is done.
    dry_run : bool
        Only plan.
    progress : callable, optional
        Told how many bytes were copied, from time to time.

    Returns
    -------
    Result
        Without steps if the target was reached already.

    Raises
    ------
    MigrateError
        Nothing was changed; the kind of error says why.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        graph = seen_from(found.graph, record, [wanted], found.config.package)
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        warnings = loader.changed_since(graph, record)
        if dry_run or not plan.steps:
            return unchanged(file, plan, options, warnings)
        revisions = [graph[step.revision] for step in plan.steps]
        actions = [_action(revision, "migrate") for revision in revisions]
        applied = [applied_of(revision, _carried_module(revision)) for revision in revisions]
        after = record.logged(log_entry("upgrade", target, plan), (*record.lineage, *applied))
        return write(file, tree, plan, actions, after, options, warnings)


def downgrade(
    checkpoint: StrPath,
    target: str,
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    trust_checkpoint_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Take a checkpoint back down to a target.

    Parameters
    ----------
    target : str
        ``base``, ``barrier``, ``-N`` (the last N applied), ``REV-N``, ``LABEL@TARGET``, a specifier of the tracked
        package, a full or partial revision id, a label or a name.
    trust_checkpoint_code : bool
        Run the rollbacks that the checkpoint carries, for revisions that no script here knows.

    The others are those of `upgrade`, as are the result and the errors.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        graph, kept = seen_from(found.graph, record), _kept(file, record)
        plan = planner.plan_downgrade(graph, record, wanted, found.config.package, [then for then, _ in kept])
        undone = {step.revision for step in plan.steps}
        left = tuple(entry for entry in record.lineage if entry.revision not in undone)
        earlier = next((before for then, before in kept if then == left), None)
        foreign = [step.revision for step in plan.steps if step.carried]
        if foreign and not trust_checkpoint_code and earlier is None:
            raise UntrustedCode(foreign, os.fspath(checkpoint))
        warnings = loader.changed_since(graph, record)
        if dry_run or not plan.steps:
            return unchanged(file, plan, options, warnings)
        if earlier is not None:
            return replace(result_of(file, plan, options, warnings, _back(file, earlier, options)), restored=True)
        entries = {entry.revision: entry for entry in record.lineage}
        actions = [_rollback(graph, entries[step.revision], step) for step in plan.steps]
        after = record.logged(log_entry("downgrade", target, plan), left)
        return write(file, tree, plan, actions, after, options, warnings)


def _kept(file: Checkpoint, record: Record) -> list[tuple[tuple[Applied, ...], Checkpoint]]:
    """Find what the file was before it was written in place, oldest first, with the lineage of then.

    Only as far back as it was moved up and down since, and nothing else: what was stamped cannot be undone.
    """
    found: list[tuple[tuple[Applied, ...], Checkpoint]] = []
    earlier = file.earlier()
    for _ in range(_MOST_KEPT):
        if earlier is None:
            break
        before = recorder.take(earlier.load(), earlier.attachment(recorder.ATTACHMENT))
        since = record.log[len(before.log) :]
        earlier.release()
        if record.log[: len(before.log)] != before.log or any(entry.command == "stamp" for entry in since):
            break
        if before.lineage != record.lineage:
            found.insert(0, (before.lineage, earlier))
        earlier = earlier.earlier()
    return found


def _back(file: Checkpoint, earlier: Checkpoint, options: Options) -> Written:
    """Give the file the bytes that it had."""
    if options.in_place:
        return file.cut(earlier)
    return earlier.copy(options.output, options.backup, options.progress)


def _action(revision: Revision, name: str) -> executor.Action:
    def load() -> Function:
        function: Function = getattr(load_module(revision), name, None)  # type: ignore[assignment]
        if not callable(function):
            raise MigrationFailed(revision.path, None, f"`{name}` is not a function")
        return function

    return executor.Action(load, name, revision.path)


def _rollback(graph: Graph, entry: Applied, step: Step) -> executor.Action:
    if not step.carried:
        return _action(graph[step.revision], "rollback")
    return executor.Action(lambda: rollbacks.carried(entry), "rollback", rollbacks.shown_carried(entry.revision))


def _carried_module(revision: Revision) -> Any:
    """Run a script under the name that it has in a checkpoint: where it lies here is nobody's business there."""
    try:
        return load_source(source_of(revision), revision.id, rollbacks.shown_carried(revision.id))
    except MigrationFailed as error:
        raise MigrationFailed(revision.path, error.line, error.what) from error.__cause__
