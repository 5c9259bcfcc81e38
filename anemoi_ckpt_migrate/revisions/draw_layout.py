"""Lay out the graph of revisions: a row for each, lanes for the edges between. Pure: no files."""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Sequence

from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
from anemoi_ckpt_migrate.util.dataclass import dataclass, field


@dataclass(frozen=True)
class Row:
    """A revision in the picture, and the changes to the lanes below it.

    Attributes
    ----------
    entry : HistoryEntry
        The revision.
    lane, colour : int
        Its lane; the colour number of its line.
    goes_on : bool
        Whether an edge leads straight down its own lane.
    joined : tuple of int
        Other lanes that its edges lead to, sorted.
    opened : frozenset of int
        Those of the joined lanes that begin here.
    pulled : int or None
        A lane that ends below the row, because its edge continues in the lane of this revision.
    """

    entry: HistoryEntry
    lane: int
    colour: int
    goes_on: bool
    joined: tuple[int, ...]
    opened: frozenset[int]
    pulled: int | None


@dataclass(frozen=True)
class Edge:
    """A line from a revision down to one of its parents.

    Attributes
    ----------
    child, parent : int
        Their rows.
    route : tuple of (int, int)
        Its course: rows, and the lane in which it leaves each row downwards, until the next entry.
    colour : int
        Its colour number.
    """

    child: int
    parent: int
    route: tuple[tuple[int, int], ...]
    colour: int


@dataclass(frozen=True)
class Layout:
    """A graph with a place for every revision.

    Attributes
    ----------
    rows : tuple of Row
        The revisions, newest first.
    edges : tuple of Edge
        Edges in drawing order: where several share a lane, the last one gives the lane its colour.
    width : int
        Number of lanes.
    """

    rows: tuple[Row, ...]
    edges: tuple[Edge, ...]
    width: int


def laid_out(entries: Sequence[HistoryEntry]) -> Layout:
    """Find a place for each revision.

    A lane leads to one revision. It opens at a head or at a merge, and it ends at its revision. Revisions with a common
    parent join in the lane that leads to the parent. The lane of a revision continues to its first parent that has no
    lane yet. If every parent has one, a parent whose lane lies to the right is pulled over, so that pictures lean to
    the left.

    Parameters
    ----------
    entries : sequence of HistoryEntry
        Revisions, each before its parents. Edges to parents outside the sequence are left out.
    """
    places = {entry.revision: row for row, entry in enumerate(entries)}
    lanes = _Lanes()
    rows = tuple(lanes.place(row, entry, _parents(row, entry, places)) for row, entry in enumerate(entries))
    return Layout(rows, tuple(lanes.edges), lanes.columns.count)


@dataclass
class _Lane:
    """An open lane: the path to a revision in a later row."""

    column: int
    colour: int
    bends: list[tuple[int, int]]
    joins: list[tuple[int, int, int]] = field(default_factory=list)  # row, colour, number of bends before it
    owners: list[tuple[int, int, int]] = field(default_factory=list)  # the same, for edges straight below a revision

    def edges(self, row: int) -> list[Edge]:
        """Return the edges that arrive with the lane; those that give it its colour come last."""
        return [
            Edge(child, row, ((child, self.bends[behind - 1][1]), *self.bends[behind:]), colour)
            for child, colour, behind in (*self.joins, *self.owners)
        ]


class _Numbers:
    """Small numbers that tell apart objects alive at the same time, as few as possible."""

    def __init__(self) -> None:
        self.count = 0
        self._free: list[int] = []

    def take(self, after: int = -1) -> int:
        """Return a free number: the first after `after`, else the first free one, else a new one."""
        if self._free:
            place = bisect(self._free, after)
            return self._free.pop(place if place < len(self._free) else 0)
        self.count += 1
        return self.count - 1

    def give_back(self, number: int) -> None:
        """Free a number."""
        insort(self._free, number)


class _Lanes:
    """The open lanes, by the revision they lead to. No two have the same column or colour."""

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        self.columns, self._colours = _Numbers(), _Numbers()
        self._open: dict[str, _Lane] = {}

    def place(self, row: int, entry: HistoryEntry, parents: Sequence[str]) -> Row:
        """Place the revision of the next row. Its parents are in later rows."""
        column, colour = self._arrive(row, entry.revision)
        fresh = [parent for parent in parents if parent not in self._open]
        right = [parent for parent in parents if parent not in fresh and self._open[parent].column > column]
        pulled = None
        if fresh:
            self._open[fresh[0]] = _Lane(column, colour, [(row, column)])
        elif right:
            pulled = self._pull(row, self._open[right[0]], column, colour)
        else:
            self.columns.give_back(column)
            self._colours.give_back(colour)
        opened = [self._branch_off(row, parent, column) for parent in fresh[1:]]
        self._lead(row, column, colour, parents, opened)
        reached = sorted(self._open[parent].column for parent in parents)
        joined = tuple(other for other in reached if other != column)
        return Row(entry, column, colour, bool(fresh or right), joined, frozenset(opened), pulled)

    def _arrive(self, row: int, revision: str) -> tuple[int, int]:
        """Return the column and colour of a revision: those of the lane that ends here, or new ones."""
        lane = self._open.pop(revision, None)
        if lane is None:
            return self.columns.take(), self._colours.take()
        self.edges += lane.edges(row)
        return lane.column, lane.colour

    def _branch_off(self, row: int, parent: str, column: int) -> int:
        """Open a lane beside a column, and return its column."""
        opened = self.columns.take(after=column)
        self._open[parent] = _Lane(opened, self._colours.take(), [(row, opened)])
        return opened

    def _pull(self, row: int, lane: _Lane, column: int, colour: int) -> int:
        """Lead a lane over into a column, and return its old column."""
        left = lane.column
        self.columns.give_back(left)
        self._colours.give_back(lane.colour)
        lane.bends.append((row, column))
        lane.column, lane.colour = column, colour
        return left

    def _lead(self, row: int, column: int, colour: int, parents: Sequence[str], opened: Sequence[int]) -> None:
        """Note the edges of a revision: the first has its own colour, the others that of the lane they lead to."""
        for parent in parents:
            lane = self._open[parent]
            edges = lane.owners if lane.column in (column, *opened) else lane.joins
            edges.append((row, colour if parent == parents[0] else lane.colour, len(lane.bends)))


def _parents(row: int, entry: HistoryEntry, places: dict[str, int]) -> list[str]:
    return [parent for parent in dict.fromkeys(entry.parents) if places.get(parent, -1) > row]
