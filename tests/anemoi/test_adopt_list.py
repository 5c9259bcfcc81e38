"""Checkpoints in which anemoi-models noted migrations itself: the list is read, and kept as that tool would keep it.

1700000001_a --- 1700000002_b --- 1700000003_c          imported; each adds its letter to ``done``
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from anemoi_ckpt_migrate import upgrade
from tests.support.migrations_list import (
    ABSENT,
    MigrationMetadata,
    _SerializedRollback,
    anemoi,
    content,
    entry,
    import_chain,
    make,
    name_of,
    noted,
    once,
    read,
    script,
    stub,
    torch,
    undo,
)
from tests.support.project import Folder, digest

stub.__module__ = "scripts"  # of no module that can be imported: it goes by value


@pytest.fixture
def chain(project: Folder) -> Folder:
    return import_chain(project)


@pytest.mark.parametrize("there", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("form", [entry, once])
def test_it_goes_on_from_what_is_noted(chain: Folder, form: Callable[[str], Any], there: str) -> None:
    path = make(chain, [form(letter) for letter in there], there)
    before = content(path)
    ran = chain.ok("upgrade", "head", path)
    assert ("by its list of migrations it is taken to be at" in ran.err) == bool(there)
    after = content(path)
    assert after["done"] == "abc"
    assert after["migrations"][: len(there)] == before["migrations"]
    assert noted(path) == ["a", "b", "c"]
    if there:
        assert "  adopt " in chain.ok("current", "-v", path).out
    down = name_of(there[-1]) if there else "base"
    chain.ok("downgrade", down, path)
    assert content(path) == before


def test_what_is_added_is_what_that_tool_reads(chain: Folder) -> None:
    """Metadata is of its class, since it looks for attributes; signatures are those that it makes."""
    path = make(chain, [entry("a")], "a")
    chain.ok("upgrade", "head", path)
    assert read(path)["migrations"] == [entry("a"), entry("b"), entry("c")]


def test_code_from_before_0_13_finds_what_it_looks_for(chain: Folder) -> None:
    path = make(chain, [entry("a"), entry("b"), entry("c")], "abc")
    before = content(path)
    chain.ok("downgrade", name_of("b"), path)
    assert read(path)["migrations"] == [once("a"), once("b")]
    chain.ok("upgrade", "head", path)
    assert content(path) == before


def test_no_list(chain: Folder) -> None:
    """There was none before there were migrations: that is the base, and its code takes what has none for unusable."""
    path = make(chain, ABSENT)
    before = content(path)
    chain.ok("upgrade", name_of("b"), path)
    assert noted(path) == ["a", "b"]
    chain.ok("downgrade", "base", path)
    assert content(path) == before


def test_entries_that_go_come_back(chain: Folder) -> None:
    path = make(chain, [once("a", undo("a")), once("b", undo("b"), {"attribute_paths": {}})], "ab")
    before = content(path)
    chain.ok("downgrade", "base", path)
    assert content(path)["migrations"] == []
    chain.ok("upgrade", name_of("b"), path)
    assert content(path) == before


def test_functions_that_want_tensors(chain: Folder) -> None:
    """Then all is done again from the beginning, on another tree."""
    last = chain.script("d", open_head(chain), 'ckpt["state_dict"]["x"] += 1', 'ckpt["state_dict"]["x"] -= 1')
    assert last.exists()
    path = make(chain, [once("a", undo("a"))], "a")
    before = content(path)
    for _ in range(2):
        chain.ok("upgrade", "head", path)
        assert noted(path) == ["a", "b", "c"]
        chain.ok("downgrade", "base", path)
    chain.ok("upgrade", name_of("a"), path)
    assert content(path) == before


def open_head(project: Folder) -> str:
    return project.ok("heads").out.split()[0]


def test_in_place(chain: Folder) -> None:
    path = make(chain, [entry("a")], "a")
    before = content(path)
    chain.ok("upgrade", "head", path, "--in-place")
    assert noted(path) == ["a", "b", "c"]
    chain.ok("downgrade", name_of("a"), path, "--in-place")
    assert content(path) == before


def test_the_history_goes_with_it(chain: Folder) -> None:
    ran = [{"type": "migrate", "name": name_of("a"), "signature": "0"}]
    path = make(chain, [entry("a")], "a", history=ran)
    before = content(path)
    assert "history    migrate 1700000001_a" in chain.ok("inspect", path).out
    chain.ok("upgrade", name_of("b"), path)
    history = content(path)["hyper_parameters"]["metadata"]["migrations"]["history"]
    assert history == [*ran, {"type": "migrate", "name": name_of("b"), "signature": entry("b")["signature"]}]
    chain.ok("downgrade", "base", path)
    history = content(path)["hyper_parameters"]["metadata"]["migrations"]["history"]
    assert history == [*ran, {"type": "rollback", "name": name_of("a"), "signature": entry("a")["signature"]}]
    chain.ok("upgrade", name_of("a"), path)
    assert content(path) == before


def test_a_script_that_was_renamed_is_known_by_its_signature(chain: Folder) -> None:
    path = make(chain, [{**entry("a"), "name": "1600000000_first"}, entry("b")], "ab")
    chain.ok("upgrade", "head", path)
    assert read(path)["migrations"] == [{**entry("a"), "name": "1600000000_first"}, entry("b"), entry("c")]
    assert content(path)["done"] == "abc"


def test_barriers(project: Folder) -> None:
    seeds = project.path / "seeds"
    seeds.mkdir()
    (seeds / f"{name_of('a')}.py").write_text(script("a"))
    final = "from anemoi.models.migrations import MigrationMetadata\n\n"
    final += 'metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"}, final=True)\n'
    (seeds / f"{name_of('b')}.py").write_text(final)
    (seeds / f"{name_of('c')}.py").write_text(script("c"))
    project.ok("import-scripts", seeds)
    path = make(project, [entry("b")])
    project.ok("upgrade", "head", path)
    assert noted(path) == ["b", "c"]
    assert project.run("upgrade", "head", make(project, [entry("a")], "a")).code == 3
    assert project.run("upgrade", "head", make(project, [])).code == 3


def test_dicts_stay_dicts(chain: Folder) -> None:
    """What names no class of anemoi is to load without any."""
    path = make(chain, [{**entry("a"), "metadata": {"versions": {"anemoi-models": "0.9.4"}}}], "a")
    chain.ok("upgrade", "head", path)
    assert torch.load(path, weights_only=True)["migrations"][2]["metadata"]["versions"]["anemoi-models"] == "0.13.0"


def test_a_stamp_leaves_the_list_alone(chain: Folder) -> None:
    path = make(chain, [entry("a")], "abc")
    chain.ok("stamp", "head", path)
    assert noted(path) == ["a"]
    chain.ok("downgrade", name_of("b"), path)
    assert noted(path) == ["a", "b"]


def test_a_project_without_names_leaves_it_alone(project: Folder) -> None:
    project.script("a1", None, 'ckpt["done"] += "1"')
    path = make(project, [{"name": "x"}, 3])
    assert upgrade(path).end == ("a1",)
    assert read(path)["migrations"] == [{"name": "x"}, 3]


@pytest.mark.parametrize(
    ("list_", "says"),
    [
        ([entry("a"), entry("f"), entry("c")], "(1700000001_a, 1700000006_f, 1700000003_c) contradicts the scripts"),
        ([entry("a"), entry("c")], "(1700000001_a, 1700000003_c) contradicts the scripts"),
        ([entry("b"), entry("a")], "contradicts the scripts"),
        ([entry("b")], "contradicts the scripts (1700000001_a, 1700000002_b)"),
        ([entry("f")], "contradicts the scripts"),
        ([entry("a"), entry("a")], "is damaged (1700000001_a is in it twice)"),
        ([entry("a"), 3], "is damaged (one of its entries has no name)"),
        ([{"name": torch.ones(1)}], "is damaged (one of its entries has no name)"),
        ({"a": 1}, "is damaged (it is a dict)"),
        (3, "is damaged (it is a int)"),
    ],
)
def test_what_contradicts_the_chain_is_refused(chain: Folder, list_: Any, says: str) -> None:
    path = make(chain, list_)
    before = digest(path)
    for command in (["upgrade", "head"], ["downgrade", "base"]):
        ran = chain.run(*command, path)
        assert ran.code == 1
        assert says in ran.err
        assert "stamp" in ran.err
        assert "last.ckpt" in ran.err
    assert digest(path) == before
    chain.ok("stamp", "--purge", name_of("b"), path)  # the way out
    if isinstance(list_, list):
        chain.run("upgrade", "head", path)


def test_what_somebody_else_changed_since_is_refused(chain: Folder) -> None:
    path = make(chain, [entry("a")], "a")
    chain.ok("upgrade", name_of("b"), path)
    with anemoi(MigrationMetadata, _SerializedRollback):
        tree = torch.load(path, weights_only=False)
        tree["migrations"].append(entry("c"))
        torch.save(tree, path)
    before = digest(path)
    ran = chain.run("upgrade", "head", path)
    assert ran.code == 1
    assert "contradicts the record (1700000001_a, 1700000002_b)" in ran.err
    assert digest(path) == before
    chain.ok("stamp", "--purge", "head", path)
    chain.ok("downgrade", name_of("a"), path)
    assert noted(path) == ["a"]


def test_reading_commands_tell_of_it(chain: Folder) -> None:
    path = make(chain, [entry("a"), entry("b")], "ab")
    assert "by its list of migrations it is taken to be at" in chain.ok("current", path).err
    assert "b  <- " in chain.ok("history", path).out
    found = chain.ok("inspect", path, "--json").lines[0]
    assert found["migrations"] == [name_of("a"), name_of("b")]
    marked = chain.ok("history", path, "--json").lines[0]
    assert [each["applied"] for each in marked] == [False, True, True]
    assert hashlib.sha256(name_of("b").encode()).hexdigest()[:12] in chain.ok("current", path).out
