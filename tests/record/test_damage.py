"""A record that somebody edited: each field is checked, and what is sound comes back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anemoi_ckpt_migrate.errors import DamagedRecord, NewerRecord
from anemoi_ckpt_migrate.record import record as records
from anemoi_ckpt_migrate.record.record import FORMAT, Applied, LogEntry, Record, from_data, stash_of, to_data

BACKUP = {"number": 1, "size": 7, "modified": 1_700_000_000_000_000_000, "files": "0a" * 32}
RENAME = {"op": "Rename", "old": "y", "new": "x"}


def applied(revision: str, *parents: str, **more: Any) -> dict[str, Any]:
    """An entry of the lineage."""
    bare = {
        "depends_on": [],
        "name": f"change {revision}",
        "signature": "",
        "versions": {},
        "final": False,
        "undo": None,
    }
    return {"revision": revision, "parents": list(parents), **bare, **more}


def whole() -> dict[str, Any]:
    """A record with something in each field:

    a - b        b is of another chain, and depends on c
    c
    """
    undo = {"source": "", "python": "cpython-3.11", "pickle": "gAS=", "operations": [RENAME], "parameters": "model"}
    logged = {"time": "2026-01-01T00:00:00+00:00", "command": "upgrade", "target": "heads", "from": ["a"], "to": ["b"]}
    return {
        "format": FORMAT,
        "heads": ["b"],
        "lineage": [
            applied("a", undo=undo, versions={"pkg": "1.0"}, final=True),
            applied("c", undo={"source": "def rollback", "python": None, "pickle": None, "lost": "it was narrowed"}),
            applied("b", "a", depends_on=["c"], chain="anemoi", known_as={"1_first": "0a1b"}),
        ],
        "log": [{**logged, "steps": ["c", "b"], "tool": "1.0", "proven": True, "backup": BACKUP}],
        "stash": {"a": [b"bytes"]},
        "migrations_list": {"revisions": ["a"], "found": ["1_first"], "noted": None, "done": 3},
        "optimizers": {"opt": {"groups": [["x", "y"], []], "own_order": [0]}},
        "later": {"set": ["of", "a later version"]},
    }


def test_a_record_comes_back_as_it_was() -> None:
    assert to_data(from_data(whole())) == whole()
    assert to_data(Record()) == {"format": FORMAT, "heads": [], "lineage": [], "log": []}
    assert from_data(to_data(Record())) == Record()


def test_each_field_is_where_it_belongs() -> None:
    record = from_data(whole())
    (entry,) = record.log
    assert (entry.time[:4], entry.command, entry.target) == ("2026", "upgrade", "heads")
    assert (entry.start, entry.end, entry.steps, entry.tool, entry.proven) == (("a",), ("b",), ("c", "b"), "1.0", True)
    first, other, last = record.lineage
    assert first.undo is not None
    assert (first.undo.operations, first.undo.parameters, first.undo.lost) == ((RENAME,), "model", None)
    assert other.undo is not None
    assert (other.undo.source, other.undo.operations, other.undo.lost) == ("def rollback", None, "it was narrowed")
    assert (first.final, last.final, first.chain, last.chain) == (True, False, "", "anemoi")
    assert (last.parents, last.depends_on, last.known_as) == (("a",), ("c",), {"1_first": "0a1b"})
    assert record.optimizers["opt"].groups == (("x", "y"), ())
    assert record.extra == {"later": {"set": ["of", "a later version"]}}


def test_records_of_the_same_revisions_and_commands_are_equal() -> None:
    record = from_data(whole())
    assert replace(record, stash={}, migrations_list=None, optimizers={}, extra={}) == record
    assert replace(record, log=()) != record != replace(record, heads=())


def test_chains_are_told_apart_and_put_together_again() -> None:
    record = from_data(whole())
    own = record.of_chain("anemoi")
    assert ([entry.revision for entry in own.lineage], own.heads, own.other_heads) == (["b"], ("b",), ())
    assert [entry.revision for entry in own.others] == ["a", "c"]
    rest = record.of_chain("")
    assert ([entry.revision for entry in rest.lineage], rest.heads, rest.other_heads) == (["a", "c"], (), ("b",))
    for part in (own, rest):
        assert part.of_all().heads == ("b",)
        assert {entry.revision: entry.chain for entry in part.of_all().lineage} == {"a": "", "c": "", "b": "anemoi"}
    more = record.of_chain("other").logged(record.log[0], (Applied("z"),))
    assert more.heads == ("b",)
    assert more.of_all().lineage[-1] == Applied("z", chain="other")
    assert more.of_all().heads == ("b", "b")
    assert len(more.log) == 2


def test_what_another_version_left_out_is_not_needed() -> None:
    data = whole()
    for entry in data["lineage"]:
        entry.pop("known_as", None)
        entry.pop("chain", None)
    data["lineage"][0]["undo"].update(parameters=None, python=None, pickle=None)
    data["log"][0].pop("proven")
    data["log"][0].pop("backup")
    data["migrations_list"] = {"revisions": [], "found": None, "noted": ["2_second"], "done": None}
    assert to_data(from_data(data)) == data
    data["migrations_list"] = None
    data.pop("optimizers")
    record = from_data(data)
    assert (record.migrations_list, record.optimizers) == (None, {})
    assert record.log[0] == replace(from_data(whole()).log[0], proven=False, backup=None)
    assert not LogEntry("", "upgrade", "head", (), (), (), "1.0").proven


def edited(*path: Any) -> Callable[[Any], Any]:
    """Return a function that makes a record with another value at a path."""

    def edit(value: Any) -> Any:
        data = copy.deepcopy(whole())
        *way, last = path
        at: Any = data
        for key in way:
            at = at[key]
        at[last] = value
        return data

    return edit


UNDO, OTHER_UNDO, LOGGED = ("lineage", 0, "undo"), ("lineage", 1, "undo"), ("log", 0)

DAMAGE = [
    (("format",), "1", "format in record is not of type int"),
    (("heads",), "b", "heads in record is not of type list"),
    (("heads",), [3], "heads in record is not a list of text"),
    (("heads",), ["b", "z"], "head z is not in the lineage"),
    (("lineage",), {}, "lineage in record is not of type list"),
    (("lineage", 0), "a", "lineage is not a dict"),
    (("lineage", 2, "revision"), "a", "a revision is twice in the lineage"),
    (("lineage", 1, "parents"), ["b"], "c comes before its parent b in the lineage"),
    (("lineage", 0, "depends_on"), ["c"], "a comes before its parent c in the lineage"),
    (("lineage", 0, "name"), None, "name in lineage is not of type str"),
    (("lineage", 0, "signature"), None, "signature in lineage is not of type str"),
    (("lineage", 0, "final"), 1, "final in lineage is not of type bool"),
    (("lineage", 0, "versions"), None, "versions in lineage is not of type dict"),
    (("lineage", 0, "versions"), {"pkg": 1}, "versions are not text"),
    (("lineage", 0, "versions"), {1: "pkg"}, "versions are not text"),
    (("lineage", 2, "known_as"), {"1_first": None}, "known_as are not text"),
    (("lineage", 2, "chain"), 3, "chain in lineage is not of type str"),
    (UNDO, "x", "undo is not a dict"),
    ((*UNDO, "source"), None, "source in undo is not of type str"),
    ((*UNDO, "python"), 3, "python in undo is not of type str"),
    ((*UNDO, "pickle"), b"", "pickle in undo is not of type str"),
    ((*UNDO, "parameters"), ["model"], "parameters in undo is not of type str"),
    ((*UNDO, "operations"), RENAME, "operations in undo is not of type list"),
    ((*UNDO, "operations"), [RENAME, "x"], "operations in undo are not dicts"),
    ((*UNDO, "operations"), [{"op": {"$set": 3}}], "$set in it does not encode a value"),
    ((*UNDO, "operations"), [{"op": object()}], "operations in undo hold a object, which is not plain data"),
    ((*OTHER_UNDO, "lost"), True, "lost in undo is not of type str"),
    (("log",), None, "log in record is not of type list"),
    (LOGGED, None, "log is not a dict"),
    ((*LOGGED, "time"), 3, "time in log is not of type str"),
    ((*LOGGED, "command"), 3, "command in log is not of type str"),
    ((*LOGGED, "target"), 3, "target in log is not of type str"),
    ((*LOGGED, "from"), "a", "from in log is not of type list"),
    ((*LOGGED, "to"), [None], "to in log is not a list of text"),
    ((*LOGGED, "steps"), None, "steps in log is not of type list"),
    ((*LOGGED, "tool"), None, "tool in log is not of type str"),
    ((*LOGGED, "backup"), "x.ckpt.bak", "backup is not a dict"),
    ((*LOGGED, "backup", "number"), "1", "number in backup is not of type int"),
    ((*LOGGED, "backup", "size"), None, "size in backup is not of type int"),
    ((*LOGGED, "backup", "modified"), 1.5, "modified in backup is not of type int"),
    ((*LOGGED, "backup", "files"), ["x"], "files in backup is not of type str"),
    ((*LOGGED, "backup", "files"), "../x", "files in backup is not a digest"),
    (("stash",), [], "its stash is not a list for each revision"),
    (("stash",), {"a": b""}, "its stash is not a list for each revision"),
    (("migrations_list",), [], "migrations_list is not a dict"),
    (("migrations_list", "revisions"), None, "revisions in migrations_list is not of type list"),
    (("migrations_list", "found"), [1], "found in migrations_list is not a list of text"),
    (("migrations_list", "noted"), "x", "noted in migrations_list is not of type list"),
    (("migrations_list", "done"), "3", "done in migrations_list is not of type int"),
    (("optimizers",), None, "optimizers are not a dict by path"),
    (("optimizers", 3), {}, "optimizers are not a dict by path"),
    (("optimizers", "opt"), [], "optimizers is not a dict"),
    (("optimizers", "opt", "groups"), None, "groups in optimizers is not of type list"),
    (("optimizers", "opt", "groups"), ["x"], "groups in optimizers are not lists of text"),
    (("optimizers", "opt", "groups"), [["x"], [3]], "groups in optimizers are not lists of text"),
    (("optimizers", "opt", "own_order"), [True], "own_order in optimizers is not a list of numbers"),
    (("optimizers", "opt", "own_order"), [0, "1"], "own_order in optimizers is not a list of numbers"),
    ((3,), "x", "one of its keys is not text"),
    (("later",), {1, object}, "its extra keys hold a type, which is not plain data"),
]


@pytest.mark.parametrize(("path", "value", "says"), DAMAGE, ids=[says for _, _, says in DAMAGE])
def test_damage_is_named(path: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises(DamagedRecord) as damaged:
        from_data(edited(*path)(value))
    assert f"damaged ({says});" in str(damaged.value)


def test_what_is_no_record_at_all() -> None:
    for data in (None, [], "theirs"):
        with pytest.raises(DamagedRecord, match="record is not a dict"):
            from_data(data)
        assert stash_of(data) == {}


def test_the_next_format_is_not_guessed() -> None:
    with pytest.raises(NewerRecord) as newer:
        from_data(edited("format")(FORMAT + 1))
    assert str(FORMAT + 1) in str(newer.value)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_data_is_nested_a_hundred_deep_and_no_deeper() -> None:
    from_data(edited("later")(nested(99)))
    with pytest.raises(DamagedRecord, match="its extra keys are nested too deeply"):
        from_data(edited("later")(nested(100)))


def test_data_that_repeats_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a few bytes refer to again and again counts each time, up to a limit, or four times all of it once."""
    monkeypatch.setattr(records, "_MOST", 200)
    shared = list(range(100))
    from_data(edited("later")([shared]))
    with pytest.raises(DamagedRecord, match="its extra keys repeat the same data too often"):
        from_data(edited("later")([shared] * 6))
    from_data(edited("later")([*([shared] * 3)]))
    from_data(edited("later")([list(range(1000, 2000)), shared]))
    for held in ({"k": shared}, (shared,), {"k": (shared, "x" * 10_000)}):
        from_data(edited("later")(held))
        with pytest.raises(DamagedRecord, match="repeat the same data"):
            from_data(edited("later")([held] * 6))
    with pytest.raises(DamagedRecord, match="operations in undo repeat the same data"):
        from_data(edited(*UNDO, "operations")([{"op": shared}] * 6))


@pytest.mark.parametrize("words", [[f"word {number}" for number in range(6)], [n + 0.5 for n in range(6)]])
def test_the_limit_is_four_times_all_of_it_once(monkeypatch: pytest.MonkeyPatch, words: list[object]) -> None:
    """Each word counts one, and so do the list of words, the list of these lists, and the list around all."""
    monkeypatch.setattr(records, "_MOST", 0)
    from_data(edited("later")([words[:5]] * 5))  # 32 of 4 * 8
    with pytest.raises(DamagedRecord, match="repeat the same data"):
        from_data(edited("later")([words] * 5))  # 37 of 4 * 9


def test_long_text_counts_as_much_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST", 0)
    for held in (["long " * 100], "long " * 100, b"long" * 100):
        with pytest.raises(DamagedRecord, match="repeat the same data"):
            from_data(edited("later")([held] * 5))


def test_a_million_is_always_allowed() -> None:
    """A list of one word counts two, the list of them and the list around it one each."""
    pairs = [["x"]] * 499_999
    from_data(edited("later")(pairs))
    with pytest.raises(DamagedRecord, match="repeat the same data"):
        from_data(edited("later")([*pairs, "y"]))
