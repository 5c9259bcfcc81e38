"""Sizes and ages, as people write them."""

from __future__ import annotations

import datetime
import re

_SIZE = re.compile(r"([0-9]{1,18})\s*(?:([KMGT]?)(I?)B?)", re.IGNORECASE)
_AGE = re.compile(r"([0-9]{1,9})\s*(min|h|d|w)", re.IGNORECASE)
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def bytes_of(text: str) -> int | None:
    """Return the number of bytes of a size such as ``5GB``, ``512MiB`` or ``1000``; None if it is no size.

    Examples
    --------
    >>> bytes_of("5GB"), bytes_of("1 KiB"), bytes_of("many")
    (5000000000, 1024, None)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    unit: int = (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    return int(found[1]) * unit


def moment_of(text: str, now: datetime.datetime) -> datetime.datetime | None:
    """Return the moment that an age or a date means; None if it is neither.

    Parameters
    ----------
    text : str
        An age in minutes, hours, days or weeks (``90min``, ``12h``, ``30d``, ``2w``), or a date or a moment in ISO 8601
        (``2026-01-31``, ``2026-01-31T12:00Z``). Without a time zone, it is local time.
    now : datetime.datetime
        The moment from which an age counts, with a time zone.

    Returns
    -------
    datetime.datetime or None
        The moment, in UTC.

    Examples
    --------
    >>> moment_of("2w", datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc)).isoformat()
    '2026-01-17T00:00:00+00:00'
    """
    text = text.strip()
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            found = now - datetime.timedelta(**{_UNITS[age[2].lower()]: int(age[1])})
        else:
            found = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        return found.astimezone(datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):  # the last two: too far from now
        return None
