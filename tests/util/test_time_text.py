"""Ages and points in time, as people write them on the command line."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.util.time_text import parse_age, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1d12h", 129_600),
        ("0.5h", 1800),
    ],
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "7y", "7D", "\u0667d", "1d 12h", "7d\n"])
def test_texts_that_are_no_ages(text: str) -> None:
    with pytest.raises(UsageError, match="is not an age; give one such as 7d"):
        parse_age(text)


def test_an_age_is_that_long_ago() -> None:
    before = time.time()
    assert before - 86_400 <= parse_time("1d") <= time.time() - 86_400


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-11-30T18:00Z", 18.0),
        ("2026-11-30T18:00:00+01:00", 17.0),
        ("2026-11-30 18:30:00Z", 18.5),
        ("2026-11-30T18:00:00.5Z", 18.0 + 0.5 / 3600),
        ("2026-11-30Z", 0.0),
    ],
)
def test_times_of_a_zone(text: str, hour: float) -> None:
    midnight = datetime.datetime(2026, 11, 30, tzinfo=datetime.timezone.utc).timestamp()
    assert parse_time(text) == pytest.approx(midnight + hour * 3600, abs=0.001)


def test_a_date_is_midnight_of_local_time() -> None:
    assert parse_time("2026-11-30") == datetime.datetime(2026, 11, 30).timestamp()
    assert parse_time("2026-11-30T18:00") == datetime.datetime(2026, 11, 30, 18).timestamp()


def test_a_file_is_the_time_when_it_was_changed(tmp_path: Path) -> None:
    marker = tmp_path / "last-run"
    marker.touch()
    os.utime(marker, (1.0, 1234.5))
    assert parse_time(str(marker)) == 1234.5


def test_a_folder_that_is_named_as_a_date_is_meant_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2026-11-30").mkdir()
    os.utime("2026-11-30", (1.0, 1234.5))
    assert parse_time("2026-11-30") == datetime.datetime(2026, 11, 30).timestamp()
    assert parse_time("./2026-11-30") == 1234.5


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-11-31", "2026-11-30T25:00", "12:00", "nowhere/x.ckpt", "a\0b"]
)
def test_texts_that_are_no_times(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no time; give an age such as 7d, a date such as 2026-11-30"):
        parse_time(text)
