"""Checkpoints that nobody stamped: the project knows them by what they hold.

a1 (a -> b) --- a2 (b -> c) --- a3 (c -> d)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chains import make, script, tree
from tests.support.project import Folder, digest

RECOGNISE = """
def recognise(ckpt):
    if not isinstance(ckpt, dict) or "x" not in ckpt:
        raise ValueError("this is no checkpoint of this project")
    ckpt.pop("x")  # its own tree, and nobody else's
    return {"a": None, "b": "a1", "c": "a2", "d": "a3", "z": "zz"}[min(ckpt)]
"""


@pytest.fixture
def chain(project: Folder) -> Folder:
    for place, (old, new) in enumerate(zip("abc", "bcd", strict=True), 1):
        parent = f"a{place - 1}" if place > 1 else None
        (project.path / "versions" / f"a{place}_x.py").write_text(script(f"a{place}", parent, old, new))
    (project.path / "versions" / "_recognise.py").write_text(RECOGNISE)
    return project


def at(project: Folder, key: str) -> Path:
    return make(project, {key: 1, "x": 2})


@pytest.mark.parametrize(("key", "steps"), [("a", 3), ("b", 2), ("c", 1), ("d", 0)])
def test_it_goes_on_from_where_it_is(chain: Folder, key: str, steps: int) -> None:
    checkpoint = at(chain, key)
    ran = chain.ok("upgrade", "head", checkpoint, "--json")
    assert len(json.loads(ran.out)["steps"]) == steps
    assert tree(checkpoint) == {"x": 2, "d": 1}
    if key != "a":
        assert "by its content it is taken to be at" in chain.ok("upgrade", "head", at(chain, key)).err
    if steps:
        chain.ok("downgrade", "base", checkpoint)
        assert tree(checkpoint) == {"x": 2, "a": 1}


def test_it_goes_down_from_where_it_is(chain: Folder) -> None:
    checkpoint = at(chain, "c")
    chain.ok("downgrade", "a1", checkpoint)
    assert tree(checkpoint) == {"x": 2, "b": 1}
    assert "recognise" in chain.ok("current", "-v", checkpoint).out
    assert chain.run("check", "--rollback", at(chain, "b")).code == 0


def test_a_record_of_another_chain_says_nothing_of_this_one(chain: Folder) -> None:
    """Another chain recorded itself first: this one is still recognised, for good, and not taken to be at base."""
    checkpoint = make(chain, {"c": 1, "x": 2, "state_dict": {}, "pytorch-lightning_version": "2.1.0"})
    chain.ok("--chain", "lightning", "downgrade", "pytorch-lightning==1.9.5", checkpoint)
    assert "recognised" in chain.ok("current", checkpoint).out
    ran = chain.ok("upgrade", "head", checkpoint)
    assert "it has no record of this chain; by its content it is taken to be at a2" in ran.err
    assert (tree(checkpoint)["d"], tree(checkpoint)["pytorch-lightning_version"]) == (1, "1.9.5")
    (chain.path / "versions" / "_recognise.py").write_text("1 / 0")
    chain.ok("downgrade", "base", checkpoint)
    chain.ok("current", checkpoint)
    chain.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    assert (tree(checkpoint)["a"], tree(checkpoint)["pytorch-lightning_version"]) == (1, "2.0.0")


@pytest.mark.parametrize("end", ["a3", "S"])
@pytest.mark.parametrize(("key", "steps"), [("a", ["a1", "S"]), ("b", ["S"]), ("c", ["a3"]), ("d", [])])
def test_one_inside_of_what_is_squashed(chain: Folder, key: str, steps: list[str], end: str) -> None:
    """It got there one by one; who names the whole means its end."""
    chain.ok("squash", "a2:a3", "both", "--rev-id", "S")
    path = chain.path / "versions" / "_recognise.py"
    path.write_text(path.read_text().replace('"d": "a3"', f'"d": "{end}"'))
    checkpoint = at(chain, key)
    ran = chain.ok("upgrade", "head", checkpoint, "--json")
    assert [step["revision"] for step in json.loads(ran.out)["steps"]] == steps
    assert tree(checkpoint) == {"x": 2, "d": 1}
    chain.ok("downgrade", "base", checkpoint)
    assert tree(checkpoint) == {"x": 2, "a": 1}


def test_what_is_recorded_is_not_asked_for(chain: Folder) -> None:
    checkpoint = at(chain, "a")
    chain.ok("upgrade", "a1", checkpoint)
    chain.ok("downgrade", "base", checkpoint)
    (chain.path / "versions" / "_recognise.py").write_text("1 / 0")
    chain.ok("upgrade", "head", checkpoint)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "`recognise` failed with ValueError: this is no checkpoint of this project"),
        ("\xff", "it cannot be read ("),
        ("1 / 0", "importing the script failed with ZeroDivisionError"),
        ("recognise = 3", "`recognise` is not a function"),
        ("def recognise(ckpt):\n    return 'zz'", "`recognise` returned 'zz', but no revision has this id"),
    ],
)
def test_refused(chain: Folder, text: str | None, says: str) -> None:
    checkpoint = at(chain, "a")
    if text is None:
        checkpoint = make(chain, {"foreign": 1})
    else:
        (chain.path / "versions" / "_recognise.py").write_bytes(text.encode("latin-1"))
    before = digest(checkpoint)
    ran = chain.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert says in ran.err
    assert "_recognise.py" in ran.err
    assert digest(checkpoint) == before


def test_commands_that_read_say_where_it_stands_and_that_this_is_not_recorded(chain: Folder) -> None:
    checkpoint = at(chain, "c")
    before = digest(checkpoint)
    ran = chain.ok("current", checkpoint)
    assert ran.out == f"{checkpoint}: a2  b to c (not at head), recognised but not recorded\n"
    assert "it has no record; by its content it is taken to be at a2" in ran.err
    found = json.loads(chain.ok("current", checkpoint, "--json").out)
    assert (found["recorded"], found["recognised"], found["heads"][0]["revision"]) == (False, True, "a2")
    assert chain.run("current", "--check-heads", checkpoint).code == 4
    lines = chain.ok("history", checkpoint).out.splitlines()
    assert [line[:4] for line in lines] == ["  a3", "* a2", "* a1"]
    assert "the checkpoint is here, recognised but not recorded" in lines[1]
    entries = json.loads(chain.ok("history", checkpoint, "--json").out)
    assert [entry["recognised"] for entry in entries] == [False, True, True]
    assert "it is at a2, recognised but not recorded, not at head" in chain.run("check", checkpoint).out
    assert digest(checkpoint) == before


def test_upgrade_and_current_agree_that_it_is_at_head(chain: Folder) -> None:
    checkpoint = at(chain, "d")
    assert "already at a3, nothing to do" in chain.ok("upgrade", "head", checkpoint).out
    assert "a3  c to d (head)" in chain.ok("current", "--check-heads", checkpoint).out
    chain.ok("check", checkpoint)


def test_what_is_recorded_is_read_without_asking(chain: Folder) -> None:
    """Also where nothing is applied any more: that it is at base is recorded."""
    checkpoint = at(chain, "a")
    chain.ok("upgrade", "a1", checkpoint)
    (chain.path / "versions" / "_recognise.py").write_text("1 / 0")
    found = json.loads(chain.ok("current", checkpoint, "--json").out)
    assert (found["recorded"], found["recognised"]) == (True, False)
    chain.ok("downgrade", "base", checkpoint)
    found = json.loads(chain.ok("current", checkpoint, "--json").out)
    assert (found["recorded"], found["recognised"], found["heads"]) == (True, False, [])


def test_what_is_not_recognised_is_an_error_for_commands_that_read_too(chain: Folder) -> None:
    checkpoint = make(chain, {"y": 1})
    for command in (["current"], ["history"], ["upgrade", "head"]):
        ran = chain.run(*command, checkpoint)
        assert (ran.code, "this is no checkpoint of this project" in ran.err) == (1, True)
    assert "this is no checkpoint of this project" in chain.run("check", checkpoint).out
