"""A pattern that is compiled when it is used answers as a compiled one."""

from __future__ import annotations

import re

from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex


def test_a_pattern_answers_as_a_compiled_one() -> None:
    lazy, compiled = (make(r"(?P<word>[a-z]+)\d", re.IGNORECASE) for make in (lazy_regex, re.compile))
    for text in ("ab1 C2", "", "1"):
        assert lazy.findall(text) == compiled.findall(text)
        assert lazy.sub("-", text) == compiled.sub("-", text)
        assert bool(lazy.fullmatch(text)) == bool(compiled.fullmatch(text))
    assert (lazy.pattern, lazy.flags, lazy.groupindex) == (compiled.pattern, compiled.flags, compiled.groupindex)


def test_bytes() -> None:
    assert lazy_regex(rb"\d").search(b"a1").group() == b"1"


def test_a_name_that_patterns_lack() -> None:
    assert not hasattr(lazy_regex("a"), "replace")
