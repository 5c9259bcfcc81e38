"""Verify rollbacks: upgrade and downgrade the actual checkpoint in memory, and compare it with the original."""

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
    """A revision whose rollback was not verified.

    Attributes
    ----------
    revision, name : str
        The id and the name of the revision.
    why : str
        The reason.
    """

    revision: str
    name: str
    why: str


@dataclass(frozen=True)
class Proof:
    """The result of a successful verification.

    Attributes
    ----------
    checkpoint : str
        The file.
    up, down : tuple of str
        Revisions that were applied and undone; revisions that were undone and applied again.
    skipped : tuple of Skipped
        Revisions that were not verified.
    """

    checkpoint: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def check_reversible(revisions: Iterable[Revision], but_declared: bool = False) -> None:
    """Check that each of these revisions has a rollback.

    Parameters
    ----------
    revisions : iterable of Revision
        The revisions.
    but_declared : bool
        Whether revisions that are declared irreversible may lack one.

    Raises
    ------
    NoWayBack
        A revision has no rollback.
    """
    for revision in revisions:
        if not revision.reversible and not (but_declared and why_skipped(revision)):
            raise NoWayBack(revision.id, f"{revision.name} has no rollback to check")


def prove(
    file: Checkpoint, graph: Graph, record: Record, revisions: Sequence[Revision], settings: executor.Settings
) -> None:
    """Check on a checkpoint that the rollbacks of revisions are the inverses of their migrations; writes nothing.

    Irreversible revisions are applied, and the stretches between them are verified.

    Parameters
    ----------
    file : Checkpoint
        The checkpoint to which the revisions are to be applied.
    graph : Graph
        The graph that contains them.
    record : Record
        The record of the checkpoint.
    revisions : sequence of Revision
        In the order in which they are applied.
    settings : executor.Settings
        Settings for operations.

    Raises
    ------
    NotProven
        A rollback is not the inverse; the error names the revision and the first difference.
    NoWayBack
        A revision loses data of this checkpoint.
    """
    end = 0
    for reversible, stretch in groupby(revisions, lambda revision: revision.reversible):
        start, end = end, end + len(list(stretch))
        if not reversible:
            continue
        wrong = _difference(file, graph, record, revisions[:end], end - start, settings)
        if wrong is None:
            continue
        # Finding the revision costs more, so do it only on failure: undo each one alone, compare with the one before.
        for count in range(start + 1, end + 1):
            own = _difference(file, graph, record, revisions[:count], 1, settings)
            if own is not None:
                raise NotProven(revisions[count - 1].id, own.where, own.what)
        raise NotProven(revisions[start].id, wrong.where, wrong.what)


def prove_down(
    file: Checkpoint, graph: Graph, record: Record, configured: str | None
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Downgrade a checkpoint from its revision, upgrade it again, and compare it with the original.

    Parameters
    ----------
    file, graph, record
        As for `prove`.
    configured : str or None
        The configured path of the state dict.

    Returns
    -------
    tuple of str, tuple of Skipped
        The revisions that were undone and applied again, and those that were skipped: the first irreversible one and
        all below it.

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
    """Return why the script of a revision rules out a rollback; empty if it does not."""
    if revision.final:
        return "it is a barrier"
    return "it is declared irreversible" if _is_declared_irreversible(revision) else ""


def _is_declared_irreversible(revision: Revision) -> bool:
    """Return whether the script declares itself irreversible. Operations that lose data are no such declaration."""
    said = revision.declared and (revision.operations is None or "rollback" in revision.lines)
    return said and not revision.reversible


def _stuck(graph: Graph, entry: Applied) -> str:
    """Return why a checkpoint cannot be downgraded past a revision; empty if it can."""
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
    """Undo some revisions, apply them again, and compare with the original."""
    down = [step_actions.down(graph, entry) for entry in undone]
    up = [step_actions.up(graph[entry.revision]) for entry in reversed(undone)]
    orders: dict[str, Any] = {}

    def noted(walk: executor.RunContext) -> Record:
        orders.update(walk.state.orders)
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
    """Apply all revisions, undo the last `back` of them, and compare with applying only the others.

    The intermediate state is pickled and loaded, as between a real upgrade and downgrade.
    """
    settings = replace(settings, optimizers=record.optimizers)
    up = [step_actions.up(revision) for revision in revisions]
    expected = _draft(file, up[: len(revisions) - back], settings)
    entries = step_actions.applied(revisions)

    def after(walk: executor.RunContext) -> Record:
        lineage = step_actions.with_undo(entries, graph, walk, settings.parameters)
        return replace(
            record, lineage=(*record.lineage, *lineage), stash=walk.state.stash, optimizers=walk.state.orders
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
    """Compare rewritten entries beside the pickle, except our own, which holds the history."""
    for name in sorted({*expected.attached, *found.attached} - {embed.ATTACHMENT}):
        if expected.attachment(name) != found.attachment(name):
            return Difference(f"record {name} of the archive", "its bytes differ")
    return None


def _kept_alone(walk: executor.RunContext) -> Record:
    """Return the part of a record that is compared: the stash, without the history."""
    return Record(stash=walk.state.stash)


def _nothing(walk: executor.RunContext) -> Record:
    """Return an empty record for the comparison after a downgrade and upgrade, because the stash is rebuilt."""
    return Record()


def _draft(
    file: Checkpoint,
    actions: Sequence[executor.Action],
    settings: executor.Settings,
    after: Callable[[executor.RunContext], Record] = _kept_alone,
) -> Checkpoint:
    return file.draft(*executor.run(file, *embed.unrecorded(file), actions, settings, after))


def prove_rollback(checkpoint: StrPath, target: str = "barrier", *, project: Project | StrPath | None = None) -> Proof:
    """Verify the rollbacks of a checkpoint in memory; writes nothing.

    Upgrades to a target and back, and downgrades from the current revision and back. Compares with the original each
    time.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        As for `upgrade`; by default the highest revisions that can be reached, on all branches.
    project : Project or path, optional
        The project that holds the scripts.

    Returns
    -------
    Proof
        The revisions that were verified, and those that were skipped because they are declared irreversible.

    Raises
    ------
    NotProven
        A rollback does not restore the original.
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
        unproven += [Skipped(each.id, each.name, "it is a barrier, or above one") for each in behind]
        up = tuple(revision.id for revision in revisions if revision.reversible)
        return Proof(os.fspath(checkpoint), up, down, (*skipped, *(each for each in unproven if each.why)))
