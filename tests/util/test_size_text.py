"""Sizes, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.util.size_text import bytes_of


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
