"""`clean` removes backups that commands made and that the record proves; everything else stays."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import Cleaned, clean, upgrade
from anemoi_ckpt_migrate.errors import BackupsStay, UsageError
from anemoi_ckpt_migrate.storage.lock import locked
from tests.support.project import RENAME, Folder, Ran, backups, digest

torch = pytest.importorskip("torch")

UNPROVEN = "the record of the checkpoint does not prove that a command made it"


@pytest.fixture
def moved(project: Folder) -> Folder:
    """A project whose training.ckpt was upgraded, downgraded and upgraded: it has three backups."""
    project.script("a1", None, **RENAME)
    project.copy()
    move(project, "head", "base", "head")
    assert left(project) == ["training.ckpt.bak", "training.ckpt.bak1", "training.ckpt.bak2"]
    return project


def move(project: Folder, *targets: str, name: str = "training.ckpt") -> None:
    for target in targets:
        project.ok("downgrade" if target == "base" else "upgrade", target, name)


def left(project: Folder, name: str = "training.ckpt") -> list[str]:
    return [path.name for path in backups(project.path / name)]


def reasons(ran: Ran) -> dict[str, str]:
    """Return the reason for each backup that stays, by name; empty for those that go."""
    return {os.path.basename(each["path"]): each["reason"] for each in ran.lines[0]["backups"]}


def everything(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def edited(path: Path, edit: Callable[[Any], None]) -> None:
    """Change the record of a checkpoint by hand."""
    tree = torch.load(path, weights_only=True)
    edit(tree["ckpt_migrate"])
    torch.save(tree, path)


# The rule


def test_nothing_is_removed_unless_you_say_so(moved: Folder) -> None:
    before = everything(moved.path)
    ran = moved.ok("clean", "training.ckpt", "--keep", "1")
    assert everything(moved.path) == before
    first, *lines = ran.out.splitlines()
    sizes = [(moved.path / name).stat().st_size for name in left(moved)]
    frees = f"{(sizes[0] + sizes[1]) / 1000:.1f} kB"
    assert first == (
        f"training.ckpt: 2 of 3 backups would be removed, which frees {frees} (dry run; add --remove to remove them)"
    )
    assert [line.split()[0] for line in lines] == left(moved)
    assert [line.rpartition(", ")[2] for line in lines] == ["would be removed"] * 2 + ["stays: it is the newest"]


def test_all_but_the_newest(moved: Folder) -> None:
    checkpoint = moved.path / "training.ckpt"
    before = digest(checkpoint), digest(backups(checkpoint)[-1])
    ran = moved.ok("clean", "training.ckpt", "--keep", "1", "--remove")
    assert ran.out.startswith("training.ckpt: 2 of 3 backups removed, ")
    assert left(moved) == ["training.ckpt.bak2"]
    assert (digest(checkpoint), digest(backups(checkpoint)[-1])) == before
    assert moved.ok("clean", "training.ckpt", "--keep", "1", "--remove").out.startswith(
        "training.ckpt: nothing to remove\n"
    )
    assert moved.ok("clean", "training.ckpt", "--keep", "0", "--remove").out.count("removed") == 2
    assert moved.ok("clean", "training.ckpt", "--keep", "0", "--remove").out == "training.ckpt: no backups\n"


def test_the_log_tells_which_one_is_the_newest_not_the_name(moved: Folder) -> None:
    moved.ok("clean", "training.ckpt", "--keep", "1", "--remove")
    move(moved, "base")
    assert left(moved) == ["training.ckpt.bak", "training.ckpt.bak2"]
    moved.ok("clean", "training.ckpt", "--keep", "1", "--remove")
    assert left(moved) == ["training.ckpt.bak"]


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        (["--older-than", "30d"], 3),
        (["--older-than", "2001-01-01"], 3),
        (["--older-than", "2100-01-01"], 0),
        (["--larger-than", "1GB"], 3),
        (["--larger-than", "1kB"], 0),
        (["--larger-than", "1 KiB", "--keep", "2"], 2),
        (["--older-than", "2100-01-01", "--keep", "1"], 1),
        (["--older-than", "1h", "--keep", "0"], 3),
    ],
)
def test_a_backup_goes_only_if_all_conditions_say_so(moved: Folder, words: list[str], stay: int) -> None:
    ran = moved.ok("clean", "training.ckpt", *words, "--remove", "--json")
    assert len(left(moved)) == stay
    assert sum(each["removed"] for each in ran.lines[0]["backups"]) == 3 - stay


def test_a_backup_is_as_old_as_the_command_that_made_it(project: Folder) -> None:
    """The state in it may be much older: you upgraded a checkpoint of last year today."""
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    os.utime(checkpoint, (0, 0))
    move(project, "head")
    project.ok("clean", checkpoint, "--older-than", "1d", "--remove")
    assert left(project) == ["training.ckpt.bak"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "tell which backups may go: give --older-than AGE, --larger-than SIZE or --keep N"),
        (["--remove"], "tell which backups may go"),
        (["--older-than", "old"], "'old' is no time; give an age such as 7d"),
        (["--larger-than", "big"], "'big' is no size; give one such as 10GB or 512MiB"),
        (["--keep", "-1"], "-1 is no number of backups to keep; give 0 or more"),
        (["--keep", "one"], "invalid int value: 'one'"),
    ],
)
def test_usage(moved: Folder, words: list[str], says: str) -> None:
    ran = moved.run("clean", "training.ckpt", *words)
    assert ran.code == 2
    assert says in ran.err
    assert len(left(moved)) == 3


def test_from_python(moved: Folder) -> None:
    found = clean("training.ckpt", older_than=datetime.timedelta(seconds=-60), larger_than=100, keep=1)
    assert isinstance(found, Cleaned)
    assert (found.dry_run, len(found.backups)) == (True, 3)
    assert [(each.chosen, each.proven, each.removed) for each in found.backups] == [
        (True, True, False), (True, True, False), (False, True, False)]  # fmt: skip
    assert found.frees == sum(each.size for each in found.backups if each.chosen)
    future = datetime.datetime.now() + datetime.timedelta(days=1)
    assert [each.removed for each in clean("training.ckpt", older_than=future, remove=True).backups] == [True] * 3
    with pytest.raises(UsageError):
        clean("training.ckpt")


# The proof


def test_commands_that_keep_no_backup_claim_none(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint, "--no-backup")
    project.ok("downgrade", "base", checkpoint, "--output", "down.ckpt")
    project.ok("downgrade", "base", checkpoint, "--in-place")
    for name in (checkpoint, "down.ckpt"):
        assert all("backup" not in entry for entry in project.ok("current", name, "--json").lines[0]["log"])


def test_a_stamp_keeps_a_backup_too(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("stamp", "head", checkpoint)
    project.ok("clean", checkpoint, "--keep", "0", "--remove")
    assert left(project) == []


def test_an_old_record_proves_nothing(moved: Folder) -> None:
    edited(moved.path / "training.ckpt", lambda record: [entry.pop("backup") for entry in record["log"]])
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json")
    assert list(reasons(ran).values()) == [UNPROVEN] * 3
    assert len(left(moved)) == 3


def test_a_checkpoint_without_a_record_proves_nothing(moved: Folder) -> None:
    moved.copy()
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json")
    assert list(reasons(ran).values()) == [UNPROVEN] * 3
    assert len(left(moved)) == 3


def test_the_backup_of_compact_is_in_no_log(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint, "--in-place")
    project.ok("compact", checkpoint)
    assert reasons(project.ok("clean", checkpoint, "--keep", "0", "--remove", "--json")) == {
        "training.ckpt.bak": UNPROVEN
    }
    assert left(project) == ["training.ckpt.bak"]


def text_file(checkpoint: Path, own: Path) -> None:
    own.write_text("my notes")


def copied(checkpoint: Path, own: Path) -> None:
    shutil.copy2(checkpoint, own)


def linked(checkpoint: Path, own: Path) -> None:
    os.link(checkpoint, own)


def pointing(checkpoint: Path, own: Path) -> None:
    own.symlink_to(checkpoint)


@pytest.mark.parametrize("make", [text_file, copied, linked, pointing])
def test_your_own_file_stays(project: Folder, make: Callable[[Path, Path], None]) -> None:
    """Even a copy with the same time, or a second name, of the very file that the command replaced."""
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    make(checkpoint, project.path / "training.ckpt.bak")
    move(project, "head")
    project.ok("clean", checkpoint, "--keep", "0", "--remove")
    assert left(project) == ["training.ckpt.bak"]
    project.ok("clean", checkpoint, "--keep", "0", "--remove")
    assert left(project) == ["training.ckpt.bak"]


def test_other_names_are_none_of_backups(moved: Folder) -> None:
    others = ["training.ckpt.bak-1", "training.ckpt.bak.old", "training.ckpt.bak01", "training.ckpt.bakery"]
    for name in others:
        shutil.copy2("training.ckpt.bak1", name)
    moved.ok("clean", "training.ckpt", "--keep", "0", "--remove")
    assert left(moved) == others


def test_a_backup_that_you_changed_or_moved_stays(moved: Folder) -> None:
    os.utime("training.ckpt.bak")
    os.rename("training.ckpt.bak1", "training.ckpt.bak7")
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json")
    assert reasons(ran) == {"training.ckpt.bak": UNPROVEN, "training.ckpt.bak2": "", "training.ckpt.bak7": UNPROVEN}
    assert left(moved) == ["training.ckpt.bak", "training.ckpt.bak7"]


def claim(checkpoint: Path, own: Path, **more: Any) -> None:
    """Make the record of a checkpoint claim a file as its first backup."""
    found = own.lstat()
    facts = {"number": 0, "size": found.st_size, "modified": found.st_mtime_ns, **more}
    edited(checkpoint, lambda record: record["log"][0].update(backup=facts))


def test_a_record_that_claims_your_file(moved: Folder) -> None:
    own = moved.path / "training.ckpt.bak"
    own.write_text("my notes")
    claim(moved.path / "training.ckpt", own)
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json")
    assert reasons(ran)["training.ckpt.bak"].startswith("it cannot be read as a checkpoint (")
    assert own.read_text() == "my notes"


def test_a_record_that_claims_another_checkpoint_of_yours(moved: Folder) -> None:
    own = moved.path / "training.ckpt.bak"
    moved.copy(to="other.ckpt")
    moved.ok("stamp", "head", "other.ckpt")
    os.replace("other.ckpt", own)
    claim(moved.path / "training.ckpt", own)
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json")
    assert reasons(ran)["training.ckpt.bak"] == "its own record is not an earlier one of the checkpoint"
    assert own.exists()


@pytest.mark.parametrize(
    "facts",
    [
        {"files": "../../../etc/x"},
        {"files": "/etc"},
        {"files": "A" * 64},
        {"size": "7"},
        {"number": None},
        {"modified": 1.5},
        [],
        "training.ckpt.bak",
    ],
)
def test_facts_of_another_kind_are_damage(moved: Folder, facts: Any) -> None:
    whole = {"number": 0, "size": 1, "modified": 1}
    value = {**whole, **facts} if isinstance(facts, dict) else facts
    edited(moved.path / "training.ckpt", lambda record: record["log"][0].update(backup=value))
    ran = moved.run("clean", "training.ckpt", "--keep", "0", "--remove")
    assert ran.code == 1
    assert "its backups stay" in ran.err
    assert len(left(moved)) == 3


@pytest.mark.parametrize(
    "facts", [{"number": -1}, {"number": 1 << 80}, {"size": -5}, {"modified": 1 << 90}, {"files": "0" * 64}]
)
def test_facts_that_fit_nothing(moved: Folder, facts: dict[str, Any]) -> None:
    checkpoint = moved.path / "training.ckpt"
    claim(checkpoint, moved.path / "training.ckpt.bak", **facts)
    assert reasons(moved.ok("clean", checkpoint, "--keep", "1", "--remove", "--json"))["training.ckpt.bak"] == UNPROVEN
    assert (moved.path / "training.ckpt.bak").exists()


def test_a_time_that_is_none(moved: Folder) -> None:
    edited(moved.path / "training.ckpt", lambda record: record["log"][2].update(time="long ago"))
    ran = moved.ok("clean", "training.ckpt", "--older-than", "2100-01-01", "--remove", "--json")
    told = "the record of the checkpoint does not tell when it was made"
    assert reasons(ran) == {"training.ckpt.bak": "", "training.ckpt.bak1": "", "training.ckpt.bak2": told}


def test_without_hard_links_a_backup_is_a_copy_with_the_time_of_the_file(
    project: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    monkeypatch.setattr(os, "link", refuse)
    move(project, "head")
    project.ok("clean", checkpoint, "--keep", "0", "--remove")
    assert left(project) == []


# The checkpoint


def missing(checkpoint: Path) -> None:
    checkpoint.unlink()


def cut_off(checkpoint: Path) -> None:
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)


def text(checkpoint: Path) -> None:
    checkpoint.write_text("not a checkpoint")


def damaged_record(checkpoint: Path) -> None:
    edited(checkpoint, lambda record: record.update(heads=3))


def newer_record(checkpoint: Path) -> None:
    edited(checkpoint, lambda record: record.update(format=99))


@pytest.mark.parametrize("harm", [missing, cut_off, text, damaged_record, newer_record])
def test_the_backups_of_a_checkpoint_that_cannot_be_used_stay(moved: Folder, harm: Callable[[Path], None]) -> None:
    harm(moved.path / "training.ckpt")
    for words in ((), ("--remove",)):
        ran = moved.run("clean", "training.ckpt", "--keep", "0", *words)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("ckpt-migrate: error: training.ckpt: ")
        assert ran.err.endswith("; its backups stay, since one of them may be the only good copy\n")
    assert len(left(moved)) == 3
    with pytest.raises(BackupsStay):
        clean("training.ckpt", keep=0, remove=True)


def test_verify_finds_damage_that_opening_does_not(moved: Folder) -> None:
    checkpoint = moved.path / "training.ckpt"
    content = bytearray(checkpoint.read_bytes())
    key = next(each for each in torch.load(checkpoint, weights_only=True)["state_dict"].values() if each.numel())
    at = content.index(key.numpy().tobytes())
    content[at] ^= 1
    checkpoint.write_bytes(content)
    assert moved.run("clean", checkpoint, "--keep", "0", "--remove", "--verify").code == 1
    assert len(left(moved)) == 3


def test_one_bad_checkpoint_stops_no_other(moved: Folder) -> None:
    shutil.copytree(moved.path, moved.path / "second", copy_function=shutil.copy2)
    (moved.path / "training.ckpt").write_text("text")
    ran = moved.run("clean", "training.ckpt", "second/training.ckpt", "--keep", "0", "--remove")
    assert ran.code == 1
    assert (len(left(moved)), len(left(moved, "second/training.ckpt"))) == (3, 0)


def test_a_link_means_the_file_that_it_leads_to(moved: Folder) -> None:
    os.mkdir("elsewhere")
    os.symlink("../training.ckpt", "elsewhere/last.ckpt")
    (moved.path / "elsewhere" / "last.ckpt.bak").write_text("mine")
    moved.ok("clean", "elsewhere/last.ckpt", "--keep", "0", "--remove")
    assert left(moved) == []
    assert sorted(os.listdir("elsewhere")) == ["last.ckpt", "last.ckpt.bak"]


def test_one_that_another_run_writes_is_left_alone(moved: Folder) -> None:
    with locked(moved.path / "training.ckpt"):
        ran = moved.run("clean", "training.ckpt", "--keep", "0", "--remove")
        moved.ok("clean", "training.ckpt", "--keep", "0")
    assert ran.code == 1
    assert len(left(moved)) == 3


def test_an_object_in_a_store_is_refused(project: Folder) -> None:
    pytest.importorskip("fsspec")
    import fsspec

    fsspec.filesystem("memory").pipe("/bucket/x.ckpt", project.copy().read_bytes())
    ran = project.run("clean", "memory://bucket/x.ckpt", "--keep", "0", "--remove")
    assert ran.code == 3
    assert "backups in a store are not removed" in ran.err


# The bytes


def test_a_file_with_another_name_frees_nothing(moved: Folder) -> None:
    os.link("training.ckpt.bak", "mine.ckpt")
    ran = moved.ok("clean", "training.ckpt", "--keep", "0", "--remove", "--json").lines[0]
    sizes = [each["size"] for each in ran["backups"]]
    assert [each["frees"] for each in ran["backups"]] == [0, *sizes[1:]]
    assert ran["frees"] == sum(sizes[1:])
    assert os.stat("mine.ckpt").st_nlink == 1


def test_a_folder_that_cannot_be_changed(moved: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, **_: object) -> None:
        if ".bak" in os.fspath(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        remove(path)

    remove = os.unlink
    monkeypatch.setattr(os, "unlink", refuse)
    ran = moved.run("clean", "training.ckpt", "--keep", "0", "--remove")
    assert ran.code == 1
    assert "training.ckpt.bak could not be searched or removed (permission denied)" in ran.err


# Folders


@pytest.fixture
def folder(project: Folder) -> Path:
    """A folder of Hugging Face with three backups."""
    pytest.importorskip("safetensors")
    from tests.support import huggingface

    huggingface.rename(project)
    made = huggingface.made(project.path / "model")
    move(project, "head", "base", "head", name="model")
    assert left(project, "model") == ["model.bak", "model.bak1", "model.bak2"]
    return made


def test_a_folder_of_hugging_face(project: Folder, folder: Path) -> None:
    from tests.support import huggingface

    before = huggingface.content(folder)
    project.ok("clean", "model", "--keep", "1", "--remove")
    assert left(project, "model") == ["model.bak2"]
    assert huggingface.content(folder) == before
    project.ok("downgrade", "base", "model")


def test_files_that_the_folders_share_are_not_freed(project: Folder, folder: Path) -> None:
    """runs/events.log is one file in all of them."""
    ran = project.ok("clean", "model", "--keep", "0", "--json").lines[0]
    shared = (folder / "runs" / "events.log").stat()
    assert shared.st_nlink == 4
    assert [each["size"] - each["frees"] for each in ran["backups"]] == [shared.st_size] * 3


@pytest.mark.parametrize("change", ["write", "add", "remove", "link"])
def test_a_folder_that_you_changed_stays(project: Folder, folder: Path, change: str) -> None:
    backup = project.path / "model.bak"
    if change == "write":
        (backup / "config.json").write_text("{}")
    elif change == "add":
        (backup / "runs" / "notes.txt").write_text("mine")
    elif change == "remove":
        (backup / "README.md").unlink()
    else:
        (backup / "link").symlink_to("/etc")
    ran = project.ok("clean", "model", "--keep", "0", "--remove", "--json")
    assert reasons(ran) == {"model.bak": UNPROVEN, "model.bak1": "", "model.bak2": ""}
    assert left(project, "model") == ["model.bak"]


def test_links_in_a_folder_are_not_followed(project: Folder) -> None:
    pytest.importorskip("safetensors")
    from tests.support import huggingface

    huggingface.rename(project)
    made = huggingface.made(project.path / "model")
    outside = project.path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine")
    (made / "more").symlink_to(outside)
    project.ok("upgrade", "head", made)
    project.ok("clean", made, "--keep", "0", "--remove")
    assert left(project, "model") == []
    assert (outside / "precious.txt").read_text() == "mine"


def test_killed_at_any_removal(project: Folder, folder: Path) -> None:
    """Each run is killed a step later; the last one completes. No folder is ever half there under its name."""
    from tests.support import huggingface

    before, whole = huggingface.content(folder), huggingface.content(project.path / "model.bak")
    code = (
        "import os, signal, sys\nfrom anemoi_ckpt_migrate import cli\n"
        "calls = iter(range(int(sys.argv[1])))\n"
        "def dying(call):\n"
        "    def die(*args, **more):\n"
        "        if next(calls, None) is None: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return call(*args, **more)\n"
        "    return die\n"
        "os.unlink, os.rmdir = dying(os.unlink), dying(os.rmdir)\n"
        "sys.exit(cli.main(['clean', 'model', '--keep', '2', '--remove']))\n"
    )
    for step in (0, 1, 4):
        ran = subprocess.run([sys.executable, "-c", code, str(step)], cwd=project.path, capture_output=True)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        if (project.path / "model.bak").exists():
            assert huggingface.content(project.path / "model.bak") == whole
    assert "would be removed" in project.ok("clean", "model", "--keep", "2").out
    project.ok("clean", "model", "--keep", "2", "--remove")
    assert left(project, "model") == ["model.bak1", "model.bak2"]
    assert huggingface.content(folder) == before
    assert [name for name in os.listdir() if name.startswith(".")] == []


def test_a_hidden_folder_that_the_record_does_not_know_stays(project: Folder, folder: Path) -> None:
    own = project.path / ".model.0123abcd.tmp"
    own.mkdir()
    project.ok("clean", "model", "--keep", "0", "--remove")
    assert own.is_dir()


def test_the_metadata_of_a_distributed_checkpoint(project: Folder) -> None:
    from tests.support import distributed
    from tests.support.operations import declare

    made = distributed.save({"model": {"x.weight": torch.arange(4.0), "z": torch.ones(2)}}, project.path / "model")
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    for command, target in (("upgrade", "head"), ("downgrade", "base")):
        project.ok(command, target, made)
    assert left(project, "model/.metadata") == [".metadata.bak", ".metadata.bak1"]
    (made / ".metadata.bak2").write_text("mine")
    ran = project.ok("clean", made, "--keep", "1", "--remove", "--json")
    assert reasons(ran) == {".metadata.bak": "", ".metadata.bak1": "it is the newest", ".metadata.bak2": UNPROVEN}
    assert left(project, "model/.metadata") == [".metadata.bak1", ".metadata.bak2"]
    project.ok("upgrade", "head", made)


def test_a_safetensors_file(project: Folder) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    project.script("a1", None, 'ckpt["y.weight"] = ckpt.pop("x.weight")', 'ckpt["x.weight"] = ckpt.pop("y.weight")')
    save_file({"x.weight": torch.arange(4.0)}, "x.safetensors")
    move(project, "head", "base", name="x.safetensors")
    project.ok("clean", "x.safetensors", "--keep", "1", "--remove")
    assert left(project, "x.safetensors") == ["x.safetensors.bak1"]


def test_a_fleet_folder_has_its_names_read_once(project: Folder) -> None:
    """Backups that other calls make meanwhile are found by the next one."""
    from anemoi_ckpt_migrate.storage import folders_listed_once

    project.script("a1", None, **RENAME)
    for name in ("a.ckpt", "b.ckpt"):
        project.copy(to=name)
        upgrade(name, "head")
    with folders_listed_once():
        assert len(clean("a.ckpt", keep=0, remove=True).backups) == 1
        assert clean("a.ckpt", keep=0, remove=True).backups == ()
        assert len(clean("b.ckpt", keep=0, remove=True).backups) == 1
