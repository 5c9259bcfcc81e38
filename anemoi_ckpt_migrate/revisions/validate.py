"""Find the faults that keep revisions from forming a graph, each with its script. Pure: no files, no torch."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from anemoi_ckpt_migrate.errors import Fault
from anemoi_ckpt_migrate.revisions.graph import Revision, digraph_of, resolved


def faults(revisions: Iterable[Revision], excused: Callable[[str], bool] = lambda rev: False) -> list[Fault]:
    """Return every fault that keeps revisions from forming a graph.

    Faults are duplicate ids, labels and migration names, parents and dependencies without a script, and cycles.

    Parameters
    ----------
    revisions : iterable of Revision
        All revisions that could be read.
    excused : callable, optional
        Returns whether an unknown id may belong to a script that could not be read.
    """
    known = list(revisions)
    first: dict[str, Revision] = {}
    for revision in known:
        first.setdefault(revision.id, revision)
    doubled = [*_doubled_ids(known, first), *_doubled_labels(known, first), *_doubled_names(known)]
    unknown = list(_unknown(known, first, excused))
    return doubled + unknown + _cycles({revision.id: revision for revision in resolved(first.values())})


def _doubled_ids(known: Iterable[Revision], first: Mapping[str, Revision]) -> Iterator[Fault]:
    squashed: dict[str, Revision] = {}
    for revision in known:
        if first[revision.id] is not revision:
            other = first[revision.id].path
            message = f"revision {revision.id} has the same id as {other}; give one of them another id"
            yield Fault(revision.path, revision.line("revision"), message)
        for part in revision.replaces:
            if part.id in first:
                other = first[part.id].path
                message = f"it replaces {part.id}, but {other} is still there; remove one of the two scripts"
                yield Fault(revision.path, revision.line("replaces"), message)
            elif part.id in squashed:
                message = f"it replaces {part.id}, and so does {squashed[part.id].path}; remove one of the two scripts"
                yield Fault(revision.path, revision.line("replaces"), message)
            squashed.setdefault(part.id, revision)


def _doubled_labels(known: Iterable[Revision], first: Mapping[str, Revision]) -> Iterator[Fault]:
    given: dict[str, Revision] = {}
    squashed = {part.id: revision for revision in first.values() for part in revision.replaces}
    for revision in known:
        for label in revision.labels:
            line = revision.line("branch_labels")
            if label in given:
                message = f"the label {label} is already used by {given[label].path}; a label names one branch"
                yield Fault(revision.path, line, message)
            elif label in first:
                yield Fault(revision.path, line, f"the label {label} is the id of {first[label].path}; choose another")
            elif label in squashed:
                message = f"the label {label} is an id that {squashed[label].path} replaces; choose another"
                yield Fault(revision.path, line, message)
            given.setdefault(label, revision)


def _doubled_names(known: Iterable[Revision]) -> Iterator[Fault]:
    given: dict[str, Revision] = {}
    for revision in known:
        for name in revision.known_as:
            other = given.setdefault(name, revision)
            if other is not revision:
                message = f"{name} in known_as is also in {other.path}; only one script may have it"
                yield Fault(revision.path, revision.line("known_as"), message)


def _unknown(
    known: Iterable[Revision], first: Mapping[str, Revision], excused: Callable[[str], bool]
) -> Iterator[Fault]:
    squashed = {part.id for revision in first.values() for part in revision.replaces}
    labels = {label for revision in first.values() for label in revision.labels}
    parents = first.keys() | squashed
    for revision in known:
        needed = [("down_revision", name, parents) for name in revision.parents]
        needed += [("depends_on", name, parents | labels) for name in revision.depends_on]
        for word, name, there in needed:
            if name not in there and not excused(name):
                yield Fault(revision.path, revision.line(word), f"{word} names {name}, which no script has")


def _cycles(revisions: Mapping[str, Revision]) -> list[Fault]:
    """Report every cycle; networkx is needed only if there is one."""
    sorter = graphlib.TopologicalSorter({revision.id: revision.needs for revision in revisions.values()})
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return [_cycle(way, revisions) for way in _knots(revisions)]
    return []


def _knots(revisions: Mapping[str, Revision]) -> Iterator[list[str]]:
    """Yield a shortest cycle for each group of revisions that come before themselves, through its first member."""
    import networkx

    graph = digraph_of(revisions.values())
    for members in networkx.strongly_connected_components(graph):
        if len(members) > 1 or graph.has_edge(*2 * tuple(members)):
            needs, start = graph.subgraph(members).reverse(), min(members)
            ways = (networkx.shortest_path(needs, needed, start) for needed in sorted(needs.successors(start)))
            yield [start, *min(ways, key=len)]


def _cycle(way: Sequence[str], revisions: Mapping[str, Revision]) -> Fault:
    first = revisions[way[0]]
    edge = next(word for word in ("down_revision", "depends_on") if way[1] in _needed(first, word))
    message = f"revision {way[0]} is part of a cycle: it needs {', which needs '.join(way[1:])}"
    files = ", ".join(dict.fromkeys(revisions[rev].path for rev in way[1:] if rev != way[0]))
    return Fault(first.path, first.line(edge), message + (f" (with {files})" if files else ""))


def _needed(revision: Revision, word: str) -> tuple[str, ...]:
    return revision.parents if word == "down_revision" else revision.depends_on
