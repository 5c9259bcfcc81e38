"""The command that takes a checkpoint back down: downgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime.session import open_session
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, folder_options
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Applied, Record
    from anemoi_ckpt_migrate.runtime.result import Result
    from anemoi_ckpt_migrate.storage import Checkpoint

_MOST_KEPT = 100


def downgrade(
    checkpoint: StrPath,
    target: str,
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
    found, wanted = resolve_project(project, chain), targets.parse(target)
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
        record, graph = session.record, session.graph()
        states = _earlier_states(session.file, record, found.config.chain)
        lineages = [lineage for lineage, _ in states]
        plan = session.planned(lambda: planner.plan_downgrade(graph, record, wanted, found.config.package, lineages))
        undone = {step.revision for step in plan.steps}
        kept = tuple(entry for entry in record.lineage if entry.revision not in undone)
        earlier = next((state for lineage, state in states if lineage == kept), None)
        if earlier is not None:
            return session.restore(graph, plan, earlier)
        return session.run("downgrade", target, graph, plan)


def _earlier_states(file: Checkpoint, record: Record, chain: str) -> list[tuple[tuple[Applied, ...], Checkpoint]]:
    """Find the earlier states of a file that was written in place, oldest first, each after its lineage.

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
