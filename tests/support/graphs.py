"""Random graphs of revisions, and plain set algebra to compare with."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision


@st.composite
def histories(
    draw: st.DrawFn, barriers: bool = True, most: int = 12, labels: bool = False, depends: bool = True
) -> list[Revision]:
    """Draw revisions whose parents come before them: several roots, branches, merges, dependencies, barriers."""
    count = draw(st.integers(0, most))
    ids = draw(st.permutations([f"r{number:02}" for number in range(count)]))
    revisions: list[Revision] = []
    for index, rev in enumerate(ids):
        earlier = ids[:index]
        parents = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if earlier else []
        depends = draw(st.lists(st.sampled_from(earlier), max_size=1)) if earlier and depends else []
        final = barriers and draw(st.integers(0, 5)) == 0
        reversible = not final and draw(st.integers(0, 7)) > 0
        labelled = (f"label{index}",) if labels and draw(st.integers(0, 3)) == 0 else ()
        found = Revision(
            rev, tuple(parents), depends_on=tuple(depends), labels=labelled, final=final, reversible=reversible
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
