"""Choose, for one checkpoint, between squashed revisions and their parts."""

from __future__ import annotations

from collections.abc import Sequence

from anemoi_ckpt_migrate.errors import AmbiguousTarget, UnknownTarget
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph


def expand_squashed_for(
    graph: Graph, record: Record, wanted: Sequence[targets.Target] = (), package: str | None = None
) -> Graph:
    """Return the graph for a checkpoint that is to move to some targets.

    A squashed group counts as one revision, unless the checkpoint has a part of it or a target names a part.
    """
    applied = [entry.revision for entry in record.lineage]
    whole = {part.id for rev in applied if rev in graph for part in graph[rev].replaces}
    parts = [part for target in wanted for part in _parts_in(graph, target, package) if part not in whole]
    return graph.seen_from([*applied, *parts])


def _parts_in(graph: Graph, target: targets.Target, package: str | None) -> list[str]:
    """Return the parts of squashed revisions that a target names."""
    if isinstance(target, targets.Released):
        return [graph[rev].replaces[0].id for rev in resolve.split_by(graph, target, package)]
    place = target.target if isinstance(target, targets.OnBranch) else target
    start = place.start if isinstance(place, targets.Beyond) else place
    if not isinstance(start, targets.Id) or not graph.replaced or start.text in graph:
        return []
    try:
        found = graph.opened().find(start.text)
    except (UnknownTarget, AmbiguousTarget):
        return []  # resolving the target raises the error
    return [found] if found in graph.replaced and start.text not in graph.labels else []
