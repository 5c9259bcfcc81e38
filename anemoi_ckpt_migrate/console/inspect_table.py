"""A table of many checkpoints by format, and those that are dangerous to load: the end of `inspect`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.console.output import say
from anemoi_ckpt_migrate.console.tables import Column, counts, print_table
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.text import numbered, sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult

_MOST = 20


@dataclass
class _Row:
    """Checkpoints of one format."""

    count: int = 0
    size: int = 0
    dead: int = 0
    tensors: int = 0
    recorded: int = 0


class InspectTable:
    """Counts checkpoints by format, and notes those that name dangerous functions or are damaged."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._others: Counter[str] = Counter()
        self._dangerous: list[str] = []
        self._damaged = 0

    def add(self, result: JobResult) -> None:
        """Count a checkpoint."""
        found = result.result
        if found is None:
            self._others[result.status] += 1
            return
        row = self._rows.setdefault(found.facts.format, _Row())
        row.count, row.size, row.dead = row.count + 1, row.size + result.size, row.dead + found.facts.dead
        row.tensors, row.recorded = row.tensors + len(found.tensors), row.recorded + (found.record is not None)
        if any(name.standing == DANGEROUS for name in found.names):
            self._dangerous.append(result.checkpoint)
        self._damaged += bool(found.damaged)

    def print(self, quiet: bool) -> None:
        """Print the table, or a line."""
        titles = ("files", "size", "unused", "tensors", "with a record")
        if not quiet:
            rows = sorted(self._rows.items(), key=lambda item: -item[1].count)
            print_table(
                [Column("format"), *(Column(title, numbers=True) for title in titles)],
                [
                    (kind, f"{row.count:,}", sized(row.size), sized(row.dead), f"{row.tensors:,}", f"{row.recorded:,}")
                    for kind, row in rows
                ],
            )
        for path in self._dangerous[:_MOST]:
            say(f"dangerous to load: {path}")
        more = len(self._dangerous) - _MOST
        if more > 0:
            say(f"and {more:,} more that are dangerous to load")
        count, size = sum(row.count for row in self._rows.values()), sum(row.size for row in self._rows.values())
        dangerous = [f"{len(self._dangerous):,} dangerous to load"] if self._dangerous else []
        damaged = [f"{self._damaged:,} damaged"] if self._damaged else []
        say(
            ", ".join([f"{numbered(count, 'checkpoint')} ({sized(size)})", *dangerous, *damaged, *counts(self._others)])
        )
