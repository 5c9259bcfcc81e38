"""The proof that a way back is one: up and down again on the very checkpoint, and compared with what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from anemoi_ckpt_migrate import executor, recorder
from anemoi_ckpt_migrate.checkpoints import Checkpoint
from anemoi_ckpt_migrate.checkpoints.tensors import StoredTensor
from anemoi_ckpt_migrate.commands import steps
from anemoi_ckpt_migrate.comparing import Difference, first_difference
from anemoi_ckpt_migrate.errors import NotProven, NoWayBack
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.record import Record


def prove(
    file: Checkpoint, graph: Graph, record: Record, revisions: Sequence[Revision], settings: executor.Settings
) -> None:
    """Check that the rollbacks of revisions are the inverse of their migrations, on a checkpoint; nothing is written.

    Parameters
    ----------
    file : Checkpoint
        The checkpoint, where the revisions are to be applied.
    graph : Graph
        Where they come from.
    record : Record
        That of the checkpoint.
    revisions : sequence of Revision
        In the order in which they are applied.
    settings : executor.Settings
        What operations go by.

    Raises
    ------
    NotProven
        They are not; it says which, and what is the first difference.
    NoWayBack
        One of them has no rollback.
    """
    for revision in revisions:
        if not revision.reversible:
            raise NoWayBack(revision.id, f"{revision.name} has no rollback that could be checked")
    wrong = _difference(file, graph, record, revisions, len(revisions), settings) if revisions else None
    if wrong is None:
        return
    # Which one it is costs more, and is only asked for then: up to it and one step back, against up to the one before.
    for count in range(1, len(revisions) + 1):
        own = _difference(file, graph, record, revisions[:count], 1, settings)
        if own is not None:
            raise NotProven(revisions[count - 1].id, own.where, own.what)
    raise NotProven(revisions[0].id, wrong.where, wrong.what)


def _difference(
    file: Checkpoint,
    graph: Graph,
    record: Record,
    revisions: Sequence[Revision],
    back: int,
    settings: executor.Settings,
) -> Difference | None:
    """Go up with all and down with the last so many; compare with having gone up with the others alone.

    What is in between is pickled and loaded, as it is between an upgrade and a downgrade.
    """
    settings = replace(settings, optimizers=record.optimizers)
    up = [steps.up(revision) for revision in revisions]
    expected = _draft(file, up[: len(revisions) - back], settings)
    entries = steps.applied(revisions)

    def after(walk: executor.Walk) -> Record:
        lineage = steps.with_undo(entries, graph, walk, settings.parameters)
        return replace(record, lineage=(*record.lineage, *lineage), kept=walk.world.kept, optimizers=walk.world.orders)

    upgraded = _draft(file, up, settings, after)
    held = recorder.take(upgraded.load(), upgraded.attachment(recorder.ATTACHMENT))
    lineage = held.of_chain(record.chain).lineage
    for entry in reversed(lineage[-back:]):
        if entry.undo is not None and entry.undo.lost:
            raise NoWayBack(entry.revision, entry.undo.lost)
    down = [steps.down(graph, entry) for entry in reversed(lineage[-back:])]
    found = _draft(upgraded, down, replace(settings, optimizers=held.optimizers))

    def same(one: StoredTensor, other: StoredTensor) -> bool:
        return expected.same(one, other, found)

    wrong = first_difference(expected.load(trusting=False), found.load(trusting=False), same)
    return wrong or _beside(expected, found)


def _beside(expected: Checkpoint, found: Checkpoint) -> Difference | None:
    """Compare what lies beside the pickle, where it was written anew; records of ours say how it came about."""
    for name in sorted({*expected.attached, *found.attached} - {recorder.ATTACHMENT}):
        if expected.attachment(name) != found.attachment(name):
            return Difference(f"record {name} of the archive", "it is not what it was, byte by byte")
    return None


def _kept_alone(walk: executor.Walk) -> Record:
    """Return what is compared of a record: what is put aside, and not how it came about."""
    return Record(kept=walk.world.kept)


def _draft(
    file: Checkpoint,
    actions: Sequence[executor.Action],
    settings: executor.Settings,
    after: Callable[[executor.Walk], Record] = _kept_alone,
) -> Checkpoint:
    return file.draft(*executor.run(file, *recorder.unrecorded(file), actions, settings, after))
