"""The ordered table of names: where an insertion goes, and that it looks at no other name."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.state import ordered_names
from anemoi_ckpt_migrate.state.ordered_names import Table


def test_an_insertion_goes_behind_the_last_name_and_before_what_has_none() -> None:
    table = Table([(None, "first"), ("a", 1), ("b", 2), (None, "last")])
    table.insert({"c": 3})
    assert [name for name, _ in table.everything()] == [None, "a", "b", "c", None]
    table.remove("c")
    table.remove("b")
    table.insert({"d": 4})
    assert [name for name, _ in table.everything()] == [None, "a", "d", None]


def test_an_insertion_goes_first_if_no_name_is_left() -> None:
    table = Table([("a", 1), (None, "counter")])
    table.remove("a")
    table.insert({"b": 2})
    assert [name for name, _ in table.everything()] == ["b", None]


@given(st.lists(st.tuples(st.sampled_from(["end", "first", "remove", "turn", "rename"]), st.integers(0, 9))))
def test_a_table_is_like_a_list(changes: list[tuple[str, int]]) -> None:
    table, names = Table([("a", 0), ("b", 0), ("c", 0)]), ["a", "b", "c"]
    for number, (change, place) in enumerate(changes):
        name = names[place % len(names)] if names else None
        if change == "end":
            table.insert({f"n{number}": 0})
            names.append(f"n{number}")
        elif change == "first":
            table.insert_at(f"n{number}", 0, None, first=True)
            names.insert(0, f"n{number}")
        elif change == "turn":
            table.reorder(names[::-1])
            names.reverse()
        elif name is not None and change == "remove":
            table.remove(name)
            names.remove(name)
        elif name is not None:
            table.rename({name: f"n{number}"})
            names[names.index(name)] = f"n{number}"
        assert list(table) == names


def test_insertions_at_the_end_compare_no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def rank(entry: Any) -> Any:
        looked.append(entry)
        return attrgetter("rank")(entry)

    monkeypatch.setattr(ordered_names, "_RANK", rank)
    table = Table((f"a{number}", 0) for number in range(100))
    for number in range(100):
        table.insert({f"b{number}": 0})
    assert len(table) == 200
    assert looked == []
