"""A fault at every system call that a write makes: the file is the old one or the new one, and the next run finishes."""

from __future__ import annotations

import collections
import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.storage import in_place
from tests.support import faults
from tests.support.forks import Forks
from tests.support.project import RENAME, Folder, names

EXPECTED = {
    "atomic": {"flock", "pwrite64", "copy_file_range", "fsync", "link", "unlink"},
    "in place": {"flock", "pwrite64", "fsync", "link", "unlink"},
}


def words(checkpoint: Path, way: str) -> list[object]:
    return ["upgrade", "head", checkpoint, *(["--in-place"] if way == "in place" else [])]


@pytest.mark.parametrize("way", ["atomic", "in place"])
@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EDQUOT", "error=EIO", "error=EINTR", faults.KILL])
def test_a_fault_at_every_call(project: Folder, forks: Forks, fault: str, way: str) -> None:
    project.script("a1", None, **RENAME)
    project.ok(*words(project.copy(to="first.ckpt"), way))  # which may keep the compiled script, as no later run does
    checkpoint = project.copy()
    old = names(checkpoint)
    calls = faults.sound(forks, checkpoint.parent, *words(checkpoint, way))
    new = names(checkpoint)
    assert EXPECTED[way] <= {call.name for call in calls}
    assert len(calls) > 12
    outcomes = collections.Counter[str]()
    for call in faults.struck(calls, fault):
        shutil.rmtree(project.path / "runs", ignore_errors=True)
        (project.path / "runs").mkdir()
        victim = project.copy(to="runs/victim.ckpt")
        ran = faults.strike(forks, call, fault, victim.parent, *words(victim, way))
        if fault == faults.KILL:
            assert ran.code == -signal.SIGKILL
        if in_place.journal_of(victim).exists():
            project.ok("recover", victim)
        found = names(victim)
        assert found in (old, new), call
        assert zipfile.ZipFile(victim).testzip() is None
        if "nothing was changed" in ran.err:
            assert (found, ran.code) == (old, 1)
        for backup in victim.parent.glob("*.bak*"):
            assert names(backup) == old
        outcomes["new" if found == new else "old"] += 1
        project.ok("upgrade", "head", victim, *(["--in-place"] if way == "in place" else []))
        assert names(victim) == new
        project.ok("downgrade", "base", victim)  # which writes, in any case
        assert sorted(names(victim)) == sorted(old)
        assert [path.name for path in victim.parent.glob(".*")] == [], call
        assert not in_place.journal_of(victim).exists()
    assert outcomes["new"] > 0, outcomes
    if fault != "error=EINTR":
        assert outcomes["old"] > 0, outcomes
