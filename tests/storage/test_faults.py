"""A fault at every system call that a write makes: the file is the old one or the new one, and the next run finishes.

The faults are injected by strace, into a process that does nothing else.
"""

from __future__ import annotations

import collections
import re
import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.storage import in_place
from tests.support.forks import Forks, Traced
from tests.support.project import RENAME, Folder, names

CALLS = (
    "openat,flock,fchmod,fchown,fsetxattr,pwrite64,copy_file_range,sendfile,ioctl,sync_file_range,ftruncate,"
    "fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat"
)
EXPECTED = {
    "atomic": {"flock", "pwrite64", "copy_file_range", "fsync", "link", "unlink"},
    "in place": {"flock", "pwrite64", "fsync", "link", "unlink"},
}


def words(checkpoint: Path, way: str) -> list[object]:
    return ["upgrade", "head", checkpoint, *(["--in-place"] if way == "in place" else [])]


def traced(forks: Forks, checkpoint: Path, way: str, *options: str) -> Traced:
    return forks.traced(CALLS, options, checkpoint.parent, *words(checkpoint, way))


def moments(checkpoint: Path) -> list[tuple[str, int]]:
    """Return each call of a write as strace counts it: from the opening of the lock to its removal."""
    counts: collections.Counter[str] = collections.Counter()
    found, begun = [], False
    for line in checkpoint.with_name("trace").read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            counts[match[1]] += 1
            begun |= ".lock" in line
            if begun and not (match[1] == "openat" and ".py" in line):
                found.append((match[1], counts[match[1]]))
    return found


@pytest.mark.parametrize("way", ["atomic", "in place"])
@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EDQUOT", "error=EIO", "error=EINTR", "signal=KILL"])
def test_a_fault_at_every_call(project: Folder, forks: Forks, fault: str, way: str) -> None:
    project.script("a1", None, **RENAME)
    project.ok(*words(project.copy(to="first.ckpt"), way))  # which may keep the compiled script, as no later run does
    checkpoint = project.copy()
    old = names(checkpoint)
    try:
        sound = traced(forks, checkpoint, way)
    except FileNotFoundError:
        pytest.skip("there is no strace here")
    if "ptrace" in sound.strace:
        pytest.skip("strace may not trace here")
    assert sound.code == 0, sound.err
    new = names(checkpoint)
    calls = moments(checkpoint)
    assert EXPECTED[way] <= {call for call, _ in calls}
    assert len(calls) > 15
    outcomes = collections.Counter[str]()
    for call, number in calls:
        shutil.rmtree(project.path / "runs", ignore_errors=True)
        (project.path / "runs").mkdir()
        victim = project.copy(to="runs/victim.ckpt")
        ran = traced(forks, victim, way, "-e", f"inject={call}:{fault}:when={number}")
        if fault == "signal=KILL":
            assert ran.code == -signal.SIGKILL
        else:
            assert "(INJECTED)" in victim.with_name("trace").read_text()
        if in_place.journal_of(victim).exists():
            project.ok("recover", victim)
        found = names(victim)
        assert found in (old, new), (call, number)
        assert zipfile.ZipFile(victim).testzip() is None
        assert "Traceback" not in ran.err, ran.err
        if "nothing was changed" in ran.err:
            assert (found, ran.code) == (old, 1)
        for backup in victim.parent.glob("*.bak*"):
            assert names(backup) == old
        outcomes["new" if found == new else "old"] += 1
        project.ok("upgrade", "head", victim, *(["--in-place"] if way == "in place" else []))
        assert names(victim) == new
        project.ok("downgrade", "base", victim)  # which writes, in any case
        assert sorted(names(victim)) == sorted(old)
        assert [path.name for path in victim.parent.glob(".*")] == [], (call, number)
        assert not in_place.journal_of(victim).exists()
    assert outcomes["new"] > 0, outcomes
    if fault != "error=EINTR":
        assert outcomes["old"] > 0, outcomes
