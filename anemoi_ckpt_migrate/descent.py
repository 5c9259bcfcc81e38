"""What a target means on the way down: which of the applied revisions are to be undone. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from anemoi_ckpt_migrate import resolving, targets
from anemoi_ckpt_migrate.errors import BarrierInTheWay, NotApplied, NotOnBranch, NotThatMany, UsageError
from anemoi_ckpt_migrate.graph import Graph
from anemoi_ckpt_migrate.record import Applied, Record


def undone(graph: Graph, record: Record, target: targets.Target, package: str | None = None) -> set[str]:
    """Return the applied revisions that a downgrade to a target undoes.

    What was applied counts, in the order in which it was, not what the scripts say by now.

    Parameters
    ----------
    graph, record, target, package
        As for `planner.plan_downgrade`.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NoRelease, NotThatMany, NotApplied, UsageError
        The target does not say where to.
    BarrierInTheWay
        It lies below a barrier of the checkpoint.
    """
    lineage = record.lineage
    ids = [entry.revision for entry in lineage]
    if isinstance(target, targets.Released):
        return set(ids) - resolving.had_by(graph, target, package)
    if target == targets.Named("base"):
        return set(ids)
    if target == targets.Named("barrier"):
        return {entry.revision for entry in lineage if not entry.final}
    if isinstance(target, targets.Relative):
        return _last(lineage, target.steps, package)
    if isinstance(target, targets.OnBranch):
        return _on_branch(graph, record, target, package)
    return _above_place(graph, record, target, package)


def applied_revisions(graph: Graph, record: Record) -> set[str]:
    """Return all that the checkpoint has: the lineage, and what lies below its barriers."""
    lineage = {entry.revision for entry in record.lineage}
    return lineage | graph.closure(entry.revision for entry in record.lineage if entry.final)


def barrier_below(barrier: Applied, package: str | None) -> BarrierInTheWay:
    """Say that a barrier keeps a checkpoint from going further down."""
    version = (barrier.versions or {}).get(package or "")
    return BarrierInTheWay(barrier.revision, barrier.name, "downgrade", barrier.revision, package, version)


def _last(lineage: Sequence[Applied], steps: int, package: str | None) -> set[str]:
    if steps > 0:
        raise UsageError(f"+{steps} goes up: write `upgrade +{steps}`")
    if -steps > len(lineage):
        barrier = next((entry for entry in reversed(lineage) if entry.final), None)
        if barrier is not None:
            raise barrier_below(barrier, package)
        raise NotThatMany(str(steps), len(lineage), "downgrade base")
    return {entry.revision for entry in lineage[steps:]}


def _on_branch(graph: Graph, record: Record, target: targets.OnBranch, package: str | None) -> set[str]:
    members, place = graph.branch(target.branch), target.target
    there = [entry.revision for entry in record.lineage if entry.revision in members]
    if place == targets.Named("base"):
        return resting(record.lineage, there)
    if isinstance(place, targets.Relative):
        if place.steps > 0:
            raise UsageError(
                f"{target.branch}@{place.steps:+} goes up: write `upgrade {target.branch}@{place.steps:+}`"
            )
        if -place.steps > len(there):
            raise NotThatMany(f"{target.branch}@{place.steps}", len(there), f"downgrade {target.branch}@base")
        return resting(record.lineage, there[place.steps :])
    if isinstance(place, targets.Named):  # its head, or its heads
        heads = resolving.heads_of_branch(graph, target.branch)
        wanted = resolving.head(graph, heads) if place.word == "head" else heads
        return _above(graph, record, wanted, package)
    found = _place(graph, record, place.start if isinstance(place, targets.Beyond) else place)
    if not members.issuperset(found):
        raise NotOnBranch(found[0], target.branch)
    return _above_place(graph, record, place, package)


def _above_place(graph: Graph, record: Record, place: targets.Target, package: str | None) -> set[str]:
    """Return what rests on a place; steps are counted from there in the order in which they were applied."""
    if not isinstance(place, targets.Beyond):
        return _above(graph, record, _place(graph, record, place), package)
    if place.start == targets.Named("base"):
        above, below = [entry.revision for entry in record.lineage], []
    else:
        start = _place(graph, record, place.start)
        found = _above(graph, record, start, package)
        above = [entry.revision for entry in record.lineage if entry.revision in found]
        below = _leading_to(record.lineage, start)
    left, way = (above, "head") if place.steps > 0 else (below, "base")
    if abs(place.steps) > len(left):
        raise NotThatMany(resolving.shown(place), len(left), f"downgrade {way}")
    if place.steps > 0:
        return resting(record.lineage, above[place.steps :])
    return resting(record.lineage, [*above, *below[place.steps :]])


def _place(graph: Graph, record: Record, place: targets.Target) -> Sequence[str]:
    if isinstance(place, targets.Id):
        return (graph.find(place.text, [entry.revision for entry in record.lineage]),)
    return resolving.resolve(graph, place)


def _above(graph: Graph, record: Record, wanted: Iterable[str], package: str | None) -> set[str]:
    """Return what rests on revisions that the checkpoint has."""
    ids = {entry.revision for entry in record.lineage}
    below = applied_revisions(graph, record) - ids
    chosen = list(wanted)
    for revision in chosen:
        if revision in below:
            over = [entry for entry in record.lineage if entry.final and revision in graph.closure([entry.revision])]
            raise barrier_below(over[0], package)
        if revision not in ids:
            raise NotApplied(revision, record.heads)
    return resting(record.lineage, chosen) - set(chosen)


def resting(lineage: Iterable[Applied], wanted: Collection[str]) -> set[str]:
    """Return some revisions of a lineage, and what was applied after them and rests on one of them."""
    found = set(wanted)
    for entry in lineage:
        if found.intersection((*entry.parents, *entry.depends_on)):
            found.add(entry.revision)
    return found


def _leading_to(lineage: Sequence[Applied], wanted: Iterable[str]) -> list[str]:
    """Return some revisions of a lineage and what they rest on, in order."""
    found = set(wanted)
    for entry in reversed(lineage):
        if entry.revision in found:
            found.update((*entry.parents, *entry.depends_on))
    return [entry.revision for entry in lineage if entry.revision in found]
