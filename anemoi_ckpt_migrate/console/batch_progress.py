"""Progress over many checkpoints, on the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult


@contextlib.contextmanager
def batch_progress(count: int, size: int, quiet: bool) -> Iterator[Callable[[JobResult], None]]:
    """Yield a function to call with each result. On a terminal it moves a bar, above which all other lines appear.

    Parameters
    ----------
    count, size : int
        The number of checkpoints, and of their bytes.
    quiet : bool
        Whether to show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda result: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[done]:,} of {task.fields[count]:,}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task, done = progress.add_task("", total=size, done=0, count=count), 0

        def advance(result: JobResult) -> None:
            nonlocal done
            done += 1
            progress.update(task, advance=result.size, done=done)

        yield advance
