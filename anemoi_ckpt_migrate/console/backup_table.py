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
    if not count:
        return "no backups"
    chosen = sum(backup.chosen for backup in cleaned.backups)
    of = f"{chosen} of {count} backup{'s' * (count != 1)}"
    if not cleaned.dry_run:
        return f"{of} removed, {sized(cleaned.frees)} freed"
    way = "; --remove removes" if chosen else ""
    them = "" if not chosen else " it" if chosen == 1 else " them"
    return f"{of} to remove, which frees {sized(cleaned.frees)} (dry run, nothing removed{way}{them})"


def _fate(backup: CleanedBackup) -> str:
    made = f"of {backup.made}, " if backup.made else ""
    if not backup.chosen:
        return f"{made}stays: {backup.reason}"
    return made + ("removed" if backup.removed else "would be removed")
