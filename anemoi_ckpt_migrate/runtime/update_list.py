"""Keep the list that another tool writes into a checkpoint up to date while the checkpoint moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anemoi_ckpt_migrate.anemoi import migrations_list as ledger
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, MigrationsList, Record
from anemoi_ckpt_migrate.runtime import executor
from anemoi_ckpt_migrate.storage import Checkpoint
from anemoi_ckpt_migrate.storage.tensors.refs import is_a


@dataclass(frozen=True)
class _Noting:
    """Updates the list after a step."""

    ledger: MigrationsList
    record: Record
    own_classes: bool
    runs_code = False

    def prepare(self) -> Callable[[executor.RunContext], None]:
        def note(walk: executor.RunContext) -> None:
            ledger.keep_up(walk.state.tree, walk.state.stash, self.ledger, self.record, self.own_classes)

        return note


def keeping(
    file: Checkpoint,
    tree: Any,
    record: Record,
    actions: Sequence[executor.Action],
    lineages: Sequence[tuple[Applied, ...]],
) -> tuple[list[executor.Action], MigrationsList | None]:
    """Add updates of the list after each step, if the checkpoint has a list or a step is known to the other tool.

    Parameters
    ----------
    file : Checkpoint
        The open checkpoint.
    tree : object
        Its tree.
    record : Record
        Its record.
    actions : sequence of executor.Action
        The action of each step.
    lineages : sequence of tuple of Applied
        The revisions of the checkpoint after each step.

    Returns
    -------
    tuple of list of executor.Action and MigrationsList or None
        The actions, and the information about the list to store in the record.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    after = [replace(record, lineage=lineage) for lineage in lineages]
    known = record.migrations_list is not None or any(ledger.wanted(each) for each in (record, *after))
    if not known or not after or not is_a(tree, dict) or embed.is_state_dict(tree):
        return list(actions), record.migrations_list
    found = record.migrations_list or ledger.found_in(tree, record)
    own_classes = any(module.partition(".")[0] == "anemoi" for module, _ in file.names)
    both = [(action, _Noting(found, each, own_classes)) for action, each in zip(actions, after, strict=True)]
    return [one for pair in both for one in pair], replace(found, noted=ledger.names_after(after[-1], found))
