"""Print the backups of a checkpoint, and what happens to each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.batch.summary import mask
from anemoi_ckpt_migrate.console.output import print_json, say
from anemoi_ckpt_migrate.console.tables import Column, counts, print_table
from anemoi_ckpt_migrate.errors import shown_path
from anemoi_ckpt_migrate.util.text import numbered, sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult
    from anemoi_ckpt_migrate.commands.clean import Cleaned, CleanedBackup


def print_cleaned(cleaned: Cleaned, as_json: bool) -> None:
    """Print the result of `clean`."""
    if as_json:
        print_json(cleaned.to_data())
        return
    say(f"{cleaned.checkpoint}: {_summary(cleaned)}")
    places = [shown_path(backup.path) for backup in cleaned.backups]
    width = max(map(len, places), default=0)
    for place, backup in zip(places, cleaned.backups, strict=True):
        say(f"  {place:{width}}  {sized(backup.size):>8}  {_fate(backup)}")


def _summary(cleaned: Cleaned) -> str:
    count = len(cleaned.backups)
    chosen = sum(backup.chosen for backup in cleaned.backups)
    if not chosen:
        return "nothing to remove" if count else "no backups"
    some = f"{chosen} of {numbered(count, 'backup')}"
    if not cleaned.dry_run:
        return f"{some} removed, {sized(cleaned.frees)} freed"
    return f"{some} would be removed, which frees {sized(cleaned.frees)} (dry run; add --remove to remove them)"


def _fate(backup: CleanedBackup) -> str:
    made = f"made {backup.made}, " if backup.made else ""
    if not backup.chosen:
        return f"{made}stays: {backup.reason}"
    return made + ("removed" if backup.removed else "would be removed")


class BackupTable:
    """Counts the backups of many checkpoints.

    Parameters
    ----------
    remove : bool
        Whether they are removed.
    """

    def __init__(self, remove: bool) -> None:
        self._remove = remove
        self._checkpoints = self._count = self._chosen = self._frees = 0
        self._stay: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def add(self, result: JobResult) -> None:
        """Count the backups of a checkpoint."""
        self._checkpoints += 1
        cleaned = result.result
        if cleaned is None:
            self._others[result.status] += 1
            return
        self._count += len(cleaned.backups)
        self._frees += cleaned.frees
        for backup in cleaned.backups:
            self._chosen += backup.chosen
            if not backup.chosen:
                self._stay[mask(backup.reason, result.checkpoint)] += 1

    def print(self, quiet: bool) -> None:
        """Print why backups stay, and a line."""
        if not quiet:
            rows = [(f"{count:,}", reason) for reason, count in self._stay.most_common()]
            print_table([Column("stay", numbers=True), Column("because")], rows)
        done = "removed" if self._remove else "would be removed"
        frees = f"{sized(self._frees)} freed" if self._remove else f"which frees {sized(self._frees)}"
        dry = "" if self._remove or not self._chosen else " (dry run; add --remove to remove them)"
        all_of_them = f"{numbered(self._count, 'backup')} of {numbered(self._checkpoints, 'checkpoint')}"
        some = f"{self._chosen:,} of {all_of_them} {done}, {frees}{dry}"
        say(", ".join([some, *counts(self._others)]))
