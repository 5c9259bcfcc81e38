"""A record is JSON, whatever values its operations hold."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.record.encode import _MADE, decode, encode, encode_tensor

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


@given(st.lists(st.integers(0, 3), max_size=3), st.data())
def test_a_tensor_comes_back_as_its_dtype_its_shape_and_its_bytes(shape: list[int], data: st.DataObject) -> None:
    size = math.prod(shape) * 4
    content = data.draw(st.binary(min_size=size, max_size=size))
    spelled = json.loads(json.dumps([encode_tensor("float32", tuple(shape), content)]))
    assert decode(spelled, lambda *found: list(found)) == [["float32", tuple(shape), content]]
    with pytest.raises(DamagedRecord, match=r"\$tensor in it does not encode a value"):
        decode(spelled)  # a tensor has no place among operations


def test_other_values_are_spelled_by_whoever_knows_them() -> None:
    found = encode({"a": (1, Path("x")), "b": [None, True, 2.5, "y"]}, lambda value: f"path {value}")
    assert found == {"a": {"$tuple": [1, "path x"]}, "b": [None, True, 2.5, "y"]}


def test_the_page_of_the_record_shows_every_tag() -> None:
    page = Path(__file__).parents[2] / "docs" / "record.md"
    if not page.exists():
        pytest.skip("the sources are not here")
    table = page.read_text().partition("## Values that JSON lacks")[2]
    examples = [json.loads(example) for example in re.findall(r"`({.*?})`", table)]
    made = [decode(example, lambda *found: found) for example in examples]
    assert {tag for example in examples for tag in example} == {*_MADE, "$tensor"}
    assert ("float32", (2, 1), struct.pack("<2f", 0, 1)) in made


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
