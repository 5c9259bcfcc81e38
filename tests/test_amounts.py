"""Sizes and ages, as people write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.util.amounts import bytes_of, moment_of

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("5GB", 5_000_000_000),
        ("5 gb", 5_000_000_000),
        ("512MiB", 512 << 20),
        ("1k", 1000),
        ("2Ti", 2 << 40),
        ("7B", 7),
    ],
)
def test_a_size(text: str, count: int) -> None:
    assert bytes_of(text) == count


@given(st.integers(0, 10**18 - 1), st.sampled_from("KMGT"), st.booleans(), st.sampled_from(["", " "]))
def test_every_size_in_any_unit(count: int, unit: str, binary: bool, space: str) -> None:
    factor = 1024 if binary else 1000
    text = f"{count}{space}{unit}{'i' if binary else ''}B"
    assert bytes_of(text) == bytes_of(text.lower()) == count * factor ** ("KMGT".index(unit) + 1)


@given(st.text())
def test_any_text_is_a_size_or_none(text: str) -> None:
    found = bytes_of(text)
    assert found is None or (found >= 0 and text.strip()[0].isdigit())


@pytest.mark.parametrize("text", ["", "-1", "1.5GB", "GB", "5 apples", "5PB", "1e9", "٣GB", "9" * 19])
def test_no_size(text: str) -> None:
    assert bytes_of(text) is None


@given(st.integers(0, 10**5), st.sampled_from(["min", "h", "d", "w"]))
def test_an_age(count: int, unit: str) -> None:
    step = {"min": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}[unit]
    moment = moment_of(f"{count}{unit}", NOW)
    assert moment is None or NOW - moment == datetime.timedelta(minutes=count * step)
    assert moment is not None or count * step > 1000 * 365 * 24 * 60  # before the calendar


@given(st.datetimes(timezones=st.just(datetime.timezone.utc)))
def test_a_moment_in_iso_8601(moment: datetime.datetime) -> None:
    assert moment_of(moment.isoformat(), NOW) == moment
    assert moment_of(moment.isoformat().replace("+00:00", "Z"), NOW) == moment


def test_a_date_is_its_first_moment_here() -> None:
    assert moment_of("2026-01-31", NOW) == datetime.datetime(2026, 1, 31).astimezone()


@given(st.text())
def test_any_text_is_a_moment_or_none(text: str) -> None:
    found = moment_of(text, NOW)
    assert found is None or found.tzinfo is not None


@pytest.mark.parametrize("text", ["", "30", "30 years", "-3d", "1.5h", "yesterday", "2026-13-01", "999999999w"])
def test_no_age(text: str) -> None:
    assert moment_of(text, NOW) is None
