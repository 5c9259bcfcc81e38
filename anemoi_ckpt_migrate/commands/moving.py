"""The commands that move a checkpoint along its history: upgrade, downgrade."""

from __future__ import annotations

import os
from dataclasses import replace

from anemoi_ckpt_migrate import executor, planner, recorder, targets
from anemoi_ckpt_migrate.checkpoints import Checkpoint, Written
from anemoi_ckpt_migrate.commands import proving, steps, trust
from anemoi_ckpt_migrate.commands.arguments import Progress, StrPath, checked_output
from anemoi_ckpt_migrate.commands.expecting import ModelCheck
from anemoi_ckpt_migrate.commands.keeping import keeping
from anemoi_ckpt_migrate.commands.names import NewName
from anemoi_ckpt_migrate.commands.project import Project, opened
from anemoi_ckpt_migrate.commands.proving import Proof
from anemoi_ckpt_migrate.commands.recognising import recognised
from anemoi_ckpt_migrate.commands.writing import (
    Options,
    Result,
    foresee,
    log_entry,
    reading,
    result_of,
    seen_from,
    unchanged,
    write,
)
from anemoi_ckpt_migrate.record import Applied, Record
from anemoi_ckpt_migrate.scripts import loader

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
    check_model : bool
        Compare the result, before it is written, with what the manifest says of the target, or the model that the
        configuration names; and a checkpoint without a record with what it says of base, before anything is run.
    dry_run : bool
        Only plan; operations are tried on names, shapes and dtypes.
    check_rollback : bool
        Before anything is written, go up and back down on this very checkpoint, and compare with what was there.
    trust_checkpoint_code : bool
        Let the pickle name what can run code when it is loaded, though it did not before.
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
        tree, record, noted = recognised(found, file, tree, record)
        graph = seen_from(found.graph, record, [wanted], found.config.package)
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        warnings = (*noted, *loader.changed_since(graph, record))
        revisions = [graph[step.revision] for step in plan.steps]
        actions = [steps.up(revision) for revision in revisions]
        settings = executor.Settings(found.config.parameters)
        check = ModelCheck(found, graph, plan.end, file, check_model)
        names = steps.name_check(file, found, graph, plan, trust_checkpoint_code)
        added: tuple[NewName, ...] = ()
        if plan.steps:
            check.before(tree, record)
        if dry_run:
            said, added = foresee(file, tree, record, actions, settings, check.result, names)
            warnings = (*warnings, *said)
        if check_rollback and plan.steps:
            proving.check_reversible(revisions)
            proving.prove(file, graph, record, revisions, settings)
            tree, _ = recorder.unrecorded(file)
        if dry_run or not plan.steps:
            return replace(unchanged(file, plan, options, warnings), names=added)
        applied = steps.applied(revisions)
        parameters = found.config.parameters
        actions, noted_elsewhere = keeping(file, tree, record, actions, steps.grown(record.lineage, applied))

        def after(walk: executor.Walk) -> Record:
            entry = log_entry("upgrade", target, plan, proven=check_rollback)
            lineage = steps.with_undo(applied, graph, walk, parameters)
            walk.warnings += [*steps.notes(graph, lineage, walk), *check.result(walk)]
            return replace(record.logged(entry, (*record.lineage, *lineage)), ledger=noted_elsewhere)

        return write(file, tree, record, plan, actions, settings, after, options, warnings, names)


def prove_rollback(checkpoint: StrPath, target: str = "barrier", *, project: Project | StrPath | None = None) -> Proof:
    """Try the ways back of a checkpoint, in memory; nothing is written.

    Go up to a target and back down, and down from where it is and up again; compare each time with what is there.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        As for `upgrade`; by default as far as can be reached, on all branches.
    project : Project or path, optional
        Whose scripts.

    Returns
    -------
    Proof
        Which revisions were tried, and which were not, as they are declared irreversible.

    Raises
    ------
    NotProven
        A way back does not lead to what is there.
    MigrateError
        As for `upgrade` and `downgrade`.
    """
    found, wanted = opened(project), targets.parse(target)
    with reading(checkpoint, found, Options(dry_run=True)) as (file, tree, record):
        _, record, _ = recognised(found, file, tree, record)
        graph = seen_from(found.graph, record, [wanted], found.config.package)
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        revisions = [graph[step.revision] for step in plan.steps]
        down, skipped = proving.prove_down(file, graph, record, found.config.parameters)
        proving.prove(file, graph, record, revisions, executor.Settings(found.config.parameters))
        proving.check_reversible(revisions, but_declared=True)
        behind = planner.behind_barriers(graph, record, plan) if wanted == targets.Named("barrier") else []
        unproven = [proving.Skipped(each.id, each.name, proving.why_skipped(each)) for each in revisions]
        unproven += [proving.Skipped(each.id, each.name, "it is, or lies above, a barrier") for each in behind]
        up = tuple(revision.id for revision in revisions if revision.reversible)
        return Proof(os.fspath(checkpoint), up, down, (*skipped, *(each for each in unproven if each.why)))


def downgrade(
    checkpoint: StrPath,
    target: str,
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
    """Take a checkpoint back down to a target.

    Parameters
    ----------
    target : str
        ``base``, ``barrier``, ``-N`` (the last N applied), ``REV-N``, ``LABEL@TARGET``, a specifier of the tracked
        package, a full or partial revision id, a label or a name.
    trust_checkpoint_code : bool
        Run the rollbacks that the checkpoint carries where the scripts here have none, and let the pickle name what can
        run code when it is loaded, though it did not before.
    discard_changes : bool
        Let go of what was changed since in what operations added or cast: it has no place in what was before.

    The others are those of `upgrade`, as are the result and the errors.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        tree, record, noted = recognised(found, file, tree, record)
        graph, kept = seen_from(found.graph, record), _kept(file, record, found.config.chain)
        plan = planner.plan_downgrade(graph, record, wanted, found.config.package, [then for then, _ in kept])
        undone = {step.revision for step in plan.steps}
        left = tuple(entry for entry in record.lineage if entry.revision not in undone)
        earlier = next((before for then, before in kept if then == left), None)
        entries = {entry.revision: entry for entry in record.lineage}
        names = steps.name_check(file, found, graph, plan, trust_checkpoint_code)
        added = () if earlier is None else names.added(earlier.names)
        undoing = [] if earlier is not None else [entries[step.revision] for step in plan.steps]
        if undoing:
            trust.check_own_code(graph, undoing, checkpoint, trust_checkpoint_code)
            plan = replace(plan, steps=trust.marked(graph, plan.steps, entries))
        warnings = (*noted, *loader.changed_since(graph, record))
        actions = [steps.down(graph, entry, trust_checkpoint_code) for entry in undoing]
        settings = executor.Settings(steps.parameters_of(record, undone, found.config.parameters), discard_changes)
        check = ModelCheck(found, graph, plan.end, file, check_model)
        if dry_run:
            said, more = foresee(file, tree, record, actions, settings, check.result, names)
            warnings, added = (*warnings, *said), (*added, *more)
        if dry_run or not plan.steps:
            return replace(unchanged(file, plan, options, warnings), names=added)
        if earlier is not None:
            written = _back(file, earlier, options)
            return replace(result_of(file, plan, options, warnings, written), restored=True, names=added)
        shrunk = steps.shrunk(record.lineage, [step.revision for step in plan.steps])
        actions, noted_elsewhere = keeping(file, tree, record, actions, shrunk)

        def after(walk: executor.Walk) -> Record:
            walk.warnings += check.result(walk)
            return replace(record.logged(log_entry("downgrade", target, plan), left), ledger=noted_elsewhere)

        return write(file, tree, record, plan, actions, settings, after, options, warnings, names)


def _kept(file: Checkpoint, record: Record, chain: str) -> list[tuple[tuple[Applied, ...], Checkpoint]]:
    """Find what the file was before it was written in place, oldest first, with the lineage of then.

    Only as far back as it was moved up and down since, and nothing else: what was stamped cannot be undone.
    """
    found: list[tuple[tuple[Applied, ...], Checkpoint]] = []
    later, earlier = file, file.earlier()
    for _ in range(_MOST_KEPT):
        if earlier is None:
            break
        before = recorder.take(earlier.load(), earlier.attachment(recorder.ATTACHMENT)).of_chain(chain)
        since = record.log[len(before.log) :]
        earlier.release()
        if record.log[: len(before.log)] != before.log or any(entry.command == "stamp" for entry in since):
            break
        if before.others != record.others:
            break  # another chain moved the file since
        if not earlier.has_what(later):
            break  # somebody else wrote into the archive since
        if before.lineage != record.lineage:
            found.insert(0, (before.lineage, earlier))
        later, earlier = earlier, earlier.earlier()
    return found


def _back(file: Checkpoint, earlier: Checkpoint, options: Options) -> Written:
    """Give the file the bytes that it had."""
    if options.in_place:
        return file.cut(earlier)
    return earlier.copy(options.output, options.backup, options.progress)
