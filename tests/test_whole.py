"""Whole or not at all, one at a time, and tidy after a crash."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anemoi_ckpt_migrate as cm
from tests.conftest import RENAME, Folder, digest, names


def test_a_second_writer_is_refused(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    before = digest(checkpoint)
    lock = checkpoint.with_name(f".{checkpoint.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = project.run("upgrade", "head", checkpoint)
        assert ran.code == 1
        assert "another ckpt-migrate is writing this file" in ran.err
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


def test_names_that_look_like_patterns(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    for name in ("epoch=3-[best]*?.ckpt", "with space.ckpt", "Größe.ckpt", "-dash.ckpt", "new\nline.ckpt"):
        checkpoint = project.copy(to=name)
        project.ok("upgrade", "head", checkpoint)
        assert "y.weight" in names(checkpoint)


def test_killed_at_any_moment(project: Folder) -> None:
    """Killed after a delay that grows from run to run, until one run gets through."""
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    old = digest(checkpoint)
    new = None
    for tenths in range(200):
        command = [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "head", str(checkpoint), "--no-backup"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=project.path)
        time.sleep(0.05 + tenths / 100)
        process.kill()
        if process.wait() == 0:
            new = digest(checkpoint)
            break
        if digest(checkpoint) != old:  # killed just after the rename
            break
    assert "y.weight" in names(checkpoint)
    assert new != old
    assert os.path.exists(Path(checkpoint))
