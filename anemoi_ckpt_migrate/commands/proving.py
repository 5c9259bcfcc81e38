"""The proof that a way back is one: up and down again on the very checkpoint, and compared with what was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anemoi_ckpt_migrate import executor, recorder
from anemoi_ckpt_migrate.checkpoints import Checkpoint
from anemoi_ckpt_migrate.commands import steps
from anemoi_ckpt_migrate.comparing import Difference, first_difference
from anemoi_ckpt_migrate.errors import MigrationFailed, NotProven, NoWayBack
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.operations.base import from_data
from anemoi_ckpt_migrate.record import Applied


def prove(file: Checkpoint, graph: Graph, revisions: Sequence[Revision], settings: executor.Settings) -> None:
    """Check that the rollbacks of revisions are the inverse of their migrations, on a checkpoint; nothing is written.

    Parameters
    ----------
    file : Checkpoint
        The checkpoint, where the revisions are to be applied.
    graph : Graph
        Where they come from.
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
    wrong = _difference(file, graph, revisions, len(revisions), settings)
    if wrong is None:
        return
    # Which one it is costs more, and is only asked for then: up to it and one step back, against up to the one before.
    for count in range(1, len(revisions) + 1):
        own = _difference(file, graph, revisions[:count], 1, settings)
        if own is not None:
            raise NotProven(revisions[count - 1].id, own.where, own.what)
    raise NotProven(revisions[0].id, wrong.where, wrong.what)


def _difference(
    file: Checkpoint, graph: Graph, revisions: Sequence[Revision], back: int, settings: executor.Settings
) -> Difference | None:
    """Go up with all and down with the last so many; compare with having gone up with the others alone."""
    ups = [steps.up(revision) for revision in revisions]
    expected = _walked(file, ups[: len(revisions) - back], settings)
    downs: list[executor.Action] = [_Back(graph, revision) for revision in reversed(revisions[-back:])]
    found = _walked(file, [*ups, *downs], settings)
    wrong = first_difference(expected.world.tree, found.world.tree, file.same)
    return wrong or first_difference(expected.world.kept, found.world.kept, file.same)


def _walked(file: Checkpoint, actions: Sequence[executor.Action], settings: executor.Settings) -> executor.Walk:
    tree = file.load()
    kept = recorder.kept_in(recorder.remove(tree, None))
    return executor.walked(file, tree, kept, actions, settings)


@dataclass(frozen=True)
class _Back:
    """The way back of a revision that is applied earlier in the same walk."""

    graph: Graph
    revision: Revision

    @property
    def runs_code(self) -> bool:
        return True

    def prepare(self) -> Callable[[executor.Walk], None]:
        script = self.revision
        if script.operations is None:
            return steps.down(self.graph, Applied(script.id)).prepare()
        ups = steps.up(script)

        def back(walk: executor.Walk) -> None:
            undone = walk.undone[script.id]
            if undone.losses:
                raise NoWayBack(script.id, undone.losses[0])
            # As the record will have them.
            operations = tuple(from_data(each.to_data()) for each in undone.operations)
            load = getattr(ups, "load", None)
            if load is None:
                raise MigrationFailed(script.path, None, "its operations cannot be loaded")
            executor.Applying(script.id, operations, script.path, load, back=True).prepare()(walk)

        return back
