"""Reports of runs over many checkpoints, written from lines such as ``a.ckpt: base -> c3``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import errors
from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, MOVED, REFUSED, SAME, UNRELATED, JobResult
from anemoi_ckpt_migrate.batch.report_file import report_file
from anemoi_ckpt_migrate.errors import MigrateError
from anemoi_ckpt_migrate.runtime.result import Result

ERRORS: dict[str, MigrateError] = {
    FAILED: errors.CannotRead("it cannot be read (permission denied)"),
    REFUSED: errors.ReadOnly(),
    UNRELATED: errors.Unrelated("nothing tells that it belongs to the project"),
    INTERRUPTED: errors.Interrupted(),
}
_DAYS = itertools.count(1)


def result(line: str, *warnings: str, error: MigrateError | None = None, dry_run: bool = False) -> JobResult:
    """Return what became of a checkpoint, which a line tells: ``a.ckpt: base -> c3``, ``a.ckpt: refused``."""
    checkpoint, status = line.rsplit(": ", 1)
    if status in ERRORS:
        return JobResult(checkpoint, status, error=error or ERRORS[status], size=10, seconds=0.5)
    start, _, end = status.partition(" -> ")
    heads, after = (tuple(each for each in text.split("+") if each != "base") for text in (start, end or start))
    found = Result(checkpoint, heads, after, dry_run=dry_run, warnings=warnings)
    return JobResult(checkpoint, MOVED if end else SAME, found, size=10, seconds=0.5)


def run(path: Path | str, *lines: str, found: Sequence[str] = (), all_found: bool = True, **header: Any) -> None:
    """Write the report of a run that was not interrupted, later than those before it.

    Parameters
    ----------
    path : path
        The report.
    *lines : str
        The results.
    found : sequence of str
        Checkpoints that were found, apart from those of the results.
    all_found : bool
        Whether the run found all checkpoints before it ended.
    **header : object
        Fields of the header.
    """
    given = {"command": "upgrade", "target": "head", "given": {"paths": ["runs"]}, "time": _time(next(_DAYS))}
    dry_run = bool(header.pop("dry_run", False))
    with report_file(path, {**given, **header}) as report:
        results = [result(line, dry_run=dry_run) for line in lines]
        report.found([*(each.checkpoint for each in results), *found])
        if all_found:
            report.found_all()
        for each in results:
            report.add(each)


def _time(day: int) -> str:
    return f"{2026 + day // 28:04}-01-{day % 28 + 1:02}T12:00:00+00:00"
