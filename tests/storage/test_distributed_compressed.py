"""Distributed checkpoints that torch compressed with zstd: names move, and content is read where Python has zstd."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
zstandard = pytest.importorskip("zstandard")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed import compression  # noqa: E402
from tests.support.distributed import as_one_file, data_files, new_files, save  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

WEIGHTS = {"a.weight": torch.arange(60_000.0).reshape(300, 200), "b.weight": torch.ones(3)}


def made(folder: Path) -> Path:
    """Save a folder with torch's own extension."""
    extension = pytest.importorskip("torch.distributed.checkpoint._extension")
    writer = torch.distributed.checkpoint.FileSystemWriter(folder, _extensions=[extension.ZStandard()])
    return save({"model": WEIGHTS, "note": "x", "lr": 0.1, "pair": (1, torch.arange(3))}, folder, storage_writer=writer)


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python as it is without any of the libraries."""

    compression._opener.cache_clear()
    with monkeypatch.context() as patched:
        for name in ("compression.zstd", "zstandard", "pyzstd"):
            patched.setitem(sys.modules, name, None)
        assert compression._opener() is None
        yield
    compression._opener.cache_clear()


def test_content_is_read(project: Folder) -> None:
    """A cast and a new learning rate go to a new file; all else stays compressed, where it is."""
    folder = made(project.path / "run")
    before, files = as_one_file(folder), data_files(folder)
    assert cm.inspect(folder, verify=True).damaged == ()
    assert torch.equal(cm.load(folder)["model"]["a.weight"], WEIGHTS["a.weight"])
    declare(project, "a1", 'op.Cast("a.weight", "float64")', 'op.SetItem("lr", 0.2)')
    project.script("b2", "a1", 'ckpt["pair"] = (1, ckpt["pair"][1] * 2)', 'ckpt["pair"] = (1, ckpt["pair"][1] // 2)')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)
    assert torch.equal(after["model"]["a.weight"], WEIGHTS["a.weight"].double())
    assert (after["lr"], after["note"], after["pair"][1].tolist()) == (0.2, "x", [0, 2, 4])
    assert len(new_files(folder)) == 1
    project.ok("downgrade", "base", folder)
    again = as_one_file(folder)
    assert torch.equal(again["model"]["a.weight"], before["model"]["a.weight"])
    assert (again["lr"], again["pair"][1].tolist()) == (0.1, [0, 1, 2])
    assert data_files(folder) == files


def test_compared_with_a_file_that_is_not_compressed(project: Folder) -> None:
    folder = made(project.path / "run")
    torch.save(as_one_file(folder), project.path / "one.ckpt")
    same = project.ok("diff", folder, "one.ckpt").out
    assert "op." not in same, same
    weights = {**WEIGHTS, "b.weight": torch.zeros(3)}
    torch.save({**as_one_file(folder), "model": weights}, project.path / "other.ckpt")
    assert "b.weight" in project.ok("diff", folder, "other.ckpt").out


def test_names_move_without_a_library(project: Folder, without_zstd: None) -> None:
    folder = made(project.path / "run")
    files = data_files(folder)
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert torch.equal(as_one_file(folder)["model"]["c.weight"], WEIGHTS["a.weight"])
    declare(project, "b2", 'op.Cast("c.weight", "float64")', parents="a1")
    now = (folder / ".metadata").read_bytes()
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "`pip install zstandard`" in ran.err) == (3, True), ran.err
    assert (folder / ".metadata").read_bytes() == now
    assert data_files(folder) == files


def test_damaged_and_hostile_content(project: Folder) -> None:
    """One sentence each: a frame that is cut off or changed, and one that unpacks to far more than its tensor."""
    declare(project, "a1", 'op.Cast("a.weight", "float64")')

    def refused(change: Any) -> str:
        folder = made(project.path / f"run{len(list(project.path.glob('run*')))}")
        (index,) = [each for each in metadata(folder).storage_data if each.fqn == "model.a.weight"]
        place = metadata(folder).storage_data[index]
        file = folder / place.relative_path
        data = bytearray(file.read_bytes())
        data[place.offset : place.offset + place.length] = change(data[place.offset : place.offset + place.length])
        file.write_bytes(data)
        assert cm.inspect(folder, verify=True).damaged[0].tensors == ("model.a.weight",)
        ran = project.run("upgrade", "head", folder)
        assert (ran.code, "a.weight" in ran.err) == (1, True), ran.err
        return ran.err

    refused(lambda data: data[:100] + bytes(len(data) - 100))
    refused(lambda data: bytes(100) + data[100:])
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    assert "unpacks to more than" in refused(lambda data: (bomb + bytes(len(data)))[: len(data)])


def metadata(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())
