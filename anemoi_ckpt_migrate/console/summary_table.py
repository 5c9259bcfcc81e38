"""The summary of a run over many checkpoints: a table at the end, or one line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, MOVED, REFUSED, SAME, UNRELATED, JobResult
from anemoi_ckpt_migrate.batch.report_lines import result_line
from anemoi_ckpt_migrate.batch.summary import UNREACHED, Move, Reason, Summary
from anemoi_ckpt_migrate.console.output import flush, print_json, printing, put, say, warn
from anemoi_ckpt_migrate.console.tables import stdout_console
from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.util.text import lasted, numbered, plain, sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.report import Report

_DONE = {
    "upgrade": "upgraded",
    "downgrade": "downgraded",
    "stamp": "stamped",
    "compact": "compacted",
}
_WORDS = {
    SAME: "already there",
    UNRELATED: "unrelated",
    REFUSED: "refused",
    FAILED: "failed",
    INTERRUPTED: "interrupted",
    UNREACHED: "not reached",
}
_COLOURS = {MOVED: "green", REFUSED: "yellow", FAILED: "bold red", INTERRUPTED: "bold red", UNREACHED: "bold red"}
_MOST = 10  # moves, reasons of a status, and warnings in the table; the others are counted


def summary_line(summary: Summary) -> str:
    """Return a summary as one line, which ends with the size and the time.

    Parameters
    ----------
    summary : Summary
        The summary.

    Examples
    --------
    >>> summary_line(summary)
    '9,998 upgraded, 1 already there, 1 refused, 12.3 GB in 4 min 2 s'
    """
    words = {MOVED: _done(summary), **_WORDS}
    counts = [f"{summary.counts[status]:,} {word}" for status, word in words.items() if summary.counts[status]]
    spent = summary.seconds if summary.elapsed is None else summary.elapsed
    return ", ".join([*(counts or [numbered(0, "checkpoint")]), f"{sized(summary.size)} in {lasted(spent)}"])


def print_summary(summary: Summary) -> None:
    """Print a summary as a table, whose last line is that of `summary_line`."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for status, what, count, detail in _rows(summary):
        table.add_row(Text(what, _COLOURS.get(status, "")), count, plain(detail))
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        put(line.rstrip())
    say(summary_line(summary))


class SummaryTable:
    """Adds up the results of a run, and prints the summary."""

    def __init__(self, command: str) -> None:
        self._summary, self._begun = Summary(command), time.monotonic()

    def add(self, result: JobResult) -> None:
        """Add the result for a checkpoint."""
        self._summary.add(result_line(result))

    def print(self, quiet: bool) -> None:
        """Print the table, or only its last line."""
        self._summary.elapsed = time.monotonic() - self._begun
        if quiet:
            say(summary_line(self._summary))
        else:
            print_summary(self._summary)


def print_report(report: Report, as_json: bool) -> None:
    """Print the result of `report`."""
    if as_json:
        print_json(report.to_data())
        return
    print_summary(report.summary)
    flush()
    warn(_warnings(report))


def print_left(report: Report, null: bool) -> None:
    """Print the checkpoints that are left, so that ``--from-file`` reads the same names.

    Parameters
    ----------
    report : Report
        The result of `report`.
    null : bool
        Whether paths end in NUL bytes instead of lines.

    Raises
    ------
    UsageError
        A path has a line break in it, and NUL bytes are not asked for. Nothing was printed.
    """
    broken = next((path for path in report.left if "\n" in path), None)
    if broken is not None and not null:
        raise UsageError(f"the name {broken!r:.200} has a line break; give --null, here and with --from-file")
    end = b"\0" if null else b"\n"
    with printing():
        sys.stdout.flush()
        for path in report.left:
            sys.stdout.buffer.write(os.fsencode(path) + end)
        sys.stdout.buffer.flush()
    warn(_warnings(report))


def _warnings(report: Report) -> Iterator[str]:
    for missing in report.missing_parts:
        yield f"there is no report of these parts of {missing.count}: {missing.parts}"
    if report.unfinished:
        runs = numbered(report.unfinished, "run")
        yield f"{runs} ended before all checkpoints were found, so there may be more; run the same command again"


def _done(summary: Summary) -> str:
    done = _DONE.get(summary.command or "", "moved")
    return f"{done} (dry run)" if summary.planned and summary.planned == summary.counts[MOVED] else done


def _rows(summary: Summary) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the table: the status, the word for it, a count, and a detail."""
    word = _done(summary)
    moves = summary.moves
    for move in moves[:_MOST]:
        yield MOVED, word, f"{move.count:,}", _went(move)
    yield from _rest(MOVED, word, moves)
    if summary.counts[SAME]:
        yield SAME, _WORDS[SAME], f"{summary.counts[SAME]:,}", ""
    for status in (UNRELATED, REFUSED, FAILED, INTERRUPTED, UNREACHED):
        yield from _reasons(status, _WORDS[status], [each for each in summary.reasons if each.status == status])
    yield from _reasons("", "warning", summary.warnings)


def _reasons(status: str, word: str, reasons: Sequence[Reason]) -> Iterator[tuple[str, str, str, str]]:
    for reason in reasons[:_MOST]:
        yield status, word, f"{reason.count:,}", reason.message
        yield "", "", "", reason.example if reason.count == 1 else f"for example {reason.example}"
    yield from _rest(status, word, reasons)


def _rest(status: str, word: str, groups: Sequence[Move] | Sequence[Reason]) -> Iterator[tuple[str, str, str, str]]:
    rest = groups[_MOST:]
    if rest:
        yield status, word, f"{sum(each.count for each in rest):,}", f"{len(rest)} more kinds, which --json lists"


def _went(move: Move) -> str:
    if move.start is None or move.end is None:
        return ""
    return f"{', '.join(move.start) or 'base'} -> {', '.join(move.end) or 'base'}"
