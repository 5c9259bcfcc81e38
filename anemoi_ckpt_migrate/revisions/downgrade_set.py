"""Choose the applied revisions that a downgrade to a target undoes. Pure: no files, no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from anemoi_ckpt_migrate.errors import BarrierInTheWay, NotApplied, NotThatMany, SplitByTarget, UsageError
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph


def undone(graph: Graph, record: Record, target: targets.Target, package: str | None = None) -> set[str]:
    """Return the applied revisions that a downgrade to a target undoes.

    The record decides: its revisions and the order in which they were applied. The current scripts do not.

    Parameters
    ----------
    graph, record, target, package
        As for `planner.plan_downgrade`.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NoRelease, NotThatMany, NotApplied, UsageError
        The target names no place.
    BarrierInTheWay
        The target lies below a barrier of the checkpoint.
    """
    lineage = record.lineage
    ids = [entry.revision for entry in lineage]
    if isinstance(target, targets.Released):
        return _released(graph, record, target, package)
    if target == targets.Named("base"):
        return set(ids)
    if target == targets.Named("barrier"):
        return {entry.revision for entry in lineage if not entry.final}
    if isinstance(target, targets.Relative):
        return _last(graph, lineage, target.steps, package)
    if isinstance(target, targets.OnBranch):
        return _on_branch(graph, record, target, package)
    if isinstance(target, targets.Beyond):
        return _beyond(graph, record, target, package)
    return _above(graph, record, _place(graph, record, target), package)


def astray(graph: Graph, record: Record) -> set[str]:
    """Return the applied revisions that the scripts disagree with: unknown ones, and ones applied before their needs.

    Revisions that rest on one of them are included.
    """
    ids = {entry.revision for entry in record.lineage}
    right = applied_revisions(graph, record) - ids
    for entry in record.lineage:
        if entry.revision in graph and right.issuperset(graph[entry.revision].needs):
            right.add(entry.revision)
    return resting(graph, record.lineage, ids - right)


def applied_revisions(graph: Graph, record: Record) -> set[str]:
    """Return all revisions of the checkpoint: the lineage, and everything below its barriers."""
    lineage = {entry.revision for entry in record.lineage}
    return lineage | graph.closure(entry.revision for entry in record.lineage if entry.final)


def barrier_below(barrier: Applied, package: str | None) -> BarrierInTheWay:
    """Return the error for a barrier that stops a downgrade."""
    version = (barrier.versions or {}).get(package or "")
    return BarrierInTheWay(barrier.revision, barrier.name, "downgrade", barrier.revision, package, version)


def tips(graph: Graph, lineage: Iterable[Applied]) -> tuple[str, ...]:
    """Return the heads of a lineage: revisions without a child in it. The scripts give the parents, else the record."""
    parents = {entry.revision: entry.parents for entry in lineage}
    parents |= {rev: graph[rev].parents for rev in parents if rev in graph}
    return tuple(sorted(parents.keys() - {parent for above in parents.values() for parent in above}))


def _released(graph: Graph, record: Record, target: targets.Released, package: str | None) -> set[str]:
    ids = {entry.revision for entry in record.lineage}
    for rev in resolve.split_by(graph, target, package):
        if rev in ids:
            raise SplitByTarget(f"{target.package}{target.specifier}", rev, ", ".join(graph[rev].parents) or "base")
    return ids - resolve.had_by(graph, target, package)


def _last(graph: Graph, lineage: Sequence[Applied], steps: int, package: str | None) -> set[str]:
    if steps > 0:
        raise UsageError(f"+{steps} goes up: write `upgrade +{steps}`")
    if -steps > len(lineage):
        barrier = next((entry for entry in reversed(lineage) if entry.final), None)
        if barrier is not None:
            raise barrier_below(barrier, package)
        raise NotThatMany(str(steps), len(lineage), "downgrade base")
    return resting(graph, lineage, [entry.revision for entry in lineage[steps:]])


def _on_branch(graph: Graph, record: Record, target: targets.OnBranch, package: str | None) -> set[str]:
    branch, place = target.branch, target.target
    line = _line(graph, record.lineage, branch)
    there = [entry.revision for entry in record.lineage if entry.revision in line]
    if place == targets.Named("base"):
        return resting(graph, record.lineage, there)
    if isinstance(place, targets.Relative):
        if place.steps > 0:
            raise UsageError(f"{branch}@{place.steps:+} goes up: write `upgrade {branch}@{place.steps:+}`")
        if line.isdisjoint(tips(graph, record.lineage)):  # all its applied revisions belong to other branches too
            raise NotThatMany(f"{branch}@{place.steps}", 0)
        if -place.steps > len(there):
            raise NotThatMany(f"{branch}@{place.steps}", len(there), f"downgrade {branch}@base")
        return resting(graph, record.lineage, there[place.steps :])
    if isinstance(place, targets.Beyond):
        return _beyond(graph, record, place, package, branch)
    return _above(graph, record, _place(graph, record, place, branch), package, branch)


def _line(graph: Graph, lineage: Iterable[Applied], branch: str) -> set[str]:
    """Return the line of a branch, with followers that only the record knows."""
    line, followers = graph.line(branch), graph.followers(branch)
    for entry in lineage:
        if entry.revision not in graph and followers.intersection(entry.parents):
            followers.add(entry.revision)
    return line | followers


def _beyond(graph: Graph, record: Record, place: targets.Beyond, package: str | None, branch: str = "") -> set[str]:
    """Count steps from a place, in the order of application; on a branch, only along its line."""
    lineage = record.lineage
    above, below = [entry.revision for entry in lineage], list[str]()
    if place.start != targets.Named("base"):
        start = _place(graph, record, place.start, branch, place.steps)
        found = _above(graph, record, start, package, branch)
        above = [rev for rev in above if rev in found]
        below = _leading_to(graph, lineage, start)
    if branch:
        line = _line(graph, lineage, branch)
        above, below = ([rev for rev in some if rev in line] for some in (above, below))
    if abs(place.steps) > len(above if place.steps > 0 else below):
        raise NotThatMany(resolve.shown(place, branch), len(above if place.steps > 0 else below))
    if place.steps > 0:
        return resting(graph, lineage, above[place.steps :])
    return resting(graph, lineage, [*above, *below[place.steps :]])


def _place(graph: Graph, record: Record, place: targets.Target, branch: str = "", steps: int = 0) -> Sequence[str]:
    """Return the revisions at a place, within a branch if one is named."""
    if isinstance(place, targets.Id):
        return (_find(graph, record, place.text, branch),)
    heads = resolve.heads_of_branch(graph, branch) if branch else graph.heads
    if place != targets.Named("head"):
        return heads
    return resolve.head(graph, heads, branch, f"head{steps:+}" if steps < 0 else "")


def _find(graph: Graph, record: Record, text: str, branch: str = "") -> str:
    """Return the revision that matches a text; refuse part of a squashed revision, except its last part."""
    found = resolve.found_on(graph, text, branch, [entry.revision for entry in record.lineage])
    parts = [part.id for part in graph[found].replaces] if found in graph else []
    if text in parts[:-1]:
        raise SplitByTarget(text, found, ", ".join(graph[found].parents) or "base")
    return found


def _above(graph: Graph, record: Record, wanted: Iterable[str], package: str | None, branch: str = "") -> set[str]:
    """Return the revisions above the given ones, and everything that rests on those.

    On a branch, only revisions on its line are chosen. The given revisions stay, and so do revisions that only depend
    on them.
    """
    ids = {entry.revision for entry in record.lineage}
    below = applied_revisions(graph, record) - ids
    chosen = list(wanted)
    for revision in chosen:
        if revision in below:
            over = [entry for entry in record.lineage if entry.final and revision in graph.closure([entry.revision])]
            raise barrier_below(over[0], package)
        if revision not in ids:
            raise NotApplied(revision, record.heads)
    following = {entry.revision for entry in record.lineage if _parents(graph, entry).intersection(chosen)}
    if branch:
        following &= _line(graph, record.lineage, branch)
    stash = _leading_to(graph, record.lineage, chosen)  # one of the chosen revisions may rest on another
    return resting(graph, record.lineage, following.difference(stash))


def resting(graph: Graph, lineage: Iterable[Applied], wanted: Collection[str]) -> set[str]:
    """Return the given revisions of a lineage and all that rest on them, by the record or by the scripts."""
    entries = {entry.revision: entry for entry in lineage}
    above: defaultdict[str, list[str]] = defaultdict(list)
    for entry in entries.values():
        for needed in _needs(graph, entry):
            above[needed].append(entry.revision)
    found, waiting = set(), list(wanted)
    while waiting:
        rev = waiting.pop()
        if rev not in found:
            found.add(rev)
            waiting += above[rev]
    return found


def _leading_to(graph: Graph, lineage: Sequence[Applied], wanted: Iterable[str]) -> list[str]:
    """Return the given revisions of a lineage and all that they rest on, in order."""
    found = set(wanted)
    for entry in reversed(lineage):
        if entry.revision in found:
            found.update(_needs(graph, entry))
    return [entry.revision for entry in lineage if entry.revision in found]


def _needs(graph: Graph, entry: Applied) -> set[str]:
    own = {*entry.parents, *entry.depends_on}
    return own.union(graph[entry.revision].needs) if entry.revision in graph else own


def _parents(graph: Graph, entry: Applied) -> set[str]:
    return {*entry.parents, *(graph[entry.revision].parents if entry.revision in graph else ())}
