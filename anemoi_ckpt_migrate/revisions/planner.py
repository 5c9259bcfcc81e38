"""Plan an ordered, checked list of steps from the recorded heads to a target. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from anemoi_ckpt_migrate.errors import (
    BarrierInTheWay,
    HistoryConflict,
    Irreversible,
    NotThatMany,
    UnknownRecorded,
    UsageError,
)
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import downgrade_set, releases, resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.util import gc_pause
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace


class Step(NamedTuple):
    """One revision, in one direction.

    Attributes
    ----------
    revision, name : str
        The revision's id and its name.
    direction : str
        ``upgrade`` or ``downgrade``.
    carried : bool
        Whether its function has to come from the checkpoint, because no script here knows the revision.
    reversible : bool
        Whether it can be undone.
    """

    revision: str
    name: str
    direction: str
    carried: bool = False
    reversible: bool = True


@dataclass(frozen=True)
class Plan:
    """All steps for one checkpoint.

    Attributes
    ----------
    start, end : tuple of str
        Heads before and after.
    steps : tuple of Step
        In order. Empty if the target is reached already.
    """

    start: tuple[str, ...]
    end: tuple[str, ...]
    steps: tuple[Step, ...]


@gc_pause.paused()
def plan_upgrade(graph: Graph, record: Record, target: targets.Target, package: str | None = None) -> Plan:
    """Plan an upgrade.

    Parameters
    ----------
    graph : Graph
        All revisions, as seen from the checkpoint.
    record : Record
        The record of the checkpoint.
    target : targets.Target
        The target.
    package : str, optional
        Name of the tracked package, for specifiers and messages.

    Raises
    ------
    UnknownRecorded, HistoryConflict
        Record and scripts do not fit together.
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NoRelease, NotThatMany, UsageError
        The target names no place.
    BarrierInTheWay
        A final revision is among the steps.
    """
    check_recorded(graph, record)
    applied = downgrade_set.applied_revisions(graph, record)
    count = _count(target)
    if count:
        ahead = _ahead(graph, applied, target)
        possible = resolve.shared_steps(graph, applied, ahead)
        if count > len(possible):
            resolve.head(graph, ahead, place=f"{count:+}")
        steps = possible[:count]
    else:
        steps = graph.order(_wanted(graph, target, package) - applied)
    reachable = _before_barriers(graph, steps)
    if target == targets.Named("barrier"):
        steps = reachable
    elif reachable != steps:
        raise _barrier_above(graph, steps, applied.union(reachable), package)
    elif count > len(steps):
        instead = resolve.name_of_head(graph, ahead[0]) if ahead else "heads"
        raise NotThatMany(_shown(target), len(steps), f"upgrade {instead}")
    lineage = [entry.revision for entry in record.lineage]
    end = graph.tips([*lineage, *steps]) if steps else record.heads
    revisions = map(graph.__getitem__, steps)
    return Plan(record.heads, end, tuple(Step(r.id, r.name, "upgrade", False, r.reversible) for r in revisions))


@gc_pause.paused()
def plan_downgrade(
    graph: Graph,
    record: Record,
    target: targets.Target,
    package: str | None = None,
    stash: Collection[tuple[Applied, ...]] = (),
) -> Plan:
    """Plan a downgrade. It undoes only recorded revisions, in reverse order.

    Parameters
    ----------
    graph, record, target, package
        As for `plan_upgrade`.
    stash : collection of tuple of Applied
        Lineages that need no rollback, because the file still has their bytes.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NoRelease, NotThatMany, NotApplied, UsageError
        The target names no place.
    BarrierInTheWay
        A final revision would have to be undone.
    Irreversible
        A step has no rollback.
    """
    return _down(graph, record, downgrade_set.undone(graph, record, target, package), package, stash)


@gc_pause.paused()
def plan_sync(graph: Graph, record: Record, package: str | None = None) -> Plan:
    """Plan a downgrade to a state that the scripts agree with, then an upgrade to their heads.

    Parameters
    ----------
    graph, record, package
        As for `plan_upgrade`.

    Raises
    ------
    BarrierInTheWay, Irreversible
        As for the downgrade and the upgrade.
    """
    gone = downgrade_set.astray(graph, record)
    down = _down(graph, record, gone, package)
    left = tuple(entry for entry in record.lineage if entry.revision not in gone)
    between = replace(record, heads=down.end, lineage=left)
    up = plan_upgrade(graph, between, targets.Named("heads"), package)
    return Plan(record.heads, up.end, (*down.steps, *up.steps))


def _down(
    graph: Graph,
    record: Record,
    gone: Collection[str],
    package: str | None,
    stash: Collection[tuple[Applied, ...]] = (),
) -> Plan:
    undone = [entry for entry in reversed(record.lineage) if entry.revision in gone]
    barrier = next((entry for entry in undone if _final(graph, entry)), None)
    if barrier is not None:
        raise downgrade_set.barrier_below(barrier, package)
    left = tuple(entry for entry in record.lineage if entry.revision not in gone)
    stuck = [entry for entry in undone if not _reversible(graph, entry)]
    if stuck and left not in stash:
        before = undone[: undone.index(stuck[0])]
        straight = before == list(reversed(record.lineage))[: len(before)]
        raise Irreversible([entry.revision for entry in stuck], len(before) if straight else 0)
    steps = tuple(
        Step(entry.revision, entry.name, "downgrade", carried=entry.revision not in graph) for entry in undone
    )
    return Plan(record.heads, downgrade_set.tips(graph, left) if undone else record.heads, steps)


def plan_stamp(
    graph: Graph,
    record: Record,
    wanted: Iterable[targets.Target],
    package: str | None = None,
    purge: bool = False,
) -> list[Revision]:
    """Return the new lineage of a checkpoint that is stamped with targets.

    Recorded revisions on branches unrelated to the targets stay, unless `purge` is set. ``base`` is before everything,
    so nothing stays then.

    Parameters
    ----------
    graph, record, package
        As for `plan_upgrade`.
    wanted : iterable of targets.Target
        The state of the checkpoint.
    purge : bool
        Discard the old record.

    Raises
    ------
    UnknownRecorded
        The record holds revisions that no script knows.
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NoRelease, NotThatMany, UsageError
        A target does not name a state of the file.
    """
    wanted = list(wanted)
    if len(wanted) > 1 and targets.Named("base") in wanted:
        raise UsageError("base excludes all other revisions: stamp it alone")
    if any(isinstance(target, targets.Relative) or target == targets.Named("barrier") for target in wanted):
        raise UsageError("stamp takes head, heads, base or revisions, not a number of steps")
    states = [resolve.state(graph, target, package) for target in wanted]
    told = set().union(*states)
    if not purge and wanted != [targets.Named("base")]:
        _check_known(graph, record)
        told |= _staying(graph, record, wanted, told, package)
    return lineage_of(graph, graph.tips(told))


def _staying(
    graph: Graph, record: Record, wanted: Sequence[targets.Target], told: set[str], package: str | None
) -> set[str]:
    """Return the revisions of a checkpoint that are unrelated to the new ones: other branches.

    These are the recorded heads that lie neither below nor above the new revisions, nor on the line of a named branch,
    and everything the heads need. A branch stamped at its base loses its revisions. Only the needs of other branches
    stay of it, if they do not rest on the branch.
    """
    named = [target for target in wanted if isinstance(target, targets.OnBranch)]
    left = [target.branch for target in named if target.target == targets.Named("base")]
    gone = graph.above(rev for branch in left for rev in graph.branch(branch)).union(*map(graph.line, left))
    members = told.union(*(graph.line(target.branch) for target in named if target.branch not in left))
    tips = {rev for target in wanted for rev in resolve.resolve(graph, target, package)}
    heads = [head for head in record.heads if head not in members and not tips & graph.closure([head])]
    return graph.closure(graph.closure(heads) - gone)


def lineage_of(graph: Graph, heads: Iterable[str]) -> list[Revision]:
    """Return the revisions that lead to the given heads, in order, starting at their barriers."""
    closure = graph.closure(heads)
    return [graph[rev] for rev in graph.order(closure - below_barriers(graph, closure))]


def below_barriers(graph: Graph, revisions: Iterable[str]) -> set[str]:
    """Return everything below the barriers among the given revisions: those can no longer be undone."""
    return graph.closure(parent for rev in revisions if graph[rev].final for parent in graph[rev].needs)


def check_recorded(graph: Graph, record: Record) -> None:
    """Check that the scripts could have produced the record.

    Raises
    ------
    UnknownRecorded
        It has revisions that no script knows.
    HistoryConflict
        It has a revision without its needs, or applied before them.
    """
    _check_known(graph, record)
    applied = downgrade_set.applied_revisions(graph, record)
    missing = graph.closure(entry.revision for entry in record.lineage) - applied
    if missing:
        first = next(entry.revision for entry in record.lineage if missing & graph.closure([entry.revision]))
        raise HistoryConflict(graph.order(missing & graph.closure([first])), first, _highest(graph, record))
    places = {entry.revision: place for place, entry in enumerate(record.lineage)}
    for rev, place in places.items():
        later = [needed for needed in graph[rev].needs if places.get(needed, -1) > place]
        if later:
            raise HistoryConflict(later, rev, _highest(graph, record), late=True)


def behind_barriers(graph: Graph, record: Record, plan: Plan) -> list[Revision]:
    """Return the revisions that a checkpoint still lacks after a plan that goes as far as it can, in order."""
    there = downgrade_set.applied_revisions(graph, record).union(step.revision for step in plan.steps)
    return [graph[rev] for rev in graph.order(revision.id for revision in graph if revision.id not in there)]


def heads_of(graph: Graph, record: Record) -> tuple[str, ...]:
    """Return the heads of a checkpoint by the scripts; for unknown revisions, by the record."""
    return downgrade_set.tips(graph, record.lineage)


def _highest(graph: Graph, record: Record) -> list[str]:
    """Return the heads of a checkpoint, except those that the scripts place below others."""
    heads = heads_of(graph, record)
    below = {head: graph.closure([head]) - {head} for head in heads}
    return [head for head in heads if not any(head in under for under in below.values())]


def _check_known(graph: Graph, record: Record) -> None:
    ids = [entry.revision for entry in record.lineage]
    unknown = [rev for rev in ids if rev not in graph]
    if unknown:
        names = {entry.revision: ", ".join(entry.known_as) for entry in record.lineage}
        undone = record.lineage[ids.index(unknown[0]) :]
        runs = any(entry.revision not in graph and not _is_data(entry) for entry in undone)
        raise UnknownRecorded(unknown, len(undone), [names[rev] for rev in unknown], runs)


def _is_data(entry: Applied) -> bool:
    """Return whether the rollback that a checkpoint carries for a revision is data, without code."""
    return entry.undo is not None and entry.undo.operations is not None and not entry.undo.source


def _count(target: targets.Target) -> int:
    """Return the number of steps that a target asks for; 0 for a target that names a place."""
    place = target.target if isinstance(target, targets.OnBranch) else target
    if not isinstance(place, targets.Relative):
        return 0
    if place.steps < 0:
        raise UsageError(f"{place.steps} goes down: write `downgrade {_shown(target)}`")
    return place.steps


def _shown(target: targets.Target) -> str:
    if isinstance(target, targets.OnBranch):
        return f"{target.branch}@{_shown(target.target)}"
    return f"{target.steps:+}" if isinstance(target, targets.Relative) else ""


def _ahead(graph: Graph, applied: set[str], target: targets.Target) -> Sequence[str]:
    """Return the heads that a number of steps may lead to: those ahead of the checkpoint, or those of the branch."""
    if isinstance(target, targets.OnBranch):
        heads, own = resolve.heads_of_branch(graph, target.branch), applied & graph.branch(target.branch)
    else:
        heads, own = graph.heads, applied
    pending = [head for head in heads if head not in applied]
    above = graph.above(graph.tips(own)) if own else pending
    return [head for head in pending if head in above]


def _wanted(graph: Graph, target: targets.Target, package: str | None) -> set[str]:
    if target == targets.Named("barrier"):
        return graph.closure(graph.heads)
    return resolve.state(graph, target, package)


def _before_barriers(graph: Graph, steps: Sequence[str]) -> list[str]:
    blocked: set[str] = set()
    if not any(graph[rev].final for rev in steps):
        return list(steps)
    for rev in steps:
        if graph[rev].final or blocked.intersection(graph[rev].needs):
            blocked.add(rev)
    return [rev for rev in steps if rev not in blocked]


def _barrier_above(graph: Graph, steps: Sequence[str], reachable: set[str], package: str | None) -> BarrierInTheWay:
    barriers = [graph[rev] for rev in steps if graph[rev].final]
    tips = ", ".join(graph.tips(reachable)) or "base"
    versions = [barrier.versions.get(package or "") for barrier in barriers]
    first = releases.earliest(version for version in versions if version)
    return BarrierInTheWay(barriers[0].id, barriers[0].name, "upgrade", tips, package, first)


def _final(graph: Graph, entry: Applied) -> bool:
    return entry.final or (entry.revision in graph and graph[entry.revision].final)


def _reversible(graph: Graph, entry: Applied) -> bool:
    """Return whether a revision has a rollback; permission to run it is checked later."""
    script, undo = graph.get(entry.revision), entry.undo
    own = script is not None and script.reversible
    if undo is None or (script is not None and not script.undone_by_operations and own):
        return own
    return not undo.lost  # the rollback that the operations stored in this very checkpoint
