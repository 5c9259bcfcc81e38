"""The end of `check` on many checkpoints: problems by their reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.batch.summary import mask
from anemoi_ckpt_migrate.console.output import say
from anemoi_ckpt_migrate.console.tables import Column, counts, print_table
from anemoi_ckpt_migrate.util.text import numbered

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult


class CheckTable:
    """Counts checkpoints without problems, and problems by their reason."""

    def __init__(self) -> None:
        self._count = self._fine = 0
        self._problems: dict[str, tuple[int, str]] = {}
        self._others: Counter[str] = Counter()

    def add(self, result: JobResult) -> None:
        """Count a checkpoint."""
        self._count += 1
        if result.result is None:
            self._others[result.status] += 1
            return
        self._fine += not result.result.problems
        for problem in result.result.problems:
            reason = mask(problem.message, result.checkpoint)
            count, example = self._problems.get(reason, (0, str(problem)))
            self._problems[reason] = count + 1, example

    def print(self, quiet: bool) -> None:
        """Print the problems, or a line."""
        if not quiet:
            rows = sorted(self._problems.values(), reverse=True)
            print_table([Column("files", numbers=True), Column("for example")], [(f"{n:,}", text) for n, text in rows])
        problems = sum(count for count, _ in self._problems.values())
        said = [
            numbered(self._count, "checkpoint"),
            f"{self._fine:,} without problems",
            numbered(problems, "problem"),
            *counts(self._others),
        ]
        say(", ".join(said))
