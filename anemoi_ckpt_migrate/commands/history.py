"""The commands that show the history, or a stretch of it: history, graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.commands.read_record import standing
from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import downgrade_set, planner, resolve, targets
from anemoi_ckpt_migrate.revisions.draw_export import FORMATS
from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
from anemoi_ckpt_migrate.scripts.discover import changed_since
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class History:
    """Revisions, newest first.

    Attributes
    ----------
    entries : tuple of HistoryEntry
        The revisions, in this order.
    warnings : tuple of str
        Warnings for the user.
    """

    entries: tuple[HistoryEntry, ...]
    warnings: tuple[str, ...] = ()


def history(
    checkpoint: StrPath | None = None,
    *,
    rev_range: str | None = None,
    project: Project | StrPath | None = None,
    chain: str | None = None,
) -> History:
    """List revisions, newest first; with a checkpoint, mark those that it has.

    Parameters
    ----------
    checkpoint : path, optional
        The file.
    rev_range : str, optional
        ``A:B``, both ends included; either may be left out. The ends are targets, or ``current`` if there is a
        checkpoint. ``-N:B`` begins N steps below B, ``A:+N`` ends N steps above A.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    MigrateError
        The project or the checkpoint cannot be read, or the range makes no sense.
    """
    found = resolve_project(project, chain)
    place = None if checkpoint is None else standing(checkpoint, found)
    record, notes = (None, ()) if place is None else (place.record or Record(), place.notes)
    lineage = () if record is None else record.lineage
    graph = found.graph.seen_from(entry.revision for entry in lineage)
    if rev_range is None:
        shown = graph.order(revision.id for revision in graph)
    else:
        shown = _Ends(graph, record, found.config.package).between(rev_range)
    entries = _entries(graph, reversed(shown), record, bool(notes))
    if record is None:
        return History(entries)
    here = _here(graph, record)
    foreign = (
        [] if rev_range else [_foreign(e, e.revision in here) for e in reversed(lineage) if e.revision not in graph]
    )
    return History((*foreign, *entries), (*notes, *changed_since(graph, record)))


def counted(listed: History, heads: Mapping[str, int]) -> History:
    """Return a history with the number of checkpoints that are at each revision.

    Parameters
    ----------
    listed : History
        The revisions.
    heads : mapping of str to int
        How many checkpoints have a revision as a head.
    """
    known = {entry.revision for entry in listed.entries}
    foreign = [rev for rev in heads if rev not in known]
    unknown = (HistoryEntry(rev, "", (), known=False, checkpoints=heads[rev]) for rev in sorted(foreign))
    entries = (replace(entry, checkpoints=heads.get(entry.revision, 0)) for entry in listed.entries)
    return replace(listed, entries=(*unknown, *entries))


def draw(
    kind: str = "mermaid",
    checkpoint: StrPath | None = None,
    *,
    rev_range: str | None = None,
    project: Project | StrPath | None = None,
    chain: str | None = None,
) -> str:
    """Draw the history.

    Parameters
    ----------
    kind : str
        ``mermaid``, ``dot`` or ``svg``.

    The other parameters and the errors are those of `history`.

    Returns
    -------
    str
        The content of the picture file.
    """
    if kind not in FORMATS:
        raise UsageError(f"{kind!r} is not a format; the formats are {', '.join(FORMATS)}")
    return FORMATS[kind](history(checkpoint, rev_range=rev_range, project=project, chain=chain).entries)


class _Ends:
    """Resolves the ends of a range."""

    def __init__(self, graph: Graph, record: Record | None, package: str | None) -> None:
        self._graph, self._record, self._package = graph, record, package

    def between(self, text: str) -> list[str]:
        """Return the revisions of a range, in order."""
        wanted = targets.parse_range(text)
        start, end = wanted.start, wanted.end
        if isinstance(start, targets.Relative) and isinstance(end, targets.Relative):
            raise UsageError(f"{text!r} has two relative ends; write a revision for one of them")
        upper = None if end is None else self._end(end, start)
        lower = () if start is None else self._start(start, upper)
        found = resolve.between(self._graph, lower, upper, resolve.line_of(self._graph, start))
        if not found and len(self._graph):
            raise UsageError(f"{text!r} holds no revision; write the earlier end first")
        return found

    def _start(self, start: targets.Target, end: set[str] | None) -> Iterable[str]:
        if isinstance(start, targets.Relative):
            if start.steps > 0:
                raise UsageError(f"a range cannot begin at {start.steps:+}, above its end")
            order = self._graph.order((revision.id for revision in self._graph) if end is None else end)
            return (*self._graph.highest(order[: start.steps]), *order[start.steps :])
        if _of_checkpoint(start):
            return self._graph.tips(self._state(start))
        return resolve.resolve(self._graph, start, self._package)

    def _end(self, end: targets.Target, start: targets.Target | None) -> set[str]:
        if not isinstance(end, targets.Relative):
            return self._state(end)
        if end.steps < 0:
            raise UsageError(f"a range cannot end at {end.steps}, below its start")
        place = start.target if isinstance(start, targets.OnBranch) else start or targets.Named("base")
        if not isinstance(place, (targets.Id, targets.Named)):
            raise UsageError(f"{end.steps:+} can only be counted from a revision, head, base or current")
        beyond = targets.Beyond(place, end.steps)
        return self._state(targets.OnBranch(start.branch, beyond) if isinstance(start, targets.OnBranch) else beyond)

    def _state(self, target: targets.Target) -> set[str]:
        """Return all revisions that a checkpoint at this end of the range has."""
        if not _of_checkpoint(target):
            return resolve.state(self._graph, target, self._package)
        steps = target.steps if isinstance(target, targets.Beyond) else 0
        if self._record is None:
            raise UsageError("`current` needs a checkpoint: name one")
        applied = downgrade_set.applied_revisions(self._graph, self._record) & {rev.id for rev in self._graph}
        if steps > 0:
            plan = planner.plan_upgrade(self._graph, self._record, targets.Relative(steps), self._package)
            return applied.union(step.revision for step in plan.steps)
        if steps < 0:
            return applied - downgrade_set.undone(self._graph, self._record, targets.Relative(steps), self._package)
        return applied


def _of_checkpoint(target: targets.Target) -> bool:
    """Return whether a target is ``current``, or a number of steps from it."""
    return targets.CURRENT in (target, target.start if isinstance(target, targets.Beyond) else None)


def _entries(graph: Graph, shown: Iterable[str], record: Record | None, recognised: bool) -> tuple[HistoryEntry, ...]:
    applied = set() if record is None else downgrade_set.applied_revisions(graph, record)
    heads, here = set(graph.heads), _here(graph, record)
    return tuple(
        HistoryEntry(
            rev,
            graph[rev].name,
            graph[rev].parents,
            graph[rev].depends_on,
            graph[rev].labels,
            rev in heads,
            graph[rev].final,
            graph[rev].reversible,
            applied=None if record is None else rev in applied,
            here=rev in here,
            path=graph[rev].path,
            versions=graph[rev].versions,
            sets_up=graph[rev].sets_up,
            recognised=recognised and rev in applied,
        )
        for rev in shown
    )


def _here(graph: Graph, record: Record | None) -> set[str]:
    """Return the revisions a checkpoint is at, as `current` shows them; empty without a checkpoint."""
    return set() if record is None else set(planner.heads_of(graph, record))


def _foreign(entry: Applied, here: bool) -> HistoryEntry:
    """Describe a revision that is only in the checkpoint's record."""
    return HistoryEntry(
        entry.revision,
        entry.name,
        entry.parents,
        entry.depends_on,
        final=entry.final,
        reversible=entry.undo is not None,
        known=False,
        applied=True,
        here=here,
        versions=entry.versions or {},
    )
