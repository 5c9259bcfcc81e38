"""What messages suggest works, and what scripts do to checkpoints that were there before is noticed."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from pathlib import Path

import pytest

from tests.support.branches import note, ran
from tests.support.project import Folder, digest, load


def suggested(text: str, checkpoint: Path, which: int = -1) -> list[str]:
    """Return the words of a command that a message suggests."""
    command = re.findall(r"`ckpt-migrate ([^`]*)`", text)[which]
    return [str(checkpoint) if word == "CKPT" else word for word in shlex.split(command)]


@pytest.fixture
def forked(project: Folder) -> Folder:
    r"""
    a - b
     \
      - c
    """
    note(project, "a")
    note(project, "b", "a")
    note(project, "c", "a")
    return project


def test_the_repair_of_a_rebased_revision_runs_nothing_twice(project: Folder) -> None:
    """a - b - c, and then x comes between a and b"""
    note(project, "a")
    note(project, "b", "a")
    note(project, "c", "b")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    note(project, "x", "a")
    project.ok("rebase", "b", "--onto", "x")
    refused = project.run("upgrade", "head", checkpoint)
    assert "has b but not x" in refused.err
    assert suggested(refused.err, checkpoint) == ["stamp", "c", str(checkpoint)]
    project.ok(*suggested(refused.err, checkpoint))
    assert ran(project, checkpoint, "upgrade", "head") == "abc"
    project.ok("check", checkpoint)


def test_a_checkpoint_that_has_both_sides_of_a_rebase(forked: Folder) -> None:
    """It got b and then c, as branches; now the scripts say a - b - c."""
    checkpoint = forked.copy()
    forked.ok("upgrade", "heads", checkpoint)
    forked.ok("rebase", "c", "--onto", "b")
    assert forked.ok("current", checkpoint, "--json").lines[0]["at_head"] is True
    forked.ok("check", checkpoint)
    note(forked, "d", "c")
    assert ran(forked, checkpoint, "upgrade", "head") == "abcd"
    assert ran(forked, checkpoint, "downgrade", "b") == "ab"


def test_a_checkpoint_that_got_them_the_other_way_round(forked: Folder) -> None:
    """It got b before c; now the scripts say a - c - b."""
    checkpoint = forked.copy()
    forked.ok("upgrade", "b", checkpoint)
    forked.ok("upgrade", "c", checkpoint)
    forked.ok("rebase", "b", "--onto", "c")
    before = digest(checkpoint)
    refused = forked.run("upgrade", "head", checkpoint)
    assert (refused.code, "the checkpoint got b before c, which comes before it" in refused.err) == (
        1,
        True,
    )
    assert "got b before c" in forked.ok("current", checkpoint).err
    assert digest(checkpoint) == before
    down = forked.copy(to="down.ckpt")
    down.write_bytes(checkpoint.read_bytes())
    assert ran(forked, down, "downgrade", "c") == "ac"  # b rests on it by now
    assert ran(forked, down, "upgrade", "head") == "acb"
    project = forked
    project.ok(*suggested(refused.err, checkpoint))
    assert ran(project, checkpoint, "upgrade", "head") == "abc"
    project.ok("check", checkpoint)


def test_unknown_revisions_on_a_branch_can_be_taken_back(forked: Folder) -> None:
    checkpoint = forked.copy()
    forked.ok("upgrade", "c", checkpoint)
    forked.ok("upgrade", "b", checkpoint)
    (forked.path / "versions" / "c_change.py").unlink()
    refused = forked.run("upgrade", "head", checkpoint)
    assert "the checkpoint has c, which no script here knows" in refused.err
    forked.ok(*suggested(refused.err, checkpoint, 0))
    assert load(checkpoint)["epoch"] == "3a"
    assert ran(forked, checkpoint, "upgrade", "head") == "ab"


def test_branches_on_the_way_down(project: Folder) -> None:
    r"""
    a - b - d       left is on b
     \
      - c           right is on c
    """
    note(project, "a")
    note(project, "b", "a", branch_labels="left")
    note(project, "d", "b")
    note(project, "c", "a", branch_labels="right")
    checkpoint = project.copy()
    for target, left in (
        ("left@base+1", "ac"),
        ("left@base+2", "abc"),
        ("left@head-1", "abc"),
        ("left@d-2", "ac"),
        ("left@head-2", "ac"),
        ("right@a", "abd"),
        ("c@a", "abd"),
        ("right@base", ""),
    ):
        project.ok("upgrade", "heads", checkpoint)
        project.ok("downgrade", target, checkpoint)
        assert "".join(sorted(str(load(checkpoint)["epoch"])[1:])) == left, target
    project.ok("upgrade", "heads", checkpoint)
    refused = project.run("downgrade", "left@base+4", checkpoint)
    assert (refused.code, "left@base+4 goes too far: only 3 revisions are left in that direction\n" in refused.err) == (
        1,
        True,
    )


def test_the_base_of_a_branch_that_is_merged_later(project: Folder) -> None:
    r"""
    a - b - m      left is on b
     \     /
      - c -        and x, a root of its own
    """
    note(project, "a")
    note(project, "b", "a", branch_labels="left")
    note(project, "c", "a")
    note(project, "m", ("b", "c"))
    note(project, "x", branch_labels="other")
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "left@base+1") == "a"
    assert project.ok("stamp", "heads", checkpoint, "--json").lines[0]["to"] == ["m", "x"]
    assert project.ok("stamp", "other@base", checkpoint, "--json").lines[0]["to"] == ["m"]
    assert project.ok("stamp", "left@base", checkpoint, "--json").lines[0]["to"] == ["c"]
    project.ok("stamp", "--purge", "b", checkpoint)
    assert project.ok("stamp", "left@base", checkpoint, "--json").lines[0]["to"] == []
    refused = project.run("stamp", "b,base", checkpoint)
    assert (refused.code, "base excludes all other revisions: stamp it alone" in refused.err) == (2, True)


def test_too_many_steps_and_several_heads_say_what_works(project: Folder) -> None:
    r"""
    a - b      left is on b
     \
      - c      right is on c; x is a root of its own
    """
    note(project, "a")
    note(project, "b", "a", branch_labels="left")
    note(project, "c", "a", branch_labels="right")
    note(project, "x")
    checkpoint = project.copy()
    for target, instead in (
        ("left@+9", ["left@head"]),
        ("+9", ["left@+9", "right@+9", "x@+9"]),
        ("head-1", ["left@head-1", "right@head-1", "x@head-1"]),
        ("a+1", ["left@a+1", "right@a+1"]),
        ("a@head", ["left@head", "right@head", "a@heads"]),
    ):
        refused = project.run("upgrade", target, checkpoint)
        assert refused.code == 1
        found = [word.removeprefix("upgrade ") for word in re.findall(r"`([^`]*)`", refused.err)]
        assert [word for word in found if "merge" not in word] == instead
        (joined,) = re.findall(r"`ckpt-migrate (merge[^`]*) NAME`", refused.err) or [""]
        assert joined == {"+9": "merge", "head-1": "merge"}.get(target, "merge b c" if "@" not in target else joined)
        for word in instead:
            copy = project.copy(to="copy.ckpt")
            assert project.run("upgrade", word, copy).code == (1 if "+9" in word else 0), word


def test_check_suggests_only_what_mends(project: Folder) -> None:
    r"""
    a - b     c - d        c depends on b: to put b after d would close a cycle
    """
    project.script("a")
    project.script("b", "a")
    project.script("c", None, top="depends_on = 'b'")
    project.script("d", "c")
    ran = project.run("check")
    assert "`ckpt-migrate rebase c --onto b`" in ran.out
    project.script("e", "a")
    project.ok("release")
    assert "rebase" not in project.run("check").out
    checkpoint = project.copy(to="my file.ckpt")
    (project.path / "ckpt-migrate.toml").write_text("several_heads = true")
    ran = project.run("check", checkpoint)
    assert f"`ckpt-migrate upgrade heads '{checkpoint}'`" in ran.out
    project.ok(*suggested(ran.out, checkpoint))
    project.ok("check", checkpoint)


def test_check_of_a_checkpoint_that_cannot_get_there(project: Folder) -> None:
    project.script("a")
    project.script("F", "a", final=True)
    ran = project.run("check", project.copy())
    assert ran.code == 4
    assert "it is at base, not at head; barrier F (change F) is in the way" in ran.out


def test_check_heads_does_not_pass_where_it_cannot_tell(project: Folder) -> None:
    project.script("a")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    project.script("b", "zz")
    assert project.run("current", "--check-heads", checkpoint).code == 1
    (project.path / "ckpt-migrate.toml").unlink()
    refused = project.run("current", "--check-heads", checkpoint)
    assert (refused.code, "no configuration found" in refused.err) == (1, True)
    project.ok("current", checkpoint)


def test_names_and_labels_of_what_is_squashed(project: Folder) -> None:
    project.script("one", name="First thing")
    note(project, "two", "one", branch_labels="dec")
    project.script("three", "two", name="Third thing")
    part, none, whole = (project.copy(to=f"{name}.ckpt") for name in ("part", "none", "whole"))
    project.ok("upgrade", "one", part)
    project.ok("squash", "one:three", "all", "--rev-id", "SQ")
    project.ok("upgrade", "head", whole)
    assert project.ok("upgrade", "dec", part, "-n", "--json").lines[0]["to"] == ["two"]
    assert project.ok("upgrade", "SQ", part, "-n", "--json").lines[0]["to"] == ["three"]
    assert "already at SQ" in project.ok("upgrade", "two", whole).out
    assert project.ok("upgrade", "tw", none, "-n", "--json").lines[0]["to"] == ["two"]
    assert project.ok("upgrade", "First thing", none, "-n", "--json").lines[0]["to"] == ["one"]
    assert project.ok("upgrade", "dec", none, "-n", "--json").lines[0]["to"] == ["SQ"]
    project.ok("revision", "next", "--head", "three", "--rev-id", "N")
    assert project.ok("show", "N", "--json").lines[0]["parents"] == ["SQ"]
    refused = project.run("revision", "x", "--head", "N", "--branch-label", "two")
    assert (refused.code, "it is the id of a revision" in refused.err) == (2, True)
    note(project, "L", "N", branch_labels="two")
    refused = project.run("heads")
    assert (refused.code, "the label two is an id that" in refused.err) == (1, True)


def test_a_dependency_on_a_label_inside_of_what_is_squashed(project: Folder) -> None:
    note(project, "a")
    note(project, "b", "a", branch_labels="dec")
    note(project, "c", "b")
    note(project, "w", depends_on="dec")
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "w") == "abw"
    project.ok("squash", "a:c", "all", "--rev-id", "S")
    assert ran(project, checkpoint, "upgrade", "heads") == "abwc"


def test_a_release_that_had_a_part_of_what_came_as_one(project: Folder) -> None:
    for rev, parent, version in (("a", None, "1.0"), ("b", "a", "1.5"), ("c", "b", "2.0"), ("d", "c", "2.5")):
        project.script(rev, parent, version=version)
    project.ok("squash", "b:c", "all", "--rev-id", "S")
    checkpoint = project.copy()
    plan = project.ok("upgrade", "pkg<2.6", checkpoint, "--json").lines[0]["steps"]
    assert [step["revision"] for step in plan] == ["a", "S", "d"]
    before = digest(checkpoint)
    refused = project.run("downgrade", "pkg<1.6", checkpoint)
    assert (refused.code, "pkg<1.6 is part of S, which the checkpoint got as one step; write S or a instead" in refused.err) == (
        3, True)  # fmt: skip
    assert digest(checkpoint) == before
    assert project.ok("stamp", "pkg<1.6", checkpoint, "--json").lines[0]["to"] == ["b"]


def test_a_released_part_stays_where_it_is(project: Folder) -> None:
    for rev, parent in (("a", None), ("b", "a"), ("c", "b"), ("x", "a")):
        project.script(rev, parent)
    project.ok("release")
    path = Path(project.ok("squash", "b:c", "all", "--rev-id", "S", "--json").lines[0]["path"])
    refused = project.run("rebase", "S", "--onto", "x")
    assert (refused.code, "b was released, so checkpoints may have it at its place" in refused.err) == (3, True)
    (project.path / "ckpt-migrate.toml").write_text("several_heads = true")
    project.ok("check")
    path.write_text(path.read_text().replace('down_revision = "a"', 'down_revision = "x"', 1))
    assert "b (change b) no longer follows a, as it did when it was released" in project.run("check").out


def test_edit_looks_at_the_graph_afterwards(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script("a")
    project.script("b", "a")
    editor = project.path / "editor"
    editor.write_text(
        f"#!{sys.executable}\nimport sys\np = sys.argv[1]\nt = open(p).read().replace(\"'a'\", \"'zz'\")\nopen(p, 'w').write(t)\n"
    )
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("VISUAL", os.fspath(editor))
    refused = project.run("edit", "b")
    assert (refused.code, "down_revision names zz, which no script has" in refused.err) == (1, True)


def test_a_head_file_that_cannot_be_written(project: Folder) -> None:
    (project.path / "ckpt-migrate.toml").write_text("head_file = true")
    (project.path / "versions" / "HEAD").mkdir()
    refused = project.run("revision", "first")
    assert refused.code == 1
    assert "could not be written (Is a directory); the scripts are complete" in refused.err
    (project.path / "versions" / "HEAD").rmdir()
    project.ok(*suggested(refused.err, project.path))


def test_links_and_read_only_scripts(forked: Folder) -> None:
    link, real = forked.path / "versions" / "c_change.py", forked.path / "elsewhere.py"
    link.rename(real)
    link.symlink_to(real)
    forked.ok("rebase", "c", "--onto", "b")
    assert link.is_symlink()
    assert 'down_revision = "b"' in real.read_text()
    real.chmod(0o444)
    refused = forked.run("rebase", "c", "--onto", "a")
    assert (refused.code, "is read-only; allow writing with `chmod u+w`" in refused.err) == (3, True)


def test_odd_things_in_the_folder(project: Folder) -> None:
    project.script("a")
    os.mkfifo(project.path / "versions" / "pipe.py")
    refused = project.run("heads")
    assert (refused.code, "versions/pipe.py:1: no revision" in refused.err) == (1, True)
    (project.path / "versions" / "pipe.py").unlink()
    (project.path / "versions" / "folder.py").mkdir()
    (project.path / "versions" / "around").symlink_to(project.path / "versions")
    (project.path / "ckpt-migrate.toml").write_text("recursive = true")
    project.ok("heads")
    (project.path / "ckpt-migrate.toml").write_text('file_template = "%(rev)99999999999s"')
    refused = project.run("heads")
    assert (refused.code, "file_template must be a pattern" in refused.err) == (1, True)


def test_wrong_usage_is_said_as_json_too(forked: Folder) -> None:
    checkpoint = forked.copy()
    for words in (("upgrade", "-1"), ("stamp", "+1"), ("stamp", "barrier")):
        ran = forked.run(*words, checkpoint, checkpoint, "--json")
        assert ran.code == 2
        assert [line["error"]["type"] for line in ran.lines] == ["UsageError"]


def test_what_a_checkpoint_carries_is_looked_for_there(forked: Folder) -> None:
    checkpoint = forked.copy()
    forked.ok("upgrade", "b", checkpoint)
    refused = forked.run("show", "zz", "--from", checkpoint)
    assert (refused.code, "`ckpt-migrate history CKPT` lists all of them" in refused.err) == (1, True)


# --- found by a second attack ---


@pytest.fixture
def several(project: Folder) -> Folder:
    (project.path / "ckpt-migrate.toml").write_text("several_heads = true")
    return project


def test_the_repair_counts_what_became_a_head(several: Folder) -> None:
    """a - b, applied; then b is put after x, so that nothing follows a any more"""
    note(several, "r")
    note(several, "a", "r")
    note(several, "b", "a")
    note(several, "x", "r")
    checkpoint = several.copy()
    several.ok("upgrade", "b", checkpoint)
    several.ok("rebase", "b", "--onto", "x")
    refused = several.run("upgrade", "heads", checkpoint)
    assert suggested(refused.err, checkpoint)[1] == "a,b"
    several.ok(*suggested(refused.err, checkpoint))
    assert ran(several, checkpoint, "upgrade", "heads") == "rab"
    several.ok("check", checkpoint)


def test_a_parent_that_becomes_a_head_is_one(several: Folder) -> None:
    note(several, "a")
    note(several, "b", "a")
    checkpoint = several.copy()
    several.ok("upgrade", "head", checkpoint)
    several.ok("rebase", "b", "--onto", "base")
    several.ok("check", checkpoint)
    assert [head["revision"] for head in several.ok("current", checkpoint, "--json").lines[0]["heads"]] == ["a", "b"]
    history = several.ok("history", checkpoint, "--json").lines[0]
    assert [entry["revision"] for entry in history if entry["here"]] == ["b", "a"]


def test_heads_that_need_each_other(several: Folder) -> None:
    note(several, "a")
    note(several, "b", depends_on="a")
    note(several, "c", "b")
    checkpoint = several.copy()
    several.ok("upgrade", "heads", checkpoint)
    assert "nothing to do" in several.ok("downgrade", "heads", checkpoint).out
    assert "nothing to do" in several.ok("downgrade", "a", checkpoint).out
    assert ran(several, checkpoint, "downgrade", "a-1") == ""


def test_a_squashed_revision_keeps_every_dependency(several: Folder) -> None:
    """n needs r, which m, before it, does not; the one stretch is squashed, then the other"""
    for rev, parent, depends in (("p", None, None), ("q", "p", None), ("r", "q", None)):
        note(several, rev, parent, depends_on=depends)
    note(several, "m", depends_on="p")
    note(several, "n", "m", depends_on="r")
    note(several, "o", "n")
    checkpoint = several.copy()
    several.ok("upgrade", "m", checkpoint)
    several.ok("squash", "p:r", "one", "--rev-id", "S1")
    several.ok("squash", "n:o", "two", "--rev-id", "S2")
    assert ran(several, checkpoint, "upgrade", "S2") == "pmqrno"


def test_a_stamp_after_a_rebase_is_sound(several: Folder) -> None:
    note(several, "b")
    note(several, "a", "b")
    checkpoint = several.copy()
    several.ok("upgrade", "heads", checkpoint)
    several.ok("rebase", "a", "--onto", "base")
    note(several, "d", "b")
    several.ok("stamp", "d", checkpoint)
    current = several.ok("current", checkpoint, "--json").lines[0]
    assert [head["revision"] for head in current["heads"]] == ["a", "d"]
    several.ok("check", checkpoint)


def test_check_sees_what_upgrade_refuses(forked: Folder) -> None:
    checkpoint = forked.copy()
    forked.ok("upgrade", "b", checkpoint)
    forked.ok("upgrade", "c", checkpoint)
    forked.ok("rebase", "b", "--onto", "c")
    for words in (("check",), ("current", "--check-heads")):
        assert forked.run(*words, checkpoint).code == 4
    assert "the checkpoint got b before c" in forked.run("check", checkpoint).out


def test_a_branch_that_is_said_not_to_be_there_takes_along_what_needs_it(several: Folder) -> None:
    r"""
    a - b      L is on b
     \
      - c      x depends on b
    """
    note(several, "a")
    note(several, "b", "a", branch_labels="L")
    note(several, "c", "a")
    note(several, "x", depends_on="b")
    checkpoint = several.copy()
    several.ok("upgrade", "heads", checkpoint)
    assert several.ok("stamp", "L@base", checkpoint, "--json").lines[0]["to"] == ["c"]


def test_no_head_is_ahead(several: Folder) -> None:
    note(several, "a")
    note(several, "b")
    checkpoint = several.copy()
    several.ok("upgrade", "b", checkpoint)
    refused = several.run("upgrade", "+1", checkpoint)
    assert "write `upgrade heads`" in refused.err
    assert ran(several, checkpoint, "upgrade", "heads") == "ba"
