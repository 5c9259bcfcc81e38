"""Random graphs of revisions, and plain set algebra to compare with."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision

MOST = 12
"""The most revisions that a drawn history has."""

# Strategies are made once: to make one for each revision would cost more than everything else in these tests.
_IDS = [st.permutations([f"r{number:02}" for number in range(count)]) for count in range(MOST + 1)]
_EARLIER = st.integers(0, MOST - 1)
_REVISIONS = st.lists(
    st.tuples(st.lists(_EARLIER, max_size=3), st.lists(_EARLIER, max_size=1), *(st.integers(0, n) for n in (5, 7, 3))),
    max_size=MOST,
)


@st.composite
def histories(draw: st.DrawFn, barriers: bool = True, labels: bool = False, depends: bool = True) -> list[Revision]:
    """Draw revisions whose parents come before them: several roots, branches, merges, dependencies, barriers."""
    drawn = draw(_REVISIONS)
    ids = draw(_IDS[len(drawn)])
    revisions: list[Revision] = []
    for index, (below, needed, barrier, back, label) in enumerate(drawn):

        def earlier(numbers: list[int], index: int = index) -> tuple[str, ...]:
            return tuple(dict.fromkeys(ids[number % index] for number in numbers if index))

        final = barriers and barrier == 0
        found = Revision(
            ids[index],
            earlier(below),
            depends_on=earlier(needed) if depends else (),
            labels=(f"label{index}",) if labels and label == 0 else (),
            final=final,
            reversible=not final and back > 0,
        )
        revisions.append(found)
    return revisions


def closure(revisions: Iterable[Revision], wanted: Iterable[str]) -> set[str]:
    """Everything at or before some revisions, by adding what is needed until nothing is missing."""
    needs = {revision.id: set(revision.needs) for revision in revisions}
    found = set(wanted)
    while True:
        more = {parent for rev in found for parent in needs[rev]} - found
        if not more:
            return found
        found |= more


def tips(revisions: Iterable[Revision], chosen: set[str]) -> set[str]:
    """Those of some revisions that are parent of none of them."""
    return {rev for rev in chosen if not any(r.id in chosen and rev in r.parents for r in revisions)}


def recorded(graph: Graph, order: Iterable[str]) -> Record:
    """The record of a checkpoint to which revisions were applied in some order."""
    lineage = tuple(Applied(rev, graph[rev].parents, graph[rev].depends_on, final=graph[rev].final) for rev in order)
    return Record(graph.tips(entry.revision for entry in lineage), lineage)
