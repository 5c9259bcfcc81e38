"""A table of many checkpoints by revision and format: what `current` prints at the end of a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.console.output import say
from anemoi_ckpt_migrate.console.tables import Column, counts, print_table
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.text import numbered, sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult
    from anemoi_ckpt_migrate.commands.current import Current
    from anemoi_ckpt_migrate.storage.find_checkpoints import Entry


@dataclass
class _Row:
    """Checkpoints at the same revisions, in the same format."""

    count: int = 0
    size: int = 0
    dead: int = 0


class CurrentTable:
    """Counts checkpoints by the revisions that they are at, and by format.

    Parameters
    ----------
    backups : iterable of Entry
        The backups beside them.
    """

    def __init__(self, backups: Iterable[Entry] = ()) -> None:
        self._rows: dict[tuple[str, str], _Row] = {}
        self._others: Counter[str] = Counter()
        self._backups = backups

    def add(self, result: JobResult) -> None:
        """Count a checkpoint."""
        found = result.result
        if found is None:
            self._others[result.status] += 1
            return
        row = self._rows.setdefault((_place(found), found.file.format), _Row())
        row.count, row.size, row.dead = row.count + 1, row.size + result.size, row.dead + found.file.dead

    def print(self, quiet: bool) -> None:
        """Print the table, or a line."""
        count, size = sum(row.count for row in self._rows.values()), sum(row.size for row in self._rows.values())
        if not quiet:
            numbers = [Column(title, numbers=True) for title in ("files", "size", "unused")]
            rows = sorted(self._rows.items(), key=lambda item: -item[1].count)
            print_table(
                [Column("at"), Column("format"), *numbers],
                [(*key, f"{row.count:,}", sized(row.size), sized(row.dead)) for key, row in rows],
            )
        sizes = [each.size for each in self._backups]
        backups = [f"{numbered(len(sizes), 'backup')} ({sized(sum(sizes))})"] if sizes else []
        say(", ".join([f"{numbered(count, 'checkpoint')} ({sized(size)})", *counts(self._others), *backups]))


def _place(found: Current) -> str:
    """Return the revisions of a checkpoint, in words."""
    if not found.heads:
        return "base" if found.recorded else "no record"
    names = ", ".join(f"{head.revision} {head.name}" for head in found.heads)
    return f"{names}{' (head)' * bool(found.at_head)}{' (recognised)' * found.recognised}"
