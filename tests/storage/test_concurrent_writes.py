"""Whole or not at all, one at a time, and tidy after a crash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.storage import folders_listed_once
from anemoi_ckpt_migrate.storage import lock as locking
from tests.support.forks import Forks
from tests.support.project import RENAME, Folder, digest, names


def test_a_second_writer_is_refused(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    before = digest(checkpoint)
    lock = checkpoint.with_name(f".{checkpoint.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = project.run("upgrade", "head", checkpoint)
        assert ran.code == 1
        assert (
            "another ckpt-migrate is writing this file; wait until it has ended, and run the command again" in ran.err
        )
        assert digest(checkpoint) == before
        project.ok("upgrade", "head", checkpoint, "--dry-run")
        project.ok("current", checkpoint)
        project.ok("upgrade", "head", checkpoint, "-o", project.path / "elsewhere.ckpt")
    project.ok("upgrade", "head", checkpoint)  # the file of a lock that nobody holds is no lock
    assert not lock.exists()


def test_no_update_is_lost(project: Folder) -> None:
    """Eight threads append to the same checkpoint; every one that reports success is in the log."""
    project.script("a1", None)
    project.script("a2", "a1")
    checkpoint = project.copy()
    opened = cm.open_project()
    done: list[str] = []

    def work() -> None:
        for target in ("a1", "a2", "base", "a2") * 3:
            try:
                if cm.stamp(checkpoint, target, project=opened, backup=False).written:
                    done.append(target)
            except cm.MigrateError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    assert sorted(entry.target for entry in cm.current(checkpoint).log) == sorted(done)
    assert [path.name for path in project.path.glob(".*")] == []


def test_the_next_run_cleans_up_after_a_kill(project: Folder) -> None:
    """A run is killed in the middle of writing; the file is the old one, and the next run leaves no trace of it."""
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    before = digest(checkpoint)
    code = (
        "import os, signal; from anemoi_ckpt_migrate import cli\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cli.main(['upgrade', 'head', {str(checkpoint)!r}])"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert digest(checkpoint) == before
    assert len(list(project.path.glob(".training.ckpt.*"))) == 2  # the lock, and half a file
    (project.path / ".training.ckpt.precious.tmp2").touch()
    project.ok("upgrade", "head", checkpoint)
    assert "y.weight" in names(checkpoint)
    assert [path.name for path in project.path.glob(".*")] == [".training.ckpt.precious.tmp2"]


def test_a_run_over_many_files_cleans_up_after_a_kill(project: Folder) -> None:
    """The names in a folder are read once for many files, but again for one whose lock a killed run left."""
    project.script("a1", None, **RENAME)
    first, second, third = (project.copy(to=f"{number}.ckpt") for number in range(3))
    left = [path.with_name(f".{path.name}.0123abcd.tmp") for path in (second, third)]
    left[0].write_bytes(b"PK\3\4half a file")
    with folders_listed_once():
        cm.upgrade(first)
        left[1].write_bytes(b"PK\3\4half a file")
        third.with_name(".2.ckpt.lock").write_bytes(b"process 1 on node7")
        for path in (second, third):
            cm.upgrade(path)
    assert [path.name for path in project.path.glob(".*")] == []


def test_names_that_look_like_patterns(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    for name in ("epoch=3-[best]*?.ckpt", "with space.ckpt", "Größe.ckpt", "-dash.ckpt", "new\nline.ckpt"):
        checkpoint = project.copy(to=name)
        project.ok("upgrade", "head", checkpoint)
        assert "y.weight" in names(checkpoint)


def test_killed_at_any_moment(project: Folder, forks: Forks) -> None:
    """Killed after a delay that grows from run to run, until one run gets through: the file is the old or the new one."""
    project.script("a1", None, **RENAME)
    first, checkpoint = project.copy(to="first.ckpt"), project.copy()
    old = names(first)
    project.ok("upgrade", "head", first)
    for delay in itertools.count():
        process = forks.start(project.path, "upgrade", "head", checkpoint, "--no-backup")
        time.sleep(delay / 4000)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        code = forks.wait().code
        assert code in (0, -signal.SIGKILL)
        assert names(checkpoint) in (old, names(first))
        if code == 0:
            break
    assert names(checkpoint) == names(first) != old
    project.ok("downgrade", "base", checkpoint)
    assert [path.name for path in project.path.glob(".*")] == []


def test_extended_attributes_are_kept(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    try:
        os.setxattr(checkpoint, "user.origin", b"experiment 7")
    except OSError:
        pytest.skip("the file system has no extended attributes")
    project.ok("upgrade", "head", checkpoint)
    project.ok("downgrade", "base", checkpoint, "-o", "elsewhere.ckpt")
    for path in (checkpoint, project.path / "elsewhere.ckpt"):
        assert os.getxattr(path, "user.origin") == b"experiment 7"


def test_access_control_lists_are_kept(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    if shutil.which("setfacl") is None or subprocess.run(["setfacl", "-m", "u:1234:rw", checkpoint]).returncode:
        pytest.skip("there are no access control lists here")
    project.ok("upgrade", "head", checkpoint)
    assert "user:1234:rw-" in subprocess.check_output(["getfacl", "-p", "-n", checkpoint], text=True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_file_is_one(project: Folder, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A network file system without locks: who makes a file that was not there has it."""

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    held = checkpoint.with_name(f".{checkpoint.name}.lock.held")
    held.touch()
    ran = project.run("upgrade", "head", checkpoint)
    assert (ran.code, f"remove {held.name}" in ran.err) == (1, True), ran.err
    held.unlink()
    project.ok("upgrade", "head", checkpoint)
    assert [path.name for path in project.path.glob(".*")] == []


def test_a_second_writer_is_told_who_is_first(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    with locking.locked(checkpoint):
        ran = project.run("upgrade", "head", checkpoint)
    assert (ran.code, f"another ckpt-migrate (process {os.getpid()} on " in ran.err) == (1, True)


def test_a_file_that_is_cut_while_it_is_mapped(project: Folder) -> None:
    """The system ends the process (SIGBUS); nothing was written, and the next run finds the file as it is."""
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(100_000)}, "last.ckpt")
    (project.path / "versions" / "a1_change.py").write_text(
        'revision = "a1"\ndown_revision = None\n\n\ndef migrate(ckpt):\n    total = ckpt["w"][:5].sum()\n'
        '    import os\n    os.truncate("last.ckpt", 1)\n    ckpt["w"].mul_(float(total))\n    return ckpt\n'
    )
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "head", "last.ckpt"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == -signal.SIGBUS
    assert sorted(path.name for path in project.path.iterdir()) == ["ckpt-migrate.toml", "last.ckpt", "versions"]
    assert (project.path / "last.ckpt").stat().st_size == 1


def test_a_file_that_is_replaced_while_it_is_read(project: Folder) -> None:
    """Somebody saves a new checkpoint under the name while the migration runs: theirs stays, ours is refused."""
    theirs = project.copy("lightning.ckpt", to="theirs.ckpt")
    wanted = digest(theirs)
    project.script(
        "a1", None, 'import os; os.path.exists("theirs.ckpt") and os.replace("theirs.ckpt", "training.ckpt")'
    )
    for words in ((), ("--in-place",)):
        checkpoint = project.copy()
        project.copy("lightning.ckpt", to="theirs.ckpt")
        ran = project.run("upgrade", "head", checkpoint, *words)
        assert (ran.code, "another program changed the file" in ran.err) == (1, True)
        assert digest(checkpoint) == wanted
