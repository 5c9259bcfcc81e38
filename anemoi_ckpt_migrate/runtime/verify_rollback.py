"""The proof that a way back is one: up and down again on the very checkpoint, and compared with what was there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.errors import NotProven, NoWayBack
from anemoi_ckpt_migrate.project.project import Project, opened
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.runtime import executor, step_actions, trust
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.runtime.session import Options, reading, seen_from
from anemoi_ckpt_migrate.storage import Checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor
from anemoi_ckpt_migrate.tree.first_difference import Difference, first_difference


class Skipped(NamedTuple):
    """A revision whose way back was not tried.

    Attributes
    ----------
    revision, name : str
        Which.
    why : str
        Why not.
    """

    revision: str
    name: str
    why: str


@dataclass(frozen=True)
class Proof:
    """What was tried on a checkpoint, with success.

    Attributes
    ----------
    checkpoint : str
        Which.
    up, down : tuple of str
        Revisions that were applied and undone; undone and applied again.
    skipped : tuple of Skipped
        Those that were not tried.
    """

    checkpoint: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def check_reversible(revisions: Iterable[Revision], but_declared: bool = False) -> None:
    """Check that each of some revisions has a way back.

    Parameters
    ----------
    revisions : iterable of Revision
        Which.
    but_declared : bool
        Whether those may have none whose scripts say so.

    Raises
    ------
    NoWayBack
        One of them has none.
    """
    for revision in revisions:
        if not revision.reversible and not (but_declared and why_skipped(revision)):
            raise NoWayBack(revision.id, f"{revision.name} has no rollback that could be checked")


def prove(
    file: Checkpoint, graph: Graph, record: Record, revisions: Sequence[Revision], settings: executor.Settings
) -> None:
    """Check that the rollbacks of revisions are the inverse of their migrations, on a checkpoint; nothing is written.

    Those without a way back are applied, and what lies between them is tried.

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
        One of them loses something of this very checkpoint.
    """
    end = 0
    for reversible, stretch in groupby(revisions, lambda revision: revision.reversible):
        start, end = end, end + len(list(stretch))
        if not reversible:
            continue
        wrong = _difference(file, graph, record, revisions[:end], end - start, settings)
        if wrong is None:
            continue
        # Which one it is costs more, and is only asked for then: up to it and one step back, against the one before.
        for count in range(start + 1, end + 1):
            own = _difference(file, graph, record, revisions[:count], 1, settings)
            if own is not None:
                raise NotProven(revisions[count - 1].id, own.where, own.what)
        raise NotProven(revisions[start].id, wrong.where, wrong.what)


def prove_down(
    file: Checkpoint, graph: Graph, record: Record, configured: str | None
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Go down from where a checkpoint is, as a downgrade does, and up again, and compare with what is there.

    Parameters
    ----------
    file, graph, record
        As for `prove`.
    configured : str or None
        Where the state dict is, by the configuration.

    Returns
    -------
    tuple of str, tuple of Skipped
        What was undone and applied again; and what could not be: the first that has no way back, and all below it.

    Raises
    ------
    NotProven, NoWayBack
        As for `prove`.
    """
    undone, why = list[Applied](), ""
    for entry in reversed(record.lineage):
        why = _stuck(graph, entry)
        if why:
            break
        undone.append(entry)
    trust.check_own_code(graph, undone, file.path)
    ids = [entry.revision for entry in undone]
    settings = executor.Settings(step_actions.parameters_of(record, ids, configured), optimizers=record.optimizers)
    wrong = _gone_and_back(file, graph, undone, settings)
    if wrong is not None:
        for count in range(1, len(undone)):
            own = _gone_and_back(file, graph, undone[:count], settings)
            if own is not None:
                raise NotProven(ids[count - 1], own.where, own.what)
        raise NotProven(ids[-1], wrong.where, wrong.what)
    left = [graph[entry.revision] for entry in reversed(record.lineage)][len(undone) :]
    reasons = [why, *[f"{each.id} is above" for each in left[:1] for _ in left[1:]]]
    return tuple(ids), tuple(Skipped(each.id, each.name, why) for each, why in zip(left, reasons, strict=False))


def why_skipped(revision: Revision) -> str:
    """Say why a revision cannot be undone by what its script says; empty if it can."""
    if revision.final:
        return "it is a barrier"
    return "it is declared irreversible" if _is_declared_irreversible(revision) else ""


def _is_declared_irreversible(revision: Revision) -> bool:
    """Tell whether the script says so: operations that lose something do not say it by themselves."""
    said = revision.declared and (revision.operations is None or "rollback" in revision.lines)
    return said and not revision.reversible


def _stuck(graph: Graph, entry: Applied) -> str:
    """Say why a checkpoint cannot go down over a revision that it has; empty if it can."""
    why = why_skipped(graph[entry.revision]) or ("it is a barrier" if entry.final else "")
    if why:
        return why
    check_reversible([graph[entry.revision]])
    if entry.undo is not None and entry.undo.lost:
        raise NoWayBack(entry.revision, entry.undo.lost)
    try:
        step_actions.down(graph, entry)
    except NoWayBack as error:
        return error.why
    return ""


def _gone_and_back(
    file: Checkpoint, graph: Graph, undone: Sequence[Applied], settings: executor.Settings
) -> Difference | None:
    """Go down over some revisions and up again; compare with what there was."""
    down = [step_actions.down(graph, entry) for entry in undone]
    up = [step_actions.up(graph[entry.revision]) for entry in reversed(undone)]
    orders: dict[str, Any] = {}

    def noted(walk: executor.Walk) -> Record:
        orders.update(walk.world.orders)
        return _kept_alone(walk)

    before, below = _draft(file, [], settings, _nothing), _draft(file, down, settings, noted)
    again = executor.Settings(settings.parameters, optimizers=orders)
    return _compared(before, _draft(below, up, again, _nothing))


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
    up = [step_actions.up(revision) for revision in revisions]
    expected = _draft(file, up[: len(revisions) - back], settings)
    entries = step_actions.applied(revisions)

    def after(walk: executor.Walk) -> Record:
        lineage = step_actions.with_undo(entries, graph, walk, settings.parameters)
        return replace(
            record, lineage=(*record.lineage, *lineage), stash=walk.world.stash, optimizers=walk.world.orders
        )

    upgraded = _draft(file, up, settings, after)
    held = embed.take(upgraded.load(), upgraded.attachment(embed.ATTACHMENT))
    lineage = held.of_chain(record.chain).lineage
    for entry in reversed(lineage[-back:]):
        if entry.undo is not None and entry.undo.lost:
            raise NoWayBack(entry.revision, entry.undo.lost)
    down = [step_actions.down(graph, entry) for entry in reversed(lineage[-back:])]
    return _compared(expected, _draft(upgraded, down, replace(settings, optimizers=held.optimizers)))


def _compared(expected: Checkpoint, found: Checkpoint) -> Difference | None:
    def same(one: StoredTensor, other: StoredTensor) -> bool:
        return expected.same(one, other, found)

    wrong = first_difference(expected.load(trusting=False), found.load(trusting=False), same)
    return wrong or _beside(expected, found)


def _beside(expected: Checkpoint, found: Checkpoint) -> Difference | None:
    """Compare what lies beside the pickle, where it was written anew; records of ours say how it came about."""
    for name in sorted({*expected.attached, *found.attached} - {embed.ATTACHMENT}):
        if expected.attachment(name) != found.attachment(name):
            return Difference(f"record {name} of the archive", "it is not what it was, byte by byte")
    return None


def _kept_alone(walk: executor.Walk) -> Record:
    """Return what is compared of a record: what is put aside, and not how it came about."""
    return Record(stash=walk.world.stash)


def _nothing(walk: executor.Walk) -> Record:
    """Return what is compared of a record after the way down and up: nothing, since all is put aside anew."""
    return Record()


def _draft(
    file: Checkpoint,
    actions: Sequence[executor.Action],
    settings: executor.Settings,
    after: Callable[[executor.Walk], Record] = _kept_alone,
) -> Checkpoint:
    return file.draft(*executor.run(file, *embed.unrecorded(file), actions, settings, after))


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
        down, skipped = prove_down(file, graph, record, found.config.parameters)
        prove(file, graph, record, revisions, executor.Settings(found.config.parameters))
        check_reversible(revisions, but_declared=True)
        behind = planner.behind_barriers(graph, record, plan) if wanted == targets.Named("barrier") else []
        unproven = [Skipped(each.id, each.name, why_skipped(each)) for each in revisions]
        unproven += [Skipped(each.id, each.name, "it is, or lies above, a barrier") for each in behind]
        up = tuple(revision.id for revision in revisions if revision.reversible)
        return Proof(os.fspath(checkpoint), up, down, (*skipped, *(each for each in unproven if each.why)))
