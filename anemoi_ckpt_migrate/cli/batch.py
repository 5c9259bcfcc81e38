"""Run a command on many checkpoints, from the command line."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from anemoi_ckpt_migrate.batch.dask_cluster import dask_executor
from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, REFUSED, Job, JobResult
from anemoi_ckpt_migrate.batch.pool import SIGNALS, Attention, runner
from anemoi_ckpt_migrate.batch.report_file import report_file
from anemoi_ckpt_migrate.batch.summary import mask
from anemoi_ckpt_migrate.cli.common import worst
from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.console.batch_progress import batch_progress
from anemoi_ckpt_migrate.errors import MigrateError, UsageError
from anemoi_ckpt_migrate.util.dataclass import asdict
from anemoi_ckpt_migrate.util.text import sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.select import Selection

_ALIKE = 10  # errors of a kind that are printed


class Table(Protocol):
    """What a call prints at its end."""

    def add(self, result: JobResult) -> None:
        """Count the result for one checkpoint."""

    def print(self, quiet: bool) -> None:
        """Print the table, or a line."""


def run_batch(
    args: argparse.Namespace,
    selection: Selection,
    job: Job,
    show: Callable[[Any], None],
    table: Table,
    code_of: Callable[[Any], int] = lambda result: 0,
) -> int:
    """Run a job on many checkpoints, say what became of them, and return the exit code.

    Parameters
    ----------
    args : Namespace
        The arguments of the command line.
    selection : Selection
        The checkpoints.
    job : Job
        The work.
    show : callable
        Prints the result of the command for one checkpoint.
    table : Table
        Prints the end.
    code_of : callable
        Returns the exit code for the result of the command on one checkpoint.
    """
    groups = list(selection.groups())
    chosen = [each for group in groups for each in group]
    attention, codes, left = Attention(), [0], {each.path: each.size for each in chosen}
    complaints = _Complaints(args)
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(dask_executor(args.dask, args.jobs, job.needed)) if args.dask else None
        report = stack.enter_context(report_file(args.report, _header(args, job, selection))) if args.report else None
        if report is not None:
            report.found(each.path for each in chosen)
            report.found_all()
        stack.enter_context(_signals(attention))
        hidden = args.quiet or args.json
        advance = stack.enter_context(batch_progress(len(chosen), sum(each.size for each in chosen), hidden))
        for result in runner(args.jobs, executor)(job, groups, attention):
            is_full = getattr(result.error, "disk_is_full", False)
            if result.status != INTERRUPTED and not is_full:
                left.pop(result.checkpoint, None)
            codes.append(code_of(result.result) if result.result is not None else result.exit_code)
            table.add(result)
            if report is not None:
                report.add(result)
            if isinstance(result.error, UsageError):  # the others would fail in the same way
                raise result.error
            _tell(result, args, show, complaints)
            advance(result)
            if is_full:
                attention.stop()
    if not args.json:
        table.print(args.quiet)
    if attention.number:
        sys.stderr.write(
            f"interrupted with {len(left):,} of {len(chosen):,} left; run the same command again to do the rest\n"
        )
        return 128 + attention.number
    if attention.stopped:
        output.warn([_stopped(left)])
    return worst(codes)


def _tell(result: JobResult, args: argparse.Namespace, show: Callable[[Any], None], complaints: _Complaints) -> None:
    """Say what became of one checkpoint, as far as you want to know it."""
    if result.same_as:
        output.warn([f"{result.checkpoint}: skipped, because it is the same file as {result.same_as}"])
        return
    if args.verbose and result.printed:
        (sys.stderr if args.json else sys.stdout).write(result.printed)
    if result.error is None:
        if args.json or (args.verbose and not args.quiet):
            show(result.result)
    elif result.status in (FAILED, REFUSED):
        complaints.add(result.error, result.checkpoint)
    elif args.json:
        output.print_json(result.to_data())
    elif args.verbose and not args.quiet:
        output.say(f"{result.error}")


def _stopped(left: Mapping[str, int]) -> str:
    ways = "free some space, or give --no-backup or --in-place, and run the same command again"
    size = sized(sum(left.values()))
    return f"stopped because the disk is full, with {len(left):,} left, whose copies need up to {size}: {ways}"


class _Complaints:
    """Prints errors, but of those that differ only in names and numbers only the first ones."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._seen: Counter[tuple[str, str]] = Counter()

    def add(self, error: MigrateError, checkpoint: str) -> None:
        """Print an error, unless there were many like it."""
        reason = type(error).__name__, mask(error.sentence, checkpoint)
        self._seen[reason] += 1
        if self._seen[reason] <= _ALIKE or self._args.verbose:
            output.complain(error, self._args.json, checkpoint, self._args.chain)
            return
        if self._seen[reason] == _ALIKE + 1:
            output.warn(["more errors of this kind are only counted; -v prints each"])
        if self._args.json:
            output.print_error(error, checkpoint)


def _header(args: argparse.Namespace, job: Job, selection: Selection) -> dict[str, Any]:
    given = {name: value for name, value in asdict(selection).items() if value and name not in ("part", "allow_empty")}
    given |= {"dry_run": True} if job.options.get("dry_run") else {}
    return {"command": job.command, "target": job.options.get("target", ""), "given": given, "part": selection.part}


@contextlib.contextmanager
def _signals(attention: Attention) -> Iterator[None]:
    """Let signals stop the work, and the second one end the process."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def notice(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        attention.notice(number, frame)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, notice)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
