"""A fault and a kill at every system call of a write: the metadata are the old ones or the new ones, and both load."""

from __future__ import annotations

import collections
import pickle
import re
import shutil
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.distributed import as_one_file, data_files, save  # noqa: E402
from tests.support.forks import Forks, Traced  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

CALLS = (
    "openat,flock,fchmod,fchown,fsetxattr,pwrite64,copy_file_range,sendfile,ioctl,ftruncate,"
    "fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat"
)
TREE = {"model": {"a.weight": torch.ones(4, 2), "b.weight": torch.ones(3)}, "names": ["a", "b"]}


def names(folder: Path) -> list[str]:
    """Return the names in the metadata; all that they name can be read by torch."""
    found = pickle.loads((folder / ".metadata").read_bytes())
    for place in found.storage_data.values():
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            assert file.read(4) == b"PK\3\4"
            assert place.offset + place.length <= file.seek(0, 2)
    return sorted(found.state_dict_metadata)


def traced(forks: Forks, folder: Path, *options: str) -> Traced:
    return forks.traced(CALLS, options, folder.parent, "upgrade", "head", folder)


def moments(trace: Path) -> list[tuple[str, int]]:
    """Return each call of a write as strace counts it: from the opening of the lock to its removal."""
    counts: collections.Counter[str] = collections.Counter()
    found, begun = [], False
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            counts[match[1]] += 1
            begun |= ".lock" in line
            if begun and not (match[1] == "openat" and ".py" in line):
                found.append((match[1], counts[match[1]]))
    return found


@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO", "signal=KILL"])
def test_a_fault_at_every_call(project: Folder, fault: str) -> None:
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")', 'op.Pad("b.weight", 2)')
    sound = save(TREE, project.path / "sound")
    first = Path(shutil.copytree(sound, project.path / "first"))
    with Forks(["upgrade", "head", first], folder=project.path) as forks:
        every_call(project, forks, sound, fault)


def every_call(project: Folder, forks: Forks, sound: Path, fault: str) -> None:
    runs = project.path / "runs"
    runs.mkdir()
    folder, old = Path(shutil.copytree(sound, runs / "ckpt")), names(sound)
    try:
        whole = traced(forks, folder)
    except FileNotFoundError:
        pytest.skip("there is no strace here")
    if "ptrace" in whole.strace:
        pytest.skip("strace may not trace here")
    assert whole.code == 0, whole.err
    new, calls = names(folder), moments(runs / "trace")
    assert {"flock", "pwrite64", "fsync", "link", "rename"} <= {call for call, _ in calls}
    outcomes = collections.Counter[str]()
    for call, number in calls:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        files = data_files(folder)
        ran = traced(forks, folder, "-e", f"inject={call}:{fault}:when={number}")
        assert (ran.code == -signal.SIGKILL) == (fault == "signal=KILL"), (call, number)
        found = names(folder)
        assert found in (old, new), (call, number)
        assert "Traceback" not in ran.err, ran.err
        if "nothing was changed" in ran.err:
            assert (found, ran.code) == (old, 1)
        for backup in folder.glob(".metadata.bak*"):
            assert backup.read_bytes() == (sound / ".metadata").read_bytes()
        assert data_files(folder) == files
        outcomes["new" if found == new else "old"] += 1
        project.ok("upgrade", "head", folder)
        assert torch.equal(as_one_file(folder)["model"]["b.weight"], torch.tensor([1.0, 1, 1, 0, 0]))
        project.ok("downgrade", "base", folder)  # which writes, in any case
        hidden = [path.name for path in folder.glob(".*") if not path.name.startswith(".metadata")]
        assert hidden == [], (call, number)
    assert outcomes["new"] > 0, outcomes
    assert outcomes["old"] > 0, outcomes
