"""Time zones by name."""

from __future__ import annotations

import datetime


def zone(name: str) -> datetime.tzinfo | None:
    """Return a time zone of the tz database by its name, in any case; None if there is none.

    Parameters
    ----------
    name : str
        ``UTC``, which needs no tz database, ``Europe/Berlin``, ``est5edt``.
    """
    if name.upper() == "UTC":
        return datetime.timezone.utc
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        known = {each.lower(): each for each in zoneinfo.available_timezones()}.get(name.lower())
    return None if known is None else zoneinfo.ZoneInfo(known)
