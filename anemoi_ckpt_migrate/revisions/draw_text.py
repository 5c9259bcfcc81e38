"""Draw the graph of revisions with characters. Pure: no files, no torch.

Every second character is a lane. You can read a drawing downwards with these rules alone:

- Below a revision, only its own edges turn, and a lane that ends there; all others run straight down.
- A sideways edge continues in its direction as long as a character follows, and crosses lanes on its path. It has
  arrived where it can only go down. Where a lane begins below it, one edge goes down and another one continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from anemoi_ckpt_migrate.revisions.draw_layout import Row, laid_out
from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
from anemoi_ckpt_migrate.util.dataclass import dataclass


def as_text(entries: Sequence[HistoryEntry], describe: Callable[[HistoryEntry], str]) -> Iterator[str]:
    r"""Draw a graph, newest first, as ``git log --graph`` does.

    Here the heads of the checkpoint are b and c::

        o f
        |\
        | o e
        #=|== d
        @ | c
        | @ b
        |/
        * a

    A node is ``*``. For a checkpoint, ``*`` is an applied revision, ``o`` a missing one, and ``@`` a head of the
    checkpoint. A barrier is a wall: ``#`` (``@`` for a head of the checkpoint) in a line of ``=`` that extends past the
    last lane. A lane that shows in the wall belongs to another branch, and passes. Lines between revisions appear only
    where lanes move, and where another lane begins right below the end of one.

    Parameters
    ----------
    entries : sequence of HistoryEntry
        Revisions, each before its parents. Edges to parents outside the sequence are left out.
    describe : callable
        Returns the text beside a node, in one line.

    Yields
    ------
    str
        A line, without trailing spaces.
    """
    lanes: set[int] = set()
    ended: int | None = None
    for row in laid_out(entries).rows:
        lanes.discard(row.lane)
        if row.lane == ended:
            yield _line(_lanes(lanes))
        yield f"{_node(row, lanes)} {describe(row.entry)}".rstrip()
        yield from _moves(row, lanes)
        # A line of moves separates them already.
        ended = None if row.goes_on or row.joined else row.lane
        lanes |= row.opened | ({row.lane} if row.goes_on else set())
        lanes.discard(-1 if row.pulled is None else row.pulled)


def _node(row: Row, lanes: Iterable[int]) -> str:
    cells = _lanes(lanes) | {2 * row.lane: _mark(row.entry)}
    if row.entry.final:
        cells = dict.fromkeys(range(max(cells) + 3), "=") | cells
    return _line(cells)


def _mark(entry: HistoryEntry) -> str:
    if entry.here:
        return "@"
    if entry.final:
        return "#"
    return "o" if entry.applied is False else "*"


def _lanes(lanes: Iterable[int]) -> dict[int, str]:
    return {2 * lane: "|" for lane in lanes}


def _line(cells: dict[int, str]) -> str:
    return "".join(cells.get(cell, " ") for cell in range(max(cells, default=-1) + 1))


@dataclass(frozen=True)
class _Move:
    """Edges from one lane to others on one side of it, drawn from a given line on."""

    start: int
    ends: tuple[int, ...]
    line: int

    @property
    def height(self) -> int:
        """Number of lines it takes: one to leave the lane and pass others, one to arrive."""
        return 1 if abs(self.ends[-1] - self.start) == 1 else 2

    def arrival(self, end: int) -> int:
        """Return the line in which it reaches a lane."""
        return self.line if abs(end - self.start) == 1 else self.line + 1

    def draw(self, lines: list[dict[int, str]]) -> None:
        """Draw it; existing characters stay."""
        step = 1 if self.ends[-1] > self.start else -1
        slope = "\\" if step > 0 else "/"
        lines[self.line][2 * self.start + step] = slope
        for end in self.ends:
            lines[self.arrival(end)][2 * end - step] = slope
        if abs(self.ends[-1] - self.start) > 2:
            for cell in range(2 * (self.start + step), 2 * self.ends[-1] - step, step):
                lines[self.line].setdefault(cell, "_")


def _moves(row: Row, lanes: Iterable[int]) -> list[str]:
    """Draw the lines below a revision in which lanes move.

    Parameters
    ----------
    row : Row
        The revision.
    lanes : iterable of int
        The lanes that pass the revision.
    """
    left = _side(row, [lane for lane in row.joined[::-1] if lane < row.lane])
    right = _side(row, [lane for lane in row.joined if lane > row.lane])
    moves = left + right
    leaves = max((move.line for move in moves), default=0)  # the line in which the last edge leaves the node's lane
    if row.pulled is not None:
        # An edge from the right would seem to cross if edges to the left left after it.
        moves.append(_Move(row.pulled, (row.lane,), max(leaves, _height(right))))
    height = _height(moves)
    begins = {lane: move.arrival(lane) + 1 for move in moves for lane in move.ends if lane in row.opened}
    ends = dict.fromkeys((*lanes, *begins, row.lane), height)
    if row.pulled is not None:
        ends[row.pulled] = moves[-1].line
    if not row.goes_on:
        ends[row.lane] = leaves
    lines: list[dict[int, str]] = [{} for _ in range(height)]
    for lane, end in ends.items():
        for line in range(begins.get(lane, 0), end):
            lines[line][2 * lane] = "|"
    for move in moves:
        move.draw(lines)
    return [_line(cells) for cells in lines]


def _side(row: Row, ends: Sequence[int]) -> list[_Move]:
    """Return the edges to one side of a node; `ends` lists the lanes, nearest first."""
    # Joining the adjacent lane and crossing it would look the same in one line.
    beside = ends and abs(ends[0] - row.lane) == 1 and ends[0] not in row.opened
    parts = [tuple(part) for part in ((ends[:1], ends[1:]) if beside else (ends,)) if part]
    return [_Move(row.lane, part, line) for line, part in enumerate(parts)]


def _height(moves: Sequence[_Move]) -> int:
    return max((move.line + move.height for move in moves), default=0)
