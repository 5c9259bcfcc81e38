"""A fault and a kill at every system call of a write: the metadata are the old ones or the new ones, and both load."""

from __future__ import annotations

import collections
import pickle
import shutil
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support import faults  # noqa: E402
from tests.support.distributed import as_one_file, data_files, save  # noqa: E402
from tests.support.forks import Forks  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

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


@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO", faults.KILL])
def test_a_fault_at_every_call(project: Folder, forks_with_torch: Forks, fault: str) -> None:
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")', 'op.Pad("b.weight", 2)')
    sound = save(TREE, project.path / "sound")
    forks_with_torch.rehearse(project.path, "upgrade", "head", shutil.copytree(sound, project.path / "first"))
    runs = project.path / "runs"
    runs.mkdir()
    folder, old = Path(shutil.copytree(sound, runs / "ckpt")), names(sound)
    calls = faults.sound(forks_with_torch, runs, "upgrade", "head", folder)
    new = names(folder)
    assert {"flock", "pwrite64", "fsync", "link", "rename"} <= {call.name for call in calls}
    outcomes = collections.Counter[str]()
    for call in faults.struck(calls, fault):
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        files = data_files(folder)
        ran = faults.strike(forks_with_torch, call, fault, runs, "upgrade", "head", folder)
        assert (ran.code == -signal.SIGKILL) == (fault == faults.KILL), call
        found = names(folder)
        assert found in (old, new), call
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
        assert hidden == [], call
    assert outcomes["new"] > 0, outcomes
    assert outcomes["old"] > 0, outcomes
