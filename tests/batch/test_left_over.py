"""A call goes on where an interrupted one stopped, and removes what that left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.batch.select import Selection
from anemoi_ckpt_migrate.storage import folder_exchange
from tests.support import huggingface as hf
from tests.support.fleets import model, statuses, written
from tests.support.operations import declare
from tests.support.project import Folder, leftovers


class Killed(BaseException):
    """Like SIGKILL."""


@pytest.fixture
def runs(project: Folder) -> Path:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    return project.path / "runs"


def run(folder: Path) -> dict[str, str]:
    return statuses(migrate_all(Selection((str(folder),), recursive=True), backup=False), folder)


def test_a_folder_that_has_no_name_is_found_and_gets_it_back(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run was killed between two renames, on a system that cannot exchange names."""
    folder, real, renames = hf.made(runs / "hf"), os.rename, []

    def rename(source: Path, target: Path) -> None:
        if renames:
            raise Killed
        renames.append(source)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(folder_exchange, "_renameat2", lambda: None)
        patched.setattr(folder_exchange, "_complete", lambda target: folder_exchange.Completed())
        patched.setattr(os, "rename", rename)
        with pytest.raises(Killed):
            cm.upgrade(folder, backup=False)
    assert not folder.exists()
    assert set(run(runs)) == {"hf"}
    assert set(hf.tensors_in(folder)) == {"y.weight", "z.weight"}
    assert os.listdir(runs) == ["hf"]
    assert run(runs) == {"hf": "same"}


def test_temporaries_of_a_killed_run_are_removed_even_if_there_is_nothing_to_do(runs: Path) -> None:
    checkpoint = model(runs / "z.ckpt")
    assert run(runs) == {"z.ckpt": "moved"}
    written(runs / ".z.ckpt.0123abcd.tmp", checkpoint.read_bytes()[:100])
    written(runs / ".z.ckpt.lock")
    assert run(runs) == {"z.ckpt": "same"}
    assert os.listdir(runs) == ["z.ckpt"]
    assert not leftovers(runs)


def test_a_snapshot_of_the_hub_is_migrated_by_its_names(project: Folder) -> None:
    """The links stay links."""
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    top = project.path / "runs" / "models--org--net"
    model(top / "blobs" / "0123abcd")
    (top / "snapshots" / "aaa").mkdir(parents=True)
    link = top / "snapshots" / "aaa" / "pytorch_model.bin"
    link.symlink_to("../../blobs/0123abcd")
    assert run(top) == {"snapshots/aaa/pytorch_model.bin": "moved"}
    assert link.is_symlink()
    assert run(top) == {"snapshots/aaa/pytorch_model.bin": "same"}
    assert os.listdir(top / "blobs") == ["0123abcd"]
