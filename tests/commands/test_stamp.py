"""stamp: one revision or several, what stays, and records that contradict the scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from tests.support.project import Folder, digest


@pytest.fixture
def branched(project: Folder) -> Folder:
    r"""
    a - b - c
     \
      - d - e       side is on d
    x
    """
    for rev, parent in (("a", None), ("b", "a"), ("c", "b"), ("e", "d"), ("x", None)):
        project.script(rev, parent)
    project.script("d", "a", top='branch_labels = "side"')
    return project


def stamped(project: Folder, checkpoint: Path, *words: str) -> list[str]:
    project.ok("stamp", *words, checkpoint)
    return [head["revision"] for head in project.ok("current", checkpoint, "--json").lines[0]["heads"]]


def test_several_at_once(branched: Folder) -> None:
    checkpoint = branched.copy()
    assert stamped(branched, checkpoint, "b,e") == ["b", "e"]
    assert stamped(branched, checkpoint, "heads") == ["c", "e", "x"]
    assert stamped(branched, checkpoint, "base") == []
    assert cm.stamp(checkpoint, ["c", "side@head"]).end == ("c", "e")


def test_what_has_nothing_to_do_with_it_stays(branched: Folder) -> None:
    checkpoint = branched.copy()
    stamped(branched, checkpoint, "b,e")
    assert stamped(branched, checkpoint, "c") == ["c", "e"]  # further on the same branch
    assert stamped(branched, checkpoint, "b") == ["b", "e"]  # back again
    assert stamped(branched, checkpoint, "x") == ["b", "e", "x"]  # a third branch
    assert stamped(branched, checkpoint, "side@d") == ["b", "d", "x"]
    assert stamped(branched, checkpoint, "side@base") == ["b", "x"]
    assert stamped(branched, checkpoint, "a") == ["a", "x"]
    assert stamped(branched, checkpoint, "--purge", "d") == ["d"]


def test_what_stays_is_as_it_was_recorded(branched: Folder) -> None:
    """The script of x changes after it was applied: stamping another branch does not accept that."""
    checkpoint = branched.copy()
    branched.ok("upgrade", "x", checkpoint)
    branched.script("x", None, migrate="ckpt['epoch'] = 7")
    branched.ok("stamp", "c", checkpoint)
    assert "the script of x (change x) has changed" in branched.ok("current", checkpoint).err
    branched.ok("stamp", "x", checkpoint)
    assert branched.ok("current", checkpoint).err == ""


def test_purge_forgets_what_no_script_knows(branched: Folder) -> None:
    checkpoint = branched.copy()
    branched.ok("upgrade", "heads", checkpoint)
    (branched.path / "versions" / "x_change.py").unlink()
    before = digest(checkpoint)
    refused = branched.run("stamp", "c", checkpoint)
    assert (refused.code, "write a new record with `ckpt-migrate stamp --purge TARGET CKPT`" in refused.err) == (
        1,
        True,
    )
    assert digest(checkpoint) == before
    assert stamped(branched, checkpoint, "--purge", "c") == ["c"]


def test_base_is_before_what_no_script_knows(branched: Folder) -> None:
    checkpoint = branched.copy()
    branched.ok("upgrade", "x", checkpoint)
    (branched.path / "versions" / "x_change.py").unlink()
    assert stamped(branched, checkpoint, "base") == []


def test_the_repair_leaves_out_what_another_head_needs(project: Folder) -> None:
    """a, b were applied, and b depends on a; then somebody put n before b"""
    project.script("a", None)
    project.script("b", None, top='depends_on = "a"')
    checkpoint = project.copy()
    project.ok("upgrade", "heads", checkpoint)
    project.script("n", None)
    project.script("b", "n", top='depends_on = "a"')
    refused = project.run("upgrade", "heads", checkpoint)
    assert (refused.code, "has b but not n, which" in refused.err) == (1, True)
    assert "`ckpt-migrate stamp b CKPT`" in refused.err


def test_a_record_that_contradicts_the_scripts_is_refused_with_the_repair(project: Folder) -> None:
    r"""
    a - b - c    was applied as a - c, before somebody put b between
    """
    project.script("a", None)
    project.script("c", "a")
    checkpoint = project.copy()
    project.ok("upgrade", "c", checkpoint)
    project.script("b", "a")
    project.script("c", "b")
    project.script("d", "c")
    before = digest(checkpoint)
    for target in ("head", "+1", "c", "d"):
        refused = project.run("upgrade", target, checkpoint)
        assert refused.code == 1
        assert "the checkpoint has c but not b, which comes before it" in refused.err
        assert "downgrade below c, or run `ckpt-migrate stamp c CKPT`" in refused.err
    assert digest(checkpoint) == before
    assert "has c but not b" in project.ok("current", checkpoint).err
    repaired = project.copy(to="repaired.ckpt")
    repaired.write_bytes(checkpoint.read_bytes())
    project.ok("stamp", "c", repaired)
    assert project.ok("upgrade", "head", repaired, "--json").lines[0]["to"] == ["d"]
    project.ok("downgrade", "a", checkpoint)
    assert project.ok("upgrade", "head", checkpoint, "--json").lines[0]["to"] == ["d"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("+1", "stamp takes head"),
        ("barrier", "stamp takes head"),
        ("a,", "a target"),
        ("base,b", "base excludes all other revisions: stamp it alone"),
    ],
)
def test_bad_input(branched: Folder, target: str, says: str) -> None:
    checkpoint = branched.copy()
    before = digest(checkpoint)
    refused = branched.run("stamp", target, checkpoint)
    assert (refused.code, says in refused.err) == (2, True), refused.err
    assert digest(checkpoint) == before
