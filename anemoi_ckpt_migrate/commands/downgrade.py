"""The command that takes a checkpoint back down: downgrade."""

from __future__ import annotations

from dataclasses import replace

from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime import executor, session, step_actions, trust
from anemoi_ckpt_migrate.runtime.model_check import ModelCheck
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.runtime.session import (
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
from anemoi_ckpt_migrate.runtime.update_list import keeping
from anemoi_ckpt_migrate.storage import Checkpoint, Written
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output

_MOST_KEPT = 100


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
        Run the rollbacks that the checkpoint carries where the scripts here have none. Also let the pickle name
        functions that can run code when it is loaded, even if it named none before.
    discard_changes : bool
        Discard changes made after the upgrade to parameters that operations added or cast: the old state has no place
        for them.

    The other parameters, the result and the errors are those of `upgrade`.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with reading(checkpoint, found, options) as (file, tree, record):
        tree, record, noted = recognised(found, file, tree, record)
        graph, stash = seen_from(found.graph, record), _kept(file, record, found.config.chain)
        plan = planner.plan_downgrade(graph, record, wanted, found.config.package, [then for then, _ in stash])
        undone = {step.revision for step in plan.steps}
        left = tuple(entry for entry in record.lineage if entry.revision not in undone)
        earlier = next((before for then, before in stash if then == left), None)
        entries = {entry.revision: entry for entry in record.lineage}
        names = step_actions.name_check(file, found, graph, plan, trust_checkpoint_code)
        added = () if earlier is None else names.added(earlier.names)
        undoing = [] if earlier is not None else [entries[step.revision] for step in plan.steps]
        if undoing:
            trust.check_own_code(graph, undoing, checkpoint, trust_checkpoint_code)
            plan = replace(plan, steps=trust.marked(graph, plan.steps, entries))
        warnings = (*noted, *session.changed_since(graph, record))
        actions = [step_actions.down(graph, entry, trust_checkpoint_code) for entry in undoing]
        settings = executor.Settings(
            step_actions.parameters_of(record, undone, found.config.parameters), discard_changes
        )
        check = ModelCheck(found, graph, plan.end, file, check_model)
        if dry_run:
            said, more = foresee(file, tree, record, actions, settings, check.result, names)
            warnings, added = (*warnings, *said), (*added, *more)
        if dry_run or not plan.steps:
            return replace(unchanged(file, plan, options, warnings), names=added)
        if earlier is not None:
            written = _back(file, earlier, options)
            return replace(result_of(file, plan, options, warnings, written), restored=True, names=added)
        shrunk = step_actions.shrunk(record.lineage, [step.revision for step in plan.steps])
        actions, noted_elsewhere = keeping(file, tree, record, actions, shrunk)

        def after(walk: executor.RunContext) -> Record:
            walk.warnings += check.result(walk)
            return replace(record.logged(log_entry("downgrade", target, plan), left), migrations_list=noted_elsewhere)

        return write(file, tree, record, plan, actions, settings, after, options, warnings, names)


def _kept(file: Checkpoint, record: Record, chain: str) -> list[tuple[tuple[Applied, ...], Checkpoint]]:
    """Find the earlier states of a file that was written in place, oldest first, each with its lineage.

    The search stops where anything but upgrades and downgrades happened since: a stamp cannot be undone.
    """
    found: list[tuple[tuple[Applied, ...], Checkpoint]] = []
    later, earlier = file, file.earlier()
    for _ in range(_MOST_KEPT):
        if earlier is None:
            break
        before = embed.take(earlier.load(), earlier.attachment(embed.ATTACHMENT)).of_chain(chain)
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
    """Restore the earlier bytes of the file."""
    if options.in_place:
        return file.cut(earlier)
    return earlier.copy(options.output, options.backup, options.progress)
