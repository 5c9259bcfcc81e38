"""check, rebase, release, the head file: what a team needs, and its CI."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.scripts.edit_script import with_parents
from tests.support.project import Folder, digest


@pytest.fixture
def forked(project: Folder) -> Folder:
    r"""
    a - b          two people branch from one head
     \
      - c - d
    """
    project.script("a")
    project.script("b", "a", name="fuse qkv")
    project.script("c", "a", name="drop the head")
    project.script("d", "c", name="rename x to y")
    return project


def test_check_fails_with_both_names_and_the_command_that_mends_it(forked: Folder) -> None:
    ran = forked.run("check")
    assert ran.code == 4
    assert ran.out.splitlines() == [
        "there are 2 heads: b (fuse qkv, versions/b_change.py) and d (rename x to y, versions/d_change.py); "
        "`ckpt-migrate merge heads NAME` joins them, or `ckpt-migrate rebase c --onto b` puts one after the other",
        "4 revisions: 1 problem",
    ]
    forked.ok("rebase", "c", "--onto", "b")
    assert forked.ok("check").out == "4 revisions: no problems\n"
    (found,) = forked.ok("check", "--json").lines
    assert found == {
        "revisions": 4,
        "checkpoints": 0,
        "problems": [],
        "models": 0,
        "proofs": [],
        "outputs": [],
        "recorded": [],
        "notes": [],
    }


def test_merging_mends_it_too(forked: Folder) -> None:
    forked.ok("merge", "heads", "join")
    forked.ok("check")


def test_several_heads_may_be_wanted(forked: Folder) -> None:
    (forked.path / "ckpt-migrate.toml").write_text("several_heads = true")
    forked.ok("check")


def test_rebase_changes_two_lines_and_nothing_else(forked: Folder) -> None:
    script = forked.path / "versions" / "c_change.py"
    text = (
        '# -*- coding: latin-1 -*-\r\n"""drop the h\xe4d\r\n\r\nRevision ID: c\r\nRevises: a\r\n"""\r\n'
        'revision = "c"\r\ndown_revision = (  # what it follows\r\n    "a"  # the first\r\n)  # so far\r\n'
        'NOTE = "down_revision = \xe4"\r\ndef migrate(ckpt):\r\n    return ckpt\r\nrollback = None\r\n'
    )
    script.write_bytes(text.encode("latin-1"))
    script.chmod(0o640)
    (found,) = forked.ok("rebase", "c", "--onto", "b", "--json").lines
    assert found == {"revision": "c", "path": str(script), "before": ["a"], "after": ["b"], "forgotten": []}
    expected = text.replace("Revises: a", "Revises: b").replace('    "a"  #', '    "b"  #')
    assert script.read_bytes().decode("latin-1") == expected
    assert script.stat().st_mode & 0o777 == 0o640
    assert "already follows b" in forked.ok("rebase", "c", "--onto", "b").out
    assert script.read_bytes().decode("latin-1") == expected


@pytest.mark.parametrize(
    ("old", "parents", "new"),
    [
        ("down_revision = None", ["x"], 'down_revision = "x"'),
        ("down_revision: str | None = 'a'  # why", ["x"], 'down_revision: str | None = "x"  # why'),
        ("x = 1; down_revision = 'a'; y = 2", ["b", "c"], 'x = 1; down_revision = ("b", "c"); y = 2'),
        ("down_revision = ('a',\n 'b')\n", [], "down_revision = None\n"),
        ("ä = 'ä'; down_revision = 'a'", ["b"], "ä = 'ä'; down_revision = \"b\""),
        ("\ufeffdown_revision = 'a'", ["b"], '\ufeffdown_revision = "b"'),
    ],
)
def test_values_are_replaced_where_they_stand(old: str, parents: list[str], new: str) -> None:
    assert with_parents(old.encode(), parents).decode() == new


def test_what_cannot_be_rewritten_is_left_alone(forked: Folder) -> None:
    script = forked.path / "versions" / "c_change.py"
    for line in ("x = down_revision = 'a'", "down_revision = 'b'\ndown_revision = 'a'"):
        script.write_text(f"revision = 'c'\n{line}\ndef migrate(ckpt):\n    return ckpt\n")
        before = digest(script)
        refused = forked.run("rebase", "c", "--onto", "b")
        assert (refused.code, "down_revision is not set exactly once, in its own statement" in refused.err) == (2, True)
        assert digest(script) == before


def test_without_onto_the_other_head_is_followed(forked: Folder) -> None:
    assert "c now follows b (was a)" in forked.ok("rebase", "c").out
    assert [entry.revision for entry in cm.history().entries] == ["d", "c", "b", "a"]
    forked.ok("rebase", "c", "--onto", "base")
    assert [head.revision for head in cm.heads()] == ["b", "d"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("rebase", "c", "--onto", "d"), 2, "d needs c, so c would come before itself"),
        (("rebase", "a"), 2, "there is no other head that a could follow"),
        (("rebase", "m", "--onto", "a"), 3, "m is a merge of b, d; rebase these"),
        (("rebase", "zz"), 1, "no revision is called 'zz'"),
        (("rebase", "c", "--onto", "zz"), 1, "no revision is called 'zz'"),
        (("rebase", "heads", "--onto", "a"), 1, "no revision is called"),
    ],
)
def test_rebase_refuses(forked: Folder, words: tuple[str, ...], code: int, says: str) -> None:
    if "m" in words:
        forked.script("m", ("b", "d"))
    if words[1] == "heads":
        words, code, says = ("rebase", "heads", "--onto", "a"), 2, "the target means several revisions: b, d"
    before = {path: digest(path) for path in (forked.path / "versions").iterdir()}
    refused = forked.run(*words)
    assert (refused.code, says in refused.err) == (code, True), refused.err
    assert {path: digest(path) for path in (forked.path / "versions").iterdir()} == before


def test_a_rebased_revision_and_checkpoints_that_have_it_already(forked: Folder) -> None:
    checkpoint = forked.copy()
    forked.ok("upgrade", "d", checkpoint)
    forked.ok("rebase", "c", "--onto", "b")
    refused = forked.run("upgrade", "head", checkpoint)
    assert (refused.code, "has c but not b" in refused.err) == (1, True)
    forked.ok("downgrade", "a", checkpoint)
    assert forked.ok("upgrade", "head", checkpoint, "--json").lines[0]["to"] == ["d"]


# --- what check looks at ---


def test_every_script_has_to_load(project: Folder) -> None:
    project.script("a", top="import nobody_has_this_module")
    project.script("b", "a", top="migrate = None", migrate=None)
    (project.path / "versions" / "b_change.py").write_text(
        'revision = "b"\ndown_revision = "a"\nfrom json import loads as migrate\nrollback = migrate.__doc__\n'
    )
    ran = project.run("check")
    assert ran.code == 1
    assert "versions/a_change.py:3: importing the script failed with ModuleNotFoundError" in ran.out
    assert "versions/b_change.py:4: `rollback` is not a function" in ran.out
    (project.path / "versions" / "c.py").write_text("def broken(:\n")
    ran = project.run("check", "--json")
    assert (ran.code, ran.lines[0]["problems"][0]["message"]) == (1, "syntax error: invalid syntax")


def test_a_missing_rollback_has_to_be_said(project: Folder) -> None:
    project.script("a", rollback=None)
    ran = project.run("check")
    assert ran.code == 4
    assert "a (change a) has no rollback; write one, or set `rollback = None`" in ran.out
    project.script("a", rollback=None, top="rollback = None")
    project.script("F", "a", final=True)
    project.ok("check")


def test_nothing_that_was_released_may_change(project: Folder) -> None:
    script = project.script("a")
    project.script("b", "a")
    assert "2 revisions added as released" in project.ok("release").out
    assert "0 revisions added" in project.ok("release").out
    project.ok("check")
    script.write_text(script.read_text() + "# a comment changes nothing\n")
    project.ok("check")

    def problem(says: str) -> None:
        ran = project.run("check")
        assert (ran.code, says in ran.out) == (4, True), ran.out
        refused = project.run("release")
        assert (refused.code, says in refused.err) == (3, True), refused.err

    text = script.read_text()
    script.write_text(text.replace("pass", "ckpt.clear()"))
    problem("a (change a) has changed since it was released; undo the change, and make a new revision")
    script.write_text(text)
    project.script("b", None)
    problem("b (change b) no longer follows a, as it did when it was released")
    project.script("b", "a")
    (project.path / "versions" / "b_change.py").unlink()
    problem("b was released, but its script is missing; restore it")
    project.script("b", "a")
    project.ok("check")
    refused = project.run("rebase", "b", "--onto", "base")
    assert (refused.code, "b was released, so checkpoints may have it at its place" in refused.err) == (3, True)
    (project.path / "versions" / "RELEASED").write_text("b\n")
    refused = project.run("check")
    assert (refused.code, "RELEASED:1: expected a revision, its parents and a signature" in refused.err) == (1, True)


def test_checkpoints_have_to_be_at_head(project: Folder) -> None:
    project.script("a")
    ahead, behind, bad = project.copy(), project.copy(to="old.ckpt"), project.path / "bad.ckpt"
    project.ok("upgrade", "head", ahead)
    project.ok("check", ahead)
    project.ok("current", "--check-heads", ahead)
    ran = project.run("check", ahead, behind)
    assert ran.code == 4
    assert "old.ckpt: it is at base, not at head; `ckpt-migrate upgrade head" in ran.out
    assert ran.out.endswith("1 revision and 2 checkpoints: 1 problem\n")
    assert project.run("current", "--check-heads", ahead, behind).code == 4
    bad.write_text("no checkpoint")
    ran = project.run("check", behind, bad)
    assert (ran.code, "bad.ckpt: it is not a checkpoint that torch.save wrote" in ran.out) == (1, True)


# --- the head file ---


def test_a_silent_fork_becomes_a_conflict(project: Folder) -> None:
    """Two branches of git, each with a new revision: without the head file, git merges them without a word."""
    (project.path / "ckpt-migrate.toml").write_text("head_file = true")

    def git(*words: str, code: int = 0) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
        ran = subprocess.run(["git", *identity, *words], cwd=project.path, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def new(name: str, rev: str) -> None:
        path = Path(project.ok("revision", name, "--rev-id", rev, "--json").lines[0]["path"])
        path.write_text(f"{path.read_text()}\n\nrollback = None\n")
        git("add", ".")
        git("commit", "-m", name)

    git("init")
    new("first", "a")
    assert (project.path / "versions" / "HEAD").read_text() == "a first\n"
    git("checkout", "-b", "theirs")
    new("their change", "b")
    git("checkout", "main")
    new("our change", "c")
    assert "CONFLICT" in git("merge", "theirs", code=1)
    ran = project.run("check")
    assert (ran.code, "has a conflict: merge the heads, then `ckpt-migrate heads --write`" in ran.out) == (4, True)
    project.ok("rebase", "c", "--onto", "b")
    assert (project.path / "versions" / "HEAD").read_text() == "c our change\n"
    project.ok("check")
    (project.path / "versions" / "HEAD").unlink()
    assert "is missing; `ckpt-migrate heads --write` writes it" in project.run("check").out
    assert project.ok("heads", "--write").out == "c  our change\n"
    project.ok("check")
    (project.path / "versions" / "HEAD").write_text("a first\n")
    assert "does not name the current heads" in project.run("check").out


def test_a_project_without_head_file(project: Folder) -> None:
    project.script("a")
    refused = project.run("heads", "--write")
    assert (refused.code, "the project has no head file; set `head_file = true`" in refused.err) == (2, True)
