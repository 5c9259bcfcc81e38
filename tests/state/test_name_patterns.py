"""Patterns of names: what they match, what they bind, and that a match costs no more than the name is long."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.state.name_patterns import among, check_stars, literal, literals, pattern, turns
from tests.support.work import growth

MATCHES = [
    ("h.{i}.w", "h.3.w", {"i": "3"}),
    ("h.{i}.w", "h.3.4.w", None),
    ("h.{i}.w", "h..w", None),
    ("h.{i}.{i}", "h.3.3", {"i": "3"}),
    ("h.{i}.{i}", "h.3.4", None),
    ("h{i}{j}", "hab", {"i": "a", "j": "b"}),
    ("h.*", "h.3.w", {}),
    ("*.w", "h.3.w", {}),
    ("h.*.w", "h.w", None),
    ("*a*b*", "xaxbx", {}),
    ("*a*b*", "xbxax", None),
    ("ab*ba", "aba", None),
    ("{i}.*", "h.3.w", {"i": "h"}),
    ("{i}.*.*w", "h.3.w", {"i": "h"}),
    ("*.{i}", "h.3.w", {"i": "w"}),
    ("w{*}", "w*", {}),
    ("w{*}", "wx", None),
    ("w{{}i}", "w{i}", {}),
    ("w", "w", {}),
    ("w.", "wx", None),
]


@pytest.mark.parametrize(("text", "name", "bound"), MATCHES)
def test_a_match(text: str, name: str, bound: dict[str, str] | None) -> None:
    assert pattern(text).bind(name) == bound
    assert list(pattern(text).among({"other": 0, name: 1})) == ([] if bound is None else [(name, bound)])


def spelled(parts: list[str]) -> str:
    """Return the regular expression of a pattern."""
    known: set[str] = set()
    found = ""
    for part in parts:
        name = part.strip("{}")
        if part.startswith("{"):
            found += f"(?P={name})" if name in known else f"(?P<{name}>[^.]+)"
            known.add(name)
        else:
            found += ".*" if part == "*" else re.escape(part)
    return found


@given(st.lists(st.sampled_from(["{i}", "{j}", "*", ".", "a", "b", "ab"]), max_size=6), st.text("ab.", max_size=9))
def test_it_matches_like_a_regular_expression(parts: list[str], name: str) -> None:
    text = "".join(parts)
    whole, start = re.fullmatch(spelled(parts), name), re.match(spelled(parts), name)
    assert pattern(text).bind(name) == (None if whole is None else whole.groupdict())
    assert pattern(text).begin(name) == (None if start is None else (start.groupdict(), start.end()))


def test_what_it_is_made_of() -> None:
    found = pattern("{b}.{a}.{b}.*.*")
    assert (found.places, found.stars, found.open) == (("b", "a"), 2, True)
    assert [pattern(text).open for text in ("a", "{*}", "*", "{i}")] == [False, False, True, True]
    # Only then may Python's own expressions be used, which try a failed path again.
    assert [pattern(text).simple for text in ("{i}.*", "{i}.{j}", "{i}{j}", "{i}*", "{i}.*.*")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_it_is_filled() -> None:
    assert pattern("h.{i}.{*}{{}.{j}").fill({"i": "3"}) == "h.3.*{.{j}"
    assert pattern("h").fill({"h": "3"}) == "h"


def test_a_literal() -> None:
    for name in ("a*", "{i}", "{*}", "a.b"):
        assert pattern(literal(name)).bind(name) == {}
        assert pattern(literal(name)).fill({}) == name
    assert literals(["a*", "b"]) == ("a{*}", "b")


def test_one_determines_the_other() -> None:
    assert turns("a.{i}", "b.{i}")
    assert turns("a", "b")
    assert not turns("a.{i}", "b.{j}")
    assert not turns("a.{i}", "b")
    assert not turns("a.*", "b.*.*")
    assert not turns("a.{i}{j}", "b.{i}.{j}")


def test_new_names_have_no_star() -> None:
    check_stars("Rename", ["a.{i}", "{*}"])
    with pytest.raises(BadOperation, match=re.escape("Rename: `*` is not allowed in b.*, because")):
        check_stars("Rename", ["a", "b.*"])


def test_a_name_of_more_than_a_thousand_characters() -> None:
    assert pattern("{i}").bind("a" * 1000) == {"i": "a" * 1000}
    assert pattern("a" * 1001).bind("a" * 1001) == {}
    with pytest.raises(BadOperation, match=r"has more than 1000 characters, too many for \{i\}"):
        pattern("{i}").bind("a" * 1001)


def test_too_many_ways() -> None:
    with pytest.raises(BadOperation, match="may match a pattern in too many ways"):
        pattern("{a}{b}{c}{d}{e}{a}{b}{c}!").bind("a" * 900)


@given(
    st.lists(st.text("a.*{}i0", max_size=5), min_size=5, max_size=8),
    st.lists(st.text("a.*{}i0", max_size=6), unique=True),
)
def test_many_patterns_match_as_each_does(texts: list[str], names: list[str]) -> None:
    table = dict.fromkeys(names)
    assert list(among(texts, table)) == [(text, list(pattern(text).among(table))) for text in texts]


def test_many_patterns_refuse_what_is_too_long() -> None:
    with pytest.raises(BadOperation, match="too many for"):
        list(among([f"h.{number}.{{i}}" for number in range(9)], {"g" * 1001: 0}))


def test_many_patterns_are_tried_on_few_names_each() -> None:
    def made(blocks: int) -> Callable[[], object]:
        names = {f"h.{block}.{leaf}": 0 for block in range(blocks) for leaf in "abc"}
        texts = [f"h.{block}.*" for block in range(blocks)]
        assert all(pattern(text).open for text in texts)  # parsed now, and so not counted
        return lambda: list(among(texts, names))

    assert growth(made, 100) < 1.4


def test_a_name_needs_no_regular_expression() -> None:
    each = pattern("h.0.w")
    assert [each.bind("h.0.w"), each.bind("h.0.x"), each.begin("h.0.w.b")] == [{}, None, ({}, 5)]
    assert "regex" not in vars(each)
