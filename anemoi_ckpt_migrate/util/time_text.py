"""Read ages and points in time, as people write them."""

from __future__ import annotations

import datetime
import os
import re
import time

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNIT = lazy_regex(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_AGE = lazy_regex(f"(?:{_UNIT.pattern})+", re.ASCII)
_ISO = lazy_regex(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def parse_age(text: str) -> float:
    """Return the seconds of an age: ``90s``, ``30m`` (minutes), ``12h``, ``7d``, ``2w``, ``1d12h``.

    Raises
    ------
    UsageError
        It is no age.

    Examples
    --------
    >>> parse_age("1d12h")
    129600.0
    """
    if not _AGE.fullmatch(text):
        raise UsageError(f"{text!r:.40} is not an age; give one such as 7d, 12h or 30m")
    return float(sum(float(count) * _SECONDS[unit] for count, unit in _UNIT.findall(text)))


def parse_time(text: str) -> float:
    """Return a point in time, in seconds since the epoch.

    A text that reads as an age or a date is one, even if there is a file of that name: ``./2026-11-30`` means the file.

    Parameters
    ----------
    text : str
        An age (so long ago; see `parse_age`), a date or a time of ISO 8601 (``2026-11-30``, ``2026-11-30T18:00``,
        ``2026-11-30 18:00:00+01:00``; local time if no zone is given), or a file (when it was changed last).

    Raises
    ------
    UsageError
        It is none of these.

    Examples
    --------
    >>> parse_time("2026-11-30T18:00:00Z")
    1796061600.0
    """
    if _AGE.fullmatch(text):
        return time.time() - parse_age(text)
    try:
        iso = _ISO.fullmatch(text)
        if iso is not None:
            return _of_iso(*iso.groups())
        return os.stat(text).st_mtime
    except (OSError, ValueError, OverflowError) as error:
        way = "give an age such as 7d, a date such as 2026-11-30, a time such as 2026-11-30T18:00, or a file"
        raise UsageError(f"{text!r:.80} is no time; {way}") from error


def _of_iso(date: str, clock: str | None, zone: str | None) -> float:
    """Return the time of a date, of a time of the day, and of a zone."""
    offset = "+00:00" if zone == "Z" else zone or ""  # Python 3.10 knows no Z
    hours, dot, fraction = (clock or "00:00").partition(".")
    found = datetime.datetime.fromisoformat(f"{date}T{hours}{offset}").timestamp()
    return found + float(f"0.{fraction}") if dot else found
