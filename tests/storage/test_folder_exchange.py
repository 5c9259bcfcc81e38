"""A folder is exchanged whole or not at all, whatever happens meanwhile.

out       old files          new files
.out.tmp  new files     ->   old files    ->   out.bak
"""

from __future__ import annotations

import collections
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip("safetensors.torch")

from anemoi_ckpt_migrate.errors import CannotWrite, ForeignJournal
from anemoi_ckpt_migrate.storage import folder_exchange, in_place
from anemoi_ckpt_migrate.storage.folder_exchange import FolderState, new_folder
from tests.support import faults
from tests.support import huggingface as hf
from tests.support.forks import Forks
from tests.support.project import Folder, leftovers


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(b"old")
    (folder / "inner" / "b").write_bytes(b"inner")
    return folder


def exchanged(folder: Path, backup: bool = True, text: bytes = b"new") -> Path | None:
    """Exchange a folder with one that has another file ``a``; return the backup."""
    with new_folder(folder, FolderState.of(folder)) as new:
        with new.create("a") as descriptor:
            os.write(descriptor, text)
        new.take_rest(folder, {"a"}, shared=not backup)
        return new.publish(backup)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the exchange of the system, and where there is none."""
    if request.param == "two renames":
        monkeypatch.setattr(folder_exchange, "_renameat2", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_the_old_folder_becomes_the_backup(old: Path) -> None:
    before, opened = hf.content(old), os.open(old, os.O_RDONLY)
    assert exchanged(old) == old.with_name("out.bak")
    assert hf.content(old) == {"a": b"new", "inner/b": b"inner"}
    assert hf.content(old.with_name("out.bak")) == before
    assert os.listdir(opened) == os.listdir(old.with_name("out.bak"))  # who holds the old folder open still sees it
    os.close(opened)
    assert exchanged(old, text=b"newer") == old.with_name("out.bak1")
    assert not leftovers(old.parent)
    assert not in_place.journal_of(old).exists()


@pytest.mark.usefixtures("way")
def test_no_backup(old: Path) -> None:
    assert exchanged(old, backup=False) is None
    assert hf.content(old) == {"a": b"new", "inner/b": b"inner"}
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.usefixtures("way")
def test_what_exists_already_stays(old: Path) -> None:
    """A backup of that name, even an empty folder or a file; and a folder at the place of a new one."""
    old.with_name("out.bak").mkdir()
    old.with_name("out.bak1").write_bytes(b"mine")
    assert exchanged(old) == old.with_name("out.bak2")
    with pytest.raises(CannotWrite, match="exists already"), new_folder(old, None) as new:
        new.publish(True)
    assert hf.content(old)["a"] == b"new"


def test_permissions_are_kept(old: Path) -> None:
    old.chmod(0o750)
    (old / "inner" / "b").chmod(0o640)
    exchanged(old)
    assert (old.stat().st_mode & 0o777, (old / "inner" / "b").stat().st_mode & 0o777) == (0o750, 0o640)


def test_a_backup_shares_no_file_with_the_new_folder(old: Path) -> None:
    """Who truncates a file of the one would truncate it in the other."""
    (old / "c").write_bytes(b"same")
    kept = exchanged(old)
    assert kept is not None
    os.truncate(old / "c", 0)
    assert (kept / "c").read_bytes() == b"same"


@pytest.mark.parametrize("change", ["a file", "another file", "one file less", "another folder"])
def test_a_folder_that_changes_meanwhile(old: Path, change: str) -> None:
    before = FolderState.of(old)
    with pytest.raises(CannotWrite, match="changed the folder in the meantime"), new_folder(old, before) as new:
        if change == "a file":
            (old / "a").write_bytes(b"other")
        elif change == "another file":
            (old / "z").write_bytes(b"")
        elif change == "one file less":
            (old / "a").unlink()
        else:
            old.rename(old.with_name("moved"))
            old.mkdir()
        now = hf.content(old)
        new.publish(True)
    assert hf.content(old) == now
    assert not leftovers(old.parent)


def test_a_fault_while_the_folder_is_built(old: Path) -> None:
    before = hf.content(old)
    with pytest.raises(CannotWrite, match="no space left"), new_folder(old, FolderState.of(old)) as new:
        new.take(old / "a", "a", shared=False)
        raise OSError(errno.ENOSPC, "full")
    assert hf.content(old) == before
    assert os.listdir(old.parent) == ["out"]


def test_a_pipe_in_the_folder_is_refused(old: Path) -> None:
    os.mkfifo(old / "pipe")
    with pytest.raises(Exception, match="pipe in it is neither a file nor a folder"):
        exchanged(old)
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize(
    "name", ["precious", "../precious", "", ".", ".out.tmp", ".out.12345678.tmp/../precious", ".in.12345678.tmp"]
)
def test_a_journal_that_names_another_folder(old: Path, name: str) -> None:
    """A folder from git or tar may bring a journal: it removes nothing else."""
    (old.parent / "precious").mkdir()
    journal = {"format": 1, "folder": {"name": name, "inode": 1, "backup": False}}
    in_place.journal_of(old).write_text(json.dumps(journal))
    assert not folder_exchange.has_journal(old)
    with pytest.raises(ForeignJournal):
        exchanged(old)
    assert (old.parent / "precious").is_dir()


def test_a_journal_that_is_a_link(old: Path) -> None:
    (old.parent / "mine").write_text("mine")
    in_place.journal_of(old).symlink_to("mine")
    with pytest.raises(ForeignJournal):
        exchanged(old)
    assert (old.parent / "mine").read_text() == "mine"


# Interrupted


@pytest.mark.parametrize(
    ("fault", "backup"),
    [(faults.KILL, True), (faults.KILL, False), ("error=EIO", True), ("error=ENOSPC", False)],
)
def test_a_fault_at_every_call(project: Folder, forks: Forks, fault: str, backup: bool) -> None:
    """The folder is the old one or the new one, and `recover` or the next run puts away the rest."""
    hf.rename(project)
    flags = [] if backup else ["--no-backup"]
    forks.rehearse(project.path, "upgrade", "head", hf.made(project.path / "first"), *flags)
    model = hf.made(project.path / "runs" / "model")
    old = hf.content(model)
    calls = faults.sound(forks, model.parent, "upgrade", "head", model, *flags)
    new = sorted(hf.tensors_in(model))
    outcomes = collections.Counter[str]()
    for call in faults.struck(calls, fault):
        shutil.rmtree(model.parent)
        hf.made(model)
        ran = faults.strike(forks, call, fault, model.parent, "upgrade", "head", model, *flags)
        assert ran.code == -signal.SIGKILL if fault == faults.KILL else ran.code in (0, 1)
        found = sorted(hf.tensors_in(model))
        assert found == new or hf.content(model) == old, call
        if "nothing was changed" in ran.err:
            assert (hf.content(model), ran.code) == (old, 1), call
        if folder_exchange.has_journal(model):
            project.ok("recover", model)
            assert sorted(hf.tensors_in(model)) == found
        project.ok("upgrade", "head", model, *flags)
        assert sorted(hf.tensors_in(model)) == new
        kept = sorted(model.parent.glob("model.bak*"))
        assert all(hf.content(each) == old for each in kept)
        assert flags or kept, call
        project.ok("downgrade", "base", model, "--no-backup")
        assert [each.name for each in model.parent.glob(".*")] == [], call
        assert not in_place.journal_of(model).exists()
        outcomes["new" if found == new else "old"] += 1
    assert outcomes["old"] > 5, outcomes
    assert outcomes["new"] > 1, outcomes


@pytest.mark.parametrize("moment", ["before the first rename", "between the renames", "after both"])
def test_killed_where_the_system_cannot_exchange(old: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Two renames in place of the exchange: between them there is no folder, and `recover` gives it back."""
    before, renames = hf.content(old), []
    monkeypatch.setattr(folder_exchange, "_renameat2", lambda: None)
    stop = {"before the first rename": 0, "between the renames": 1, "after both": 2}[moment]
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if len(renames) == stop:
            raise Killed
        renames.append((source, target))
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        patched.setattr(folder_exchange, "_complete", lambda target: folder_exchange.Completed())
        with pytest.raises(Killed):
            exchanged(old)
    assert old.exists() == (moment != "between the renames")
    done = folder_exchange.recover(old)
    assert done.exchanged == (moment != "before the first rename")
    assert hf.content(old) == (before if not done.exchanged else {"a": b"new", "inner/b": b"inner"})
    if done.exchanged:
        assert hf.content(old.with_name("out.bak")) == before
    assert not in_place.journal_of(old).exists()


class Killed(BaseException):
    """The process ends here."""
