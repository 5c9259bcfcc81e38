"""init, revision, upgrade, downgrade: through the command line, on real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import RENAME, Folder, backups, digest, leftovers, load, names

NAMES = ["x.weight", "x.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
OLD = [*NAMES, "norm.num_batches_tracked", "tied.weight"]
RENAMED = [*OLD[1:], "y.weight"]


def test_a_stranger_does_the_main_job(project: Folder) -> None:
    (project.path / "ckpt-migrate.toml").unlink()
    checkpoint = project.copy()
    assert "created  ckpt-migrate.toml" in project.ok("init").out
    made = Path(project.ok("revision", "rename x to y").out.split()[-1])
    text = made.read_text()
    assert "def migrate" in text
    assert "def rollback" not in text.replace("`def rollback", "")
    text = text.replace("    return ckpt\n", f"    {RENAME['migrate']}\n    return ckpt\n", 1)
    made.write_text(f"{text}\n\ndef rollback(ckpt):\n    {RENAME['rollback']}\n    return ckpt\n")

    assert "base -> " in project.ok("upgrade", "head", checkpoint).out
    assert names(checkpoint) == RENAMED
    assert "-> base" in project.ok("downgrade", "-1", checkpoint).out
    assert sorted(names(checkpoint)) == sorted(OLD)


def test_the_module_runs_too(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "head", str(checkpoint)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stderr == ""
    assert names(checkpoint) == RENAMED


def test_an_upgrade_keeps_the_old_file_under_another_name(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    before, inode = digest(checkpoint), checkpoint.stat().st_ino
    ran = project.ok("upgrade", "head", checkpoint)
    (backup,) = backups(checkpoint)
    assert digest(backup) == before
    assert backup.stat().st_ino == inode  # a hard link: nothing was copied
    assert f"kept as {backup}" in ran.out
    assert leftovers(project.path) == []


def test_no_backup_ever_overwrites_another(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    kept = {digest(checkpoint)}
    (project.path / "training.ckpt.bak").write_bytes(b"precious")
    for words in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head")):
        project.ok(*words, checkpoint)
        kept.add(digest(checkpoint))
    found = [path.name for path in backups(checkpoint)]
    assert found == ["training.ckpt.bak", "training.ckpt.bak1", "training.ckpt.bak2", "training.ckpt.bak3"]
    assert (project.path / "training.ckpt.bak").read_bytes() == b"precious"
    assert {digest(path) for path in backups(checkpoint)[1:]} | {digest(checkpoint)} == kept


def test_without_backup(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint, "--no-backup")
    assert backups(checkpoint) == []
    assert names(checkpoint) == RENAMED


def test_a_dry_run_prints_the_plan_and_writes_nothing(project: Folder) -> None:
    project.script("a1", None, 'raise RuntimeError("a dry run runs nothing")', None, top='print("imported")')
    checkpoint = project.copy()
    before = digest(checkpoint), sorted(project.path.iterdir())
    ran = project.ok("upgrade", "head", checkpoint, "--dry-run")
    assert "upgrade a1  change a1  (irreversible)" in ran.out
    assert "imported" not in ran.out
    (line,) = project.ok("upgrade", "head", checkpoint, "--dry-run", "--json").lines
    assert line == {
        "checkpoint": str(checkpoint),
        "from": [],
        "to": ["a1"],
        "steps": [{"revision": "a1", "name": "change a1", "direction": "upgrade"}],
        "written": None,
        "backup": None,
        "dry_run": True,
        "new_names": [],
    }
    assert (digest(checkpoint), sorted(project.path.iterdir())) == before


def test_output_leaves_the_checkpoint_alone(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint, output = project.copy(), project.path / "new.ckpt"
    before = digest(checkpoint)
    ran = project.ok("upgrade", "head", checkpoint, "--output", output, "--json")
    assert digest(checkpoint) == before
    assert names(output) == RENAMED
    assert ran.lines[0]["written"] == str(output)
    assert ran.lines[0]["backup"] is None
    assert backups(checkpoint) == []
    # Nothing to do, but the user asked for a file.
    project.ok("upgrade", "head", output, "--output", project.path / "copy.ckpt")
    assert digest(project.path / "copy.ckpt") == digest(output)


def test_several_checkpoints_each_on_its_own(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    good, bad, last = project.copy(to="1.ckpt"), project.path / "2.ckpt", project.copy(to="3.ckpt")
    bad.write_bytes(b"no checkpoint")
    ran = project.run("upgrade", "head", good, bad, last, "--json")
    assert ran.code == 1
    assert [line.get("to") for line in ran.lines] == [["a1"], None, ["a1"]]
    assert ran.lines[1]["error"]["type"] == "UnknownContent"
    assert f"{bad}: it is not a checkpoint that torch.save wrote" in ran.err
    assert names(good) == names(last) == RENAMED


def test_a_target_that_is_reached_already_is_no_error(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    before = digest(checkpoint)
    for words in (("upgrade", "head"), ("upgrade", "a1"), ("upgrade", "barrier"), ("downgrade", "a1"), ("stamp", "a1")):
        assert "already at a1, nothing to do" in project.ok(*words, checkpoint).out
    assert digest(checkpoint) == before
    project.ok("downgrade", "base", checkpoint)
    assert "already at base" in project.ok("downgrade", "base", checkpoint).out


def test_merges_go_up_and_come_down(project: Folder) -> None:
    r"""
    a - b - d      every revision notes that it ran
     \     /
      - c -
    """
    for revision, parents in (("a", None), ("b", "a"), ("c", "a"), ("d", ("b", "c"))):
        note = f'ckpt["epoch"] = str(ckpt["epoch"]) + "{revision}"'
        project.script(revision, parents, note, 'ckpt["epoch"] = ckpt["epoch"][:-1]')
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    assert load(checkpoint)["epoch"] == "3abcd"
    ran = project.ok("downgrade", "b", checkpoint, "--json")
    assert ran.lines[0]["to"] == ["b", "c"]
    assert load(checkpoint)["epoch"] == "3abc"
    project.ok("downgrade", "a", checkpoint)
    assert load(checkpoint)["epoch"] == "3a"
    project.ok("upgrade", "+2", checkpoint)
    assert load(checkpoint)["epoch"] == "3abc"
    project.ok("downgrade", "-3", checkpoint)
    assert load(checkpoint)["epoch"] == "3"


def test_relative_and_partial_targets(project: Folder) -> None:
    project.script("abc1", None)
    project.script("abd2", "abc1")
    project.script("xyz3", "abd2")
    checkpoint = project.copy()
    assert project.ok("upgrade", "+2", checkpoint, "--json").lines[0]["to"] == ["abd2"]
    assert project.ok("upgrade", "xy", checkpoint, "--json").lines[0]["to"] == ["xyz3"]
    assert project.ok("downgrade", "-1", checkpoint, "--json").lines[0]["to"] == ["abd2"]
    assert project.ok("downgrade", "abc", checkpoint, "--json").lines[0]["to"] == ["abc1"]


def test_stamp_says_what_a_file_is(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    project.script("a2", "a1")
    checkpoint = project.copy()
    project.ok("stamp", "head", checkpoint)
    assert project.ok("current", checkpoint, "--json").lines[0]["heads"][0]["revision"] == "a2"
    assert names(checkpoint) == OLD
    project.ok("stamp", "base", checkpoint)
    assert project.ok("current", checkpoint, "--json").lines[0]["heads"] == []
    assert project.run("stamp", "+1", checkpoint).code == 2


def test_a_stamped_checkpoint_carries_its_way_back(project: Folder) -> None:
    script = project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    renamed = digest(checkpoint)
    project.ok("stamp", "base", checkpoint)
    project.ok("stamp", "head", checkpoint)
    assert digest(checkpoint) != renamed
    script.unlink()
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert sorted(names(checkpoint)) == sorted(OLD)


def test_a_symbolic_link_is_followed_and_stays_one(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    (project.path / "runs").mkdir()
    checkpoint = project.copy(to="runs/epoch=3.ckpt")
    link = project.path / "last.ckpt"
    link.symlink_to("runs/epoch=3.ckpt")
    project.ok("upgrade", "head", link)
    assert link.is_symlink()
    assert names(checkpoint) == RENAMED
    assert backups(checkpoint)


def test_a_file_and_a_link_to_it_have_one_turn(project: Folder) -> None:
    """Lightning links last.ckpt to the newest file: one step for all of a folder is one step for that too."""
    project.script("a1", None, **RENAME)
    project.script("b2", "a1", "ckpt['epoch'] += 1", "ckpt['epoch'] -= 1")
    checkpoint = project.copy(to="epoch=3.ckpt")
    link = project.path / "last.ckpt"
    link.symlink_to("epoch=3.ckpt")
    ran = project.ok("upgrade", "+1", checkpoint, link, "--json")
    assert [line["to"] for line in ran.lines] == [["a1"]]
    assert f"{link}: skipped, because it is the same file as {checkpoint}" in ran.err
    project.ok("upgrade", "head", link)
    assert len(project.ok("downgrade", "-1", checkpoint, checkpoint, link, "--json").lines) == 1
    assert "a1" in project.ok("current", checkpoint).out


def test_permissions_are_kept(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    checkpoint.chmod(0o640)
    project.ok("upgrade", "head", checkpoint)
    assert checkpoint.stat().st_mode & 0o777 == 0o640


def test_other_names_of_a_hard_linked_checkpoint_keep_the_old_file(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    os.link(checkpoint, project.path / "other.ckpt")
    project.ok("upgrade", "head", checkpoint, "--no-backup")
    assert names(project.path / "other.ckpt") == OLD


@pytest.mark.parametrize("where", ["here", "below", "named", "named folder"])
def test_the_configuration_is_found(project: Folder, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script("a1", None)
    (project.path / "deep" / "er").mkdir(parents=True)
    options: list[object] = []
    if where == "below":
        monkeypatch.chdir(project.path / "deep" / "er")
    elif where.startswith("named"):
        monkeypatch.chdir("/")
        options = ["--config", project.path / ("" if "folder" in where else "ckpt-migrate.toml")]
    assert project.ok(*options, "heads", "--json").lines == [
        [{"revision": "a1", "name": "change a1", "labels": [], "final": False}]
    ]
    assert project.ok("heads", *options, "--json").lines
