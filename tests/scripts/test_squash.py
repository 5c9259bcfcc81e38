"""squash: one script for a stretch of history, and checkpoints at every place of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from tests.support.branches import note, ran
from tests.support.project import Folder, load


@pytest.fixture
def line(project: Folder) -> Folder:
    """a - b - c - d - e"""
    for rev, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")):
        note(project, rev, parent)
    return project


def squashed(project: Folder, *words: object) -> Path:
    return Path(project.ok("squash", *words, "--json").lines[0]["path"])


def revisions(history: cm.History) -> list[str]:
    return [entry.revision for entry in history.entries]


def test_a_checkpoint_at_every_place_finds_its_way(line: Folder) -> None:
    checkpoints = {}
    for at in ("base", "a", "b", "c", "d", "e"):
        checkpoints[at] = line.copy(to=f"{at}.ckpt")
        line.ok("upgrade", at, checkpoints[at])
    path = squashed(line, "b:d", "all of b, c, d", "--rev-id", "S")
    assert sorted(script.name for script in path.parent.glob("*.py")) == [
        "S_all_of_b_c_d.py",
        "a_change.py",
        "e_change.py",
    ]
    assert revisions(cm.history()) == ["e", "S", "a"]
    assert cm.show("S").replaces == ("b", "c", "d")
    line.ok("check")

    for at, checkpoint in checkpoints.items():
        found = line.ok("upgrade", "head", checkpoint, "--json").lines[0]
        expected = {"base": "aSe", "a": "Se", "b": "cde", "c": "de", "d": "e", "e": ""}[at]
        assert "".join(step["revision"] for step in found["steps"]) == expected
        assert load(checkpoint)["epoch"] == "3abcde"
        assert line.ok("current", checkpoint).err == ""
        assert line.ok("current", checkpoint, "--json").lines[0]["at_head"] is True
        line.ok("check", checkpoint)

    # Down again, as it was applied: a part at a time where it came up so.
    assert ran(line, checkpoints["b"], "downgrade", "-2") == "abc"
    assert ran(line, checkpoints["b"], "downgrade", "a") == "a"
    assert ran(line, checkpoints["e"], "downgrade", "c") == "abc"
    assert ran(line, checkpoints["base"], "downgrade", "-1") == "abcd"
    assert ran(line, checkpoints["base"], "downgrade", "-1") == "a"
    for at in ("c", "d"):
        line.ok("downgrade", "base", checkpoints[at])
        assert str(load(checkpoints[at])["epoch"]) == "3"


def test_a_target_inside_of_it(line: Folder) -> None:
    squashed(line, "b:d", "squashed", "--rev-id", "S")
    checkpoint = line.copy()
    assert ran(line, checkpoint, "upgrade", "c") == "abc"
    assert ran(line, checkpoint, "upgrade", "+1") == "abcd"
    whole = line.copy(to="whole.ckpt")
    assert ran(line, whole, "upgrade", "head") == "abcde"
    refused = line.run("downgrade", "c", whole)
    assert (refused.code, "c is part of S, which the checkpoint got as one step; write S or a instead" in refused.err) == (
        3, True)  # fmt: skip
    assert "already at e, nothing to do" in line.ok("upgrade", "c", whole).out
    assert ran(line, whole, "downgrade", "d") == "abcd"  # the last part is the whole
    line.ok("stamp", "c", whole)
    assert [step.revision for step in cm.upgrade(whole, "head", dry_run=True).steps] == ["d", "e"]
    stamped = line.copy(to="stamped.ckpt")
    line.ok("stamp", "c", stamped)
    assert [step.revision for step in cm.upgrade(stamped, "head").steps] == ["d", "e"]


def test_releases_inside_of_it(project: Folder) -> None:
    for rev, parent, version in (("a", None, "0.9"), ("b", "a", "0.10"), ("c", "b", "0.11"), ("d", "c", "0.12")):
        project.script(rev, parent, version=version)
    squashed(project, "a:c", "squashed", "--rev-id", "S")
    checkpoint = project.copy()
    assert project.ok("upgrade", "pkg==0.10", checkpoint, "--json").lines[0]["to"] == ["b"]
    assert project.ok("upgrade", "head", checkpoint, "--json").lines[0]["to"] == ["d"]
    assert project.ok("downgrade", "pkg<0.11", checkpoint, "--json").lines[0]["to"] == ["b"]


def test_what_a_part_carries_is_its_own_way_back(line: Folder) -> None:
    checkpoint = line.copy()
    line.ok("upgrade", "b", checkpoint)
    path = squashed(line, "b:d", "squashed", "--rev-id", "S")
    line.ok("upgrade", "c", checkpoint)
    for script in path.parent.glob("*.py"):
        script.unlink()
    line.ok("downgrade", "-1", checkpoint, "--trust-checkpoint-code")
    assert load(checkpoint)["epoch"] == "3ab"
    line.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert load(checkpoint)["epoch"] == 3 or load(checkpoint)["epoch"] == "3"


def test_a_diamond_with_labels_and_dependencies(project: Folder) -> None:
    r"""
    x - a - b - d - e     a label on b; c needs k, a root of its own
         \     /
          - c -
    """
    note(project, "k")
    note(project, "x")
    note(project, "a", "x")
    note(project, "b", "a", branch_labels="main")
    note(project, "c", "a", depends_on="k")
    note(project, "d", ("b", "c"))
    note(project, "e", "d")
    half = project.copy(to="half.ckpt")
    project.ok("upgrade", "c", half)
    text = squashed(project, "a:d", "squashed", "--rev-id", "S").read_text()
    assert 'down_revision = "x"\nbranch_labels = "main"\ndepends_on = "k"\n' in text
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "main@head") == "kxabcde"
    assert ran(project, half, "upgrade", "heads") == "kxacbde"
    assert ran(project, half, "downgrade", "main@base") == "k"


def test_a_colleague_who_follows_the_end_or_the_middle(line: Folder) -> None:
    squashed(line, "b:d", "squashed", "--rev-id", "S")
    note(line, "f", "d")
    note(line, "g", "c")
    assert {entry.revision: entry.parents for entry in cm.history().entries}["g"] == ("S",)
    line.ok("merge", "e", "f", "g", "join")
    checkpoint = line.copy()
    assert ran(line, checkpoint, "upgrade", "head") == "abcdefg"


def test_a_stretch_that_was_released_stays_released(line: Folder) -> None:
    line.ok("release")
    path = squashed(line, "b:d", "squashed", "--rev-id", "S")
    line.ok("check")
    line.ok("release")
    path.write_text(path.read_text().replace('+ "c"', '+ "z"'))
    assert "S (squashed) has changed since it was released" in line.run("check").out


def test_irreversible_parts(project: Folder) -> None:
    note(project, "a")
    project.script("b", "a", rollback=None, top="rollback = None")
    note(project, "c", "b")
    squashed(project, "a:c", "squashed", "--rev-id", "S")
    project.ok("check")
    whole, part = project.copy(), project.copy(to="part.ckpt")
    project.ok("upgrade", "head", whole)
    assert project.run("downgrade", "base", whole).code == 3
    project.ok("upgrade", "b", part)
    project.ok("upgrade", "head", part)
    assert ran(project, part, "downgrade", "-1") == "a"
    assert project.run("downgrade", "-1", part).code == 3


@pytest.mark.parametrize(
    ("stretch", "code", "says"),
    [
        ("c:c", 2, "'c:c' holds 1 revision; squash needs two or more"),
        ("d:b", 2, "'d:b' holds 0 revisions"),
        ("b", 2, "write START:END"),
        ("current:c", 2, "squash does not take `current`, because it changes scripts and not checkpoints"),
        ("b:zz", 1, "no revision is called 'zz'"),
        ("a:F", 3, "F (change F) is a barrier, which cannot be squashed; squash up to it"),
        ("b:d", 3, "x follows c inside the range; rebase it, or squash up to c"),
        ("a:heads", 3, "is a head beside"),
    ],
)
def test_what_cannot_be_squashed(line: Folder, stretch: str, code: int, says: str) -> None:
    if "F" in stretch:
        line.script("F", "e", final=True)
    if "x" in says or "heads" in stretch:
        note(line, "x", "c")
    before = {path: path.read_bytes() for path in (line.path / "versions").iterdir()}
    refused = line.run("squash", stretch, "squashed")
    assert (refused.code, says in refused.err) == (code, True), refused.err
    assert {path: path.read_bytes() for path in (line.path / "versions").iterdir()} == before


def test_twice_and_scripts_that_came_back(line: Folder) -> None:
    kept = (line.path / "versions" / "b_change.py").read_text()
    squashed(line, "b:c", "squashed", "--rev-id", "S")
    refused = line.run("squash", "a:d", "again")
    assert (refused.code, "S (squashed) is already squashed; squash the revisions after it" in refused.err) == (3, True)
    (line.path / "versions" / "b_change.py").write_text(kept)
    refused = line.run("heads")
    assert (refused.code, "it replaces b, but" in refused.err, "is still there; remove one" in refused.err) == (
        1,
        True,
        True,
    )
    (line.path / "versions" / "b_change.py").unlink()
    squashed(line, "d:e", "the rest", "--rev-id", "T")
    checkpoint = line.copy()
    assert ran(line, checkpoint, "upgrade", "head") == "abcde"
    assert [entry.revision for entry in cm.history(checkpoint).entries] == ["T", "S", "a"]


def test_a_script_that_cannot_be_a_function(line: Folder) -> None:
    note(line, "c", "b", NOTE="global")
    path = line.path / "versions" / "c_change.py"
    path.write_text(path.read_text() + "\nfrom math import *\n")
    before = sorted(line.path.rglob("*"))
    refused = line.run("squash", "b:d", "squashed")
    assert refused.code in (2, 3)
    assert "c" in refused.err
    assert sorted(line.path.rglob("*")) == before


def test_a_squashed_revision_may_be_rebased(line: Folder) -> None:
    r"""
    a - S - e      S: b, c, d
     \
      - x
    """
    part = line.copy(to="part.ckpt")
    line.ok("upgrade", "c", part)
    squashed(line, "b:d", "squashed", "--rev-id", "S")
    note(line, "x", "a")
    line.ok("rebase", "S", "--onto", "x")
    checkpoint = line.copy()
    assert ran(line, checkpoint, "upgrade", "head") == "axbcde"
    refused = line.run("upgrade", "head", part)
    assert (refused.code, "has b but not x, which comes before it" in refused.err) == (1, True)
    line.ok("downgrade", "a", part)
    assert ran(line, part, "upgrade", "c") == "axbc"
