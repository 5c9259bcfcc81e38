"""From the recorded heads and a target to an ordered, checked list of steps. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from anemoi_ckpt_migrate import targets
from anemoi_ckpt_migrate.errors import (
    BarrierInTheWay,
    HistoryConflict,
    Irreversible,
    NotApplied,
    NotThatMany,
    SeveralHeads,
    UnknownRecorded,
    UsageError,
)
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.record import Applied, Record


@dataclass(frozen=True)
class Step:
    """One revision, in one direction.

    Attributes
    ----------
    revision, name : str
        Which.
    direction : str
        ``upgrade`` or ``downgrade``.
    carried : bool
        Whether its function has to come from the checkpoint: no script here knows the revision.
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
    """Everything that is going to be done to one checkpoint.

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


def plan_upgrade(graph: Graph, record: Record, target: targets.Target, package: str | None = None) -> Plan:
    """Plan the way up.

    Parameters
    ----------
    graph : Graph
        All revisions.
    record : Record
        What the checkpoint remembers.
    target : targets.Target
        Where to.
    package : str, optional
        Name of the tracked package, for messages.

    Raises
    ------
    UnknownRecorded, HistoryConflict
        Record and scripts do not fit together.
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotThatMany, UsageError
        The target does not say where to.
    BarrierInTheWay
        A final revision is among the steps.
    """
    _check_known(graph, record)
    applied = applied_revisions(graph, record)
    wanted = _wanted(graph, record, applied, target)
    steps = graph.order(wanted - applied)
    _check_not_below(graph, record, steps)
    if isinstance(target, targets.Relative):
        left = len(steps)
        steps = steps[: target.steps]
    reachable = _before_barriers(graph, steps)
    if target == targets.Named("barrier"):
        steps = reachable
    elif reachable != steps:
        raise _barrier_above(graph, steps, applied.union(reachable), package)
    elif isinstance(target, targets.Relative) and target.steps > left:
        raise NotThatMany(f"+{target.steps}", left, "upgrade head")
    lineage = [entry.revision for entry in record.lineage]
    end = graph.tips([*lineage, *steps]) if steps else record.heads
    return Plan(
        record.heads,
        end,
        tuple(Step(rev, graph[rev].name, "upgrade", reversible=graph[rev].reversible) for rev in steps),
    )


def plan_downgrade(
    graph: Graph,
    record: Record,
    target: targets.Target,
    package: str | None = None,
    kept: Collection[tuple[Applied, ...]] = (),
) -> Plan:
    """Plan the way down. Only what the record holds is undone, and in the reverse of its order.

    Parameters
    ----------
    graph, record, target, package
        As for `plan_upgrade`.
    kept : collection of tuple of Applied
        Lineages that need no rollback to get back to: the file still has the bytes of then.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotThatMany, NotApplied, UsageError
        The target does not say where to.
    BarrierInTheWay
        A final revision would have to be undone.
    Irreversible
        A step has nothing that undoes it.
    """
    undone = _undone(graph, record, target, package)
    barrier = next((entry for entry in undone if _final(graph, entry)), None)
    if barrier is not None:
        raise _barrier_below(barrier, package)
    left = tuple(entry for entry in record.lineage if entry not in undone)
    stuck = [entry for entry in undone if not _reversible(graph, entry)]
    if stuck and left not in kept:
        before = undone[: undone.index(stuck[0])]
        straight = before == list(reversed(record.lineage))[: len(before)]
        raise Irreversible([entry.revision for entry in stuck], len(before) if straight else 0)
    steps = tuple(
        Step(entry.revision, entry.name, "downgrade", carried=entry.revision not in graph) for entry in undone
    )
    return Plan(record.heads, _tips(left) if undone else record.heads, steps)


def plan_stamp(graph: Graph, target: targets.Target) -> tuple[str, ...]:
    """Return the heads that a checkpoint stamped with a target is at.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, UsageError
        The target does not say where to.
    """
    if isinstance(target, targets.Relative) or target == targets.Named("barrier"):
        raise UsageError("stamp takes head, heads, base or a revision id: what the file is, not how to get there")
    return tuple(sorted(resolve(graph, target)))


def resolve(graph: Graph, target: targets.Target, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the revisions that an rev, `head`, `heads` or `base` stands for.

    Parameters
    ----------
    graph : Graph
        All revisions.
    target : targets.Target
        Any but `barrier` and relative ones, which depend on a checkpoint.
    more : iterable of str
        Ids that an rev may stand for beside those of the graph.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads
        It stands for none; for several.
    """
    if isinstance(target, targets.Id):
        return (graph.find(target.text, more),)
    if target == targets.Named("head"):
        return _head(graph, graph.heads)
    return graph.heads if target == targets.Named("heads") else ()


def applied_revisions(graph: Graph, record: Record) -> set[str]:
    """Return all that the checkpoint has: the lineage, and what lies below its barriers."""
    lineage = {entry.revision for entry in record.lineage}
    return lineage | graph.closure(entry.revision for entry in record.lineage if entry.final)


def lineage_of(graph: Graph, heads: Iterable[str]) -> list[Revision]:
    """Return the revisions that lead to some heads, in order, from their barrier on."""
    closure = graph.closure(heads)
    return [graph[rev] for rev in graph.order(closure - below_barriers(graph, closure))]


def changed_since(graph: Graph, record: Record) -> tuple[str, ...]:
    """Warn of applied revisions whose scripts do something else now."""
    return tuple(
        f"the script of {entry.revision} ({entry.name}) has changed since it was applied: {graph[entry.revision].path}"
        " (`ckpt-migrate stamp` accepts it as it is)"
        for entry in record.lineage
        if entry.revision in graph and graph[entry.revision].signature != entry.signature
    )


def below_barriers(graph: Graph, revisions: Iterable[str]) -> set[str]:
    """Return everything that lies below a barrier among the given revisions: gone for good."""
    return graph.closure(parent for rev in revisions if graph[rev].final for parent in graph[rev].needs)


def _wanted(graph: Graph, record: Record, applied: set[str], target: targets.Target) -> set[str]:
    if isinstance(target, targets.Relative):
        if target.steps < 0:
            raise UsageError(f"{target.steps} goes down: write `downgrade {target.steps}`")
        return graph.closure(_head(graph, _heads_above(graph, record, applied)))
    if target == targets.Named("barrier"):
        return graph.closure(graph.heads)
    return graph.closure(resolve(graph, target))


def _head(graph: Graph, heads: Sequence[str]) -> tuple[str, ...]:
    if len(heads) > 1:
        raise SeveralHeads(heads)
    return tuple(heads)


def _heads_above(graph: Graph, record: Record, applied: set[str]) -> list[str]:
    """Return the heads that lie ahead of where a checkpoint is: no step count leads into another branch."""
    pending = [head for head in graph.heads if head not in applied]
    return [head for head in pending if not record.heads or graph.closure([head]).intersection(record.heads)]


def _check_known(graph: Graph, record: Record) -> None:
    unknown = [entry.revision for entry in record.lineage if entry.revision not in graph]
    if unknown:
        known = _tips([entry for entry in record.lineage if entry.revision in graph])
        raise UnknownRecorded(unknown, known)


def _check_not_below(graph: Graph, record: Record, steps: Sequence[str]) -> None:
    """Refuse steps that the scripts place before something that is applied already."""
    if not graph.closure(entry.revision for entry in record.lineage).intersection(steps):
        return
    for entry in record.lineage:
        missing = graph.closure([entry.revision]).intersection(steps)
        if missing:
            raise HistoryConflict(sorted(missing), entry.revision)


def _before_barriers(graph: Graph, steps: Sequence[str]) -> list[str]:
    blocked: set[str] = set()
    for rev in steps:
        if graph[rev].final or blocked.intersection(graph[rev].needs):
            blocked.add(rev)
    return [rev for rev in steps if rev not in blocked]


def _barrier_above(graph: Graph, steps: Sequence[str], reachable: set[str], package: str | None) -> BarrierInTheWay:
    barriers = [graph[rev] for rev in steps if graph[rev].final]
    tips = ", ".join(graph.tips(reachable)) or "base"
    versions = [barrier.versions.get(package or "") for barrier in barriers]
    first = _earliest(version for version in versions if version)
    return BarrierInTheWay(barriers[0].id, barriers[0].name, "upgrade", tips, package, first)


def _barrier_below(barrier: Applied, package: str | None) -> BarrierInTheWay:
    version = (barrier.versions or {}).get(package or "")
    return BarrierInTheWay(barrier.revision, barrier.name, "downgrade", barrier.revision, package, version)


def _earliest(versions: Iterable[str]) -> str | None:
    from packaging.version import InvalidVersion, Version

    known = []
    for version in versions:
        try:
            known.append(Version(version))
        except InvalidVersion:
            continue  # a version that cannot be compared cannot be the first
    return str(min(known)) if known else None


def _undone(graph: Graph, record: Record, target: targets.Target, package: str | None) -> list[Applied]:
    """Return what has to be undone, last applied first."""
    lineage = list(reversed(record.lineage))
    if isinstance(target, targets.Relative):
        return _last(lineage, target.steps, package)
    if target == targets.Named("base"):
        return lineage
    if target == targets.Named("barrier"):
        return [entry for entry in lineage if not entry.final]
    ids = {entry.revision for entry in lineage}
    below = applied_revisions(graph, record) - ids
    wanted = resolve(graph, target, ids)
    for revision in wanted:
        if revision in below:
            barriers = [entry for entry in lineage if entry.final and revision in graph.closure([entry.revision])]
            raise _barrier_below(barriers[0], package)
        if revision not in ids:
            raise NotApplied(revision, record.heads)
    above = _after(record.lineage, wanted)
    return [entry for entry in lineage if entry.revision in above]


def _last(lineage: list[Applied], steps: int, package: str | None) -> list[Applied]:
    if steps > 0:
        raise UsageError(f"+{steps} goes up: write `upgrade +{steps}`")
    barrier = next((entry for entry in lineage if entry.final), None)
    if -steps > len(lineage):
        if barrier is not None:
            raise _barrier_below(barrier, package)
        raise NotThatMany(str(steps), len(lineage), "downgrade base")
    return lineage[:-steps]


def _after(lineage: Sequence[Applied], wanted: Iterable[str]) -> set[str]:
    """Return what was applied after some revisions and rests on one of them."""
    found: set[str] = set()
    resting = set(wanted)
    for entry in lineage:
        if entry.revision not in resting and resting.intersection((*entry.parents, *entry.depends_on)):
            found.add(entry.revision)
            resting.add(entry.revision)
    return found


def _tips(entries: Sequence[Applied]) -> tuple[str, ...]:
    parents = {parent for entry in entries for parent in entry.parents}
    return tuple(sorted({entry.revision for entry in entries} - parents))


def _final(graph: Graph, entry: Applied) -> bool:
    return entry.final or (entry.revision in graph and graph[entry.revision].final)


def _reversible(graph: Graph, entry: Applied) -> bool:
    if entry.revision in graph:
        return graph[entry.revision].reversible
    return entry.undo is not None
