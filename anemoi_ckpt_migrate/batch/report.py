"""The command that merges reports: report."""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, MOVED, REFUSED
from anemoi_ckpt_migrate.batch.report_lines import CHECKPOINT, FOUND, FOUND_ALL, REPORT, read_lines
from anemoi_ckpt_migrate.batch.summary import Summary
from anemoi_ckpt_migrate.errors import ERROR, PENDING
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, field

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

_LEFT = (FAILED, REFUSED, INTERRUPTED)


@dataclass(frozen=True)
class MissingParts:
    """Parts of a run of which there is no report.

    Attributes
    ----------
    count : int
        Of how many parts.
    parts : str
        The missing ones, as ``3,5-7``: `sbatch --array` takes it in this form.
    """

    count: int
    parts: str


@dataclass(frozen=True)
class Report:
    """Several reports as one.

    Attributes
    ----------
    reports : tuple of str
        The files.
    runs : int
        How many runs wrote them.
    summary : Summary
        The last result for each checkpoint, added up.
    left : tuple of str
        The checkpoints to run the command on again: they failed, were refused or interrupted, or were never reached.
    missing_parts : tuple of MissingParts
        Parts of runs of which there is no report.
    unfinished : int
        How many runs ended before they had found all checkpoints, and were not begun again.
    """

    reports: tuple[str, ...]
    runs: int
    summary: Summary
    left: tuple[str, ...]
    missing_parts: tuple[MissingParts, ...] = ()
    unfinished: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 0 if everything is done."""
        if self.unfinished or self.missing_parts:
            return ERROR
        return self.summary.exit_code or (PENDING if self.summary.planned else 0)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "reports": list(self.reports),
            "runs": self.runs,
            "unfinished": self.unfinished,
            "missing_parts": [asdict(each) for each in self.missing_parts],
            "summary": self.summary.to_data(),
            "left": list(self.left),
        }


def report(reports: Sequence[StrPath]) -> Report:
    """Merge the reports of runs, and return what is done and what is left.

    Of several lines about a checkpoint, the last one counts: that of the run that began last.

    Parameters
    ----------
    reports : sequence of path
        Files that ``--report`` wrote: of several runs, of parts of a run, or while a run still writes.

    Raises
    ------
    NotAReport
        A file is no report.
    DamagedReport
        A line is damaged.
    CannotRead
        A file cannot be read.

    Examples
    --------
    >>> merged = report(["part-1.jsonl", "part-2.jsonl"])
    >>> print(merged.summary.counts["moved"], "moved,", len(merged.left), "left")
    """
    paths = tuple(os.fspath(path) for path in reports)
    runs: list[_Run] = []
    last: dict[str, _Place] = {}
    for mention in _mentions(paths, runs):
        last[mention.key] = max(mention.place, last.get(mention.key, mention.place))
    summary, left = Summary(_only({run.header["command"] for run in runs})), []
    for mention in _mentions(paths, []):
        if last.get(mention.key) != mention.place:
            continue
        del last[mention.key]
        line = mention.line
        if line is None:
            summary.add_unreached(mention.checkpoint)
        else:
            summary.add({**line, CHECKPOINT: mention.checkpoint})
        if line is None or line["status"] in _LEFT or (line["status"] == MOVED and line["dry_run"]):
            left.append(mention.checkpoint)
    summary.elapsed = _elapsed(runs)
    return Report(paths, len(runs), summary, tuple(left), _missing(runs), _unfinished(runs))


_Place = tuple[float, int, int, bool, int]


class _Mention(NamedTuple):
    """A checkpoint in a line of a report.

    Attributes
    ----------
    place : tuple
        When the run began, its report and its number there, whether it is a result, and the number of the line. Of
        several mentions, the last one counts.
    key : str
        The path from the root, which is the same for all mentions.
    checkpoint : str
        The path to show: as the run named it, if it ran in the current folder.
    line : dict or None
        The result; None if the checkpoint was only found.
    """

    place: _Place
    key: str
    checkpoint: str
    line: dict[str, Any] | None


@dataclass
class _Run:
    """A run, as its report tells.

    Attributes
    ----------
    header : dict
        The line with which it began.
    found_all : bool
        Whether it found all checkpoints before it ended.
    elapsed : float
        Seconds from its beginning to its last result.
    """

    header: dict[str, Any]
    found_all: bool = False
    elapsed: float = 0.0
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = datetime.datetime.fromisoformat(self.header["time"]).timestamp()

    def does(self, *names: str) -> str:
        """Return some fields of the header as one value that can be compared."""
        return json.dumps([self.header.get(name) for name in names], sort_keys=True)


def _mentions(paths: Sequence[str], runs: list[_Run]) -> Iterator[_Mention]:
    """Yield each mention of a checkpoint.

    Parameters
    ----------
    paths : sequence of str
        The reports.
    runs : list
        Takes the runs.
    """
    here = os.getcwd()
    for number, path in enumerate(paths):
        for at, (kind, line) in enumerate(read_lines(path)):
            if kind == REPORT:
                run, folder = _Run(line), line["folder"]
                runs.append(run)
            elif kind == FOUND_ALL:
                run.found_all = True
            elif kind == FOUND:
                for name in line[FOUND]:
                    yield _Mention((run.begun, number, len(runs), False, at), *_names(folder, here, name), None)
            else:
                run.elapsed = max(run.elapsed, line["after"])
                place = (run.begun, number, len(runs), True, at)
                yield _Mention(place, *_names(folder, here, line[CHECKPOINT]), line)


def _names(folder: str, here: str, name: str) -> tuple[str, str]:
    """Return the path of a checkpoint from the root, and the path to show."""
    if "://" in name:
        return name, name
    path = os.path.join(folder, name)
    key = path if os.pardir in path else os.path.normpath(path)  # the parent of a link is not that of its name
    return key, name if folder == here else path


def _only(commands: set[str | None]) -> str | None:
    return commands.pop() if len(commands) == 1 else None


def _elapsed(runs: Sequence[_Run]) -> float:
    """Return for how many seconds at least one of the runs was at work."""
    total, until = 0.0, 0.0
    for begun, end in sorted((run.begun, run.begun + run.elapsed) for run in runs):
        total += max(0.0, end - max(begun, until))
        until = max(until, end)
    return total


def _missing(runs: Sequence[_Run]) -> tuple[MissingParts, ...]:
    parts: dict[tuple[str, int], set[int]] = {}
    for run in runs:
        if run.header["part"] is not None:
            number, count = run.header["part"]
            parts.setdefault((run.does("command", "target", "given"), count), set()).add(number)
    missing = (MissingParts(count, _others(there, count)) for (_, count), there in parts.items())
    return tuple(each for each in missing if each.parts)


def _others(there: set[int], count: int) -> str:
    """Return the numbers from 1 to a count that are not there, as ranges."""
    ends = [0, *sorted(there), count + 1]
    gaps = ((before + 1, after - 1) for before, after in itertools.pairwise(ends))
    return ",".join(str(first) if first == end else f"{first}-{end}" for first, end in gaps if first <= end)


def _unfinished(runs: Sequence[_Run]) -> int:
    ordered = sorted(runs, key=lambda run: run.begun)
    latest = {run.does("command", "target", "given", "part"): run for run in ordered}
    return sum(not run.found_all for run in latest.values())
