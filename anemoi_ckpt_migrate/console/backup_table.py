"""Print the backups of a checkpoint, and what happens to each."""

from __future__ import annotations

from anemoi_ckpt_migrate.commands.clean import Cleaned, CleanedBackup
from anemoi_ckpt_migrate.console.output import print_json, say
from anemoi_ckpt_migrate.errors import shown_path
from anemoi_ckpt_migrate.util.text import sized


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
    some = f"{chosen} of {count} backup{'s' * (count != 1)}"
    if not cleaned.dry_run:
        return f"{some} removed, {sized(cleaned.frees)} freed"
    return f"{some} would be removed, which frees {sized(cleaned.frees)} (dry run; add --remove to remove them)"


def _fate(backup: CleanedBackup) -> str:
    made = f"made {backup.made}, " if backup.made else ""
    if not backup.chosen:
        return f"{made}stays: {backup.reason}"
    return made + ("removed" if backup.removed else "would be removed")
