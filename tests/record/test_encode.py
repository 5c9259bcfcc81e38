"""A record is JSON, whatever values its operations hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.record.encode import decode, encode

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashed = atoms | st.complex_numbers(allow_nan=False) | st.tuples(st.integers(), st.text())
values = st.recursive(
    hashed | st.frozensets(hashed) | st.sets(hashed),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashed | st.sampled_from(["$set", "$x"]), inner)
    ),
)


@given(values)
def test_values_come_back_from_json_as_they_were(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert (type(back), repr(_sorted(back))) == (type(value), repr(_sorted(value)))


def _sorted(value: Any) -> Any:
    """Give sets an order, so that two can be compared with the kinds of all that they hold."""
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(map(repr, map(_sorted, value)))
    if isinstance(value, dict):
        return {_key(key): _sorted(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_sorted, value))
    return value


def _key(key: Any) -> str:
    return f"{type(key).__name__} {key!r}"


def test_a_number_that_is_none() -> None:
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize(
    "data",
    [
        {"$what": 1},
        {"$bytes": "%"},
        {"$bytes": 1},
        {"$set": "ab"},
        {"$set": [[1]]},
        {"$dict": [[1]]},
        {"$complex": ["a"]},
        {"$float": "one"},
    ],
)
def test_a_tag_that_stands_for_no_value_is_damage(data: Any) -> None:
    with pytest.raises(DamagedRecord, match="does not encode a value"):
        decode([data])
