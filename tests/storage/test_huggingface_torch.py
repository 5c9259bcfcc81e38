"""Folders of Hugging Face with shards of `torch.save`: migrated as a whole, taken back and refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, leftovers  # noqa: E402

INDEX = "pytorch_model.bin.index.json"
NAMES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.fixture
def model(project: Folder) -> Path:
    """q and k in the first shard, v and a norm in the second."""
    torch.manual_seed(0)
    whole = {f"{part}.weight": torch.randn(4, 4) for part in "qkv"} | {"norm.weight": torch.randn(4)}
    folder = project.path / "model"
    folder.mkdir()
    files = dict(zip(whole, (NAMES[0], NAMES[0], NAMES[1], NAMES[1]), strict=True))
    for shard in NAMES:
        torch.save({name: value for name, value in whole.items() if files[name] == shard}, folder / shard)
    total = sum(value.nbytes for value in whole.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total, "more": 1}, "weight_map": files}))
    (folder / "config.json").write_text("{}")
    return folder


def tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder, as the index says, and no others."""
    data = json.loads((folder / INDEX).read_bytes())
    found = {}
    for shard in sorted(folder.glob("*.bin")):
        for name, value in torch.load(shard, weights_only=True).items():
            assert data["weight_map"].pop(name) == shard.name
            found[name] = value
    assert data["weight_map"] == {}
    assert data["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    assert data["metadata"]["more"] == 1
    return found


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    alike = one.keys() == other.keys() and all(value.dtype == other[name].dtype for name, value in one.items())
    return alike and all(torch.equal(value, other[name]) for name, value in one.items())


def state(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


OPERATIONS = {
    "rename": 'op.Rename("q.weight", "query.weight")',
    "fuse across shards": 'op.Fuse(["q.weight", "k.weight", "v.weight"], "qkv.weight", dim=0)',
    "fuse along rows": 'op.Fuse(["q.weight", "v.weight"], "qv.weight", dim=1)',
    "split": 'op.Split("q.weight", ["q1.weight", "q2.weight"], dim=0)',
    "transpose": 'op.Transpose("v.weight", 0, 1)',
    "cast": 'op.Cast("q.weight", "float64")',
    "add": 'op.Add("new.weight", shape=[3], dtype="float32")',
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_and_back(project: Folder, model: Path, kind: str) -> None:
    before, old = tensors(model), state(model)
    declare(project, "a1", OPERATIONS[kind])
    project.ok("upgrade", "head", "model", "--check-rollback")
    now = tensors(model)
    assert not equal(now, before)
    if kind == "fuse across shards":
        assert torch.equal(now["qkv.weight"], torch.cat([before[f"{part}.weight"] for part in "qkv"]))
    assert state(project.path / "model.bak") == old
    assert project.ok("current", "model").out.split()[1:2] == ["a1"]
    project.ok("downgrade", "base", "model")
    assert equal(tensors(model), before)
    assert not leftovers(project.path)


def test_a_function_gets_real_tensors(project: Folder, model: Path) -> None:
    before = tensors(model)
    project.script(
        "a1",
        None,
        'ckpt["q.weight"].mul_(2); ckpt["new"] = ckpt["v.weight"] + 1',
        "ckpt.pop('new'); ckpt['q.weight'].div_(2)",
    )
    project.ok("upgrade", "head", "model")
    now = tensors(model)
    assert torch.equal(now["q.weight"], before["q.weight"] * 2)
    assert torch.equal(now["new"], before["v.weight"] + 1)
    assert torch.equal(now["k.weight"], before["k.weight"])
    project.ok("downgrade", "base", "model")
    assert equal(tensors(model), before)


FLIP = """

def flip(ckpt):
    ckpt["q.weight"].copy_(ckpt["q.weight"].flip(0))
    return ckpt
"""


def test_a_function_does_not_change_a_kept_view_of_its_tensor(project: Folder, model: Path) -> None:
    """Both share one storage in the file; the record is text, and shares nothing with the tree."""
    whole = torch.load(model / NAMES[0])
    whole["k.weight"] = whole["q.weight"].t()
    torch.save(whole, model / NAMES[0])
    before = tensors(model)
    declare(project, "a1", 'op.Drop("k.weight", keep=True)', "op.Run(flip, flip)", top=FLIP)
    project.ok("upgrade", "head", "model", "--check-rollback")
    project.ok("downgrade", "base", "model")
    assert equal(tensors(model), before)


def test_only_shards_that_change_are_written(project: Folder, model: Path) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    inode = (model / NAMES[1]).stat().st_ino
    project.ok("upgrade", "head", "model", "--no-backup")
    assert (model / NAMES[1]).stat().st_ino == inode


def test_reading_commands(project: Folder, model: Path) -> None:
    old = state(model)
    declare(project, "a1", OPERATIONS["rename"])
    assert "Hugging Face, files of torch, 2 files" in project.ok("inspect", "--verify", "model").out
    torch.save(tensors(model), "whole.pt")
    assert project.run("diff", "model", "whole.pt").code == 0
    assert torch.equal(cm.load("model")["query.weight"], tensors(model)["q.weight"])
    assert state(model) == old


def refused(project: Folder, code: int, says: str, *words: object) -> None:
    old = state(project.path)
    ran = project.run(*(words or ("upgrade", "head", "model")))
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert says in ran.err
    assert state(project.path) == old


def test_damaged_content_is_not_hidden(project: Folder, model: Path) -> None:
    """A computed tensor is refused; a copied one keeps the checksum that tells."""
    path = model / NAMES[0]
    content, value = bytearray(path.read_bytes()), tensors(model)["q.weight"].numpy().tobytes()
    content[content.index(value)] ^= 1
    path.write_bytes(content)
    declare(project, "a1", OPERATIONS["cast"])
    refused(project, 1, "data/0/0 is damaged (wrong checksum)")
    refused(project, 1, "damaged (wrong checksum)", "inspect", "--verify", "model")
    declare(project, "a1", OPERATIONS["rename"])
    project.ok("upgrade", "head", "model")
    assert project.run("inspect", "--verify", "model").code == 1


def test_a_shard_with_something_else(project: Folder, model: Path) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    torch.save({"q.weight": torch.ones(2), "k.weight": torch.ones(2), "epoch": 3}, model / NAMES[0])
    refused(project, 3, f"epoch in {NAMES[0]} is not a tensor, and only shards of tensors are migrated")
    torch.save([torch.ones(2)], model / NAMES[0])
    refused(project, 3, f"{NAMES[0]} in it does not hold tensors by name")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\x80\x02}q\x00.", f"{NAMES[0]}: it is a plain pickle"),
        (b"PK\3\4cut", f"{NAMES[0]}: it starts as a torch checkpoint, but its end is missing"),
    ],
)
def test_a_damaged_shard(project: Folder, model: Path, content: bytes, says: str) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    (model / NAMES[0]).write_bytes(content)
    refused(project, 1, says)


def test_a_hostile_pickle_is_named_and_not_run(project: Folder, model: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return os.system, ("touch ran",)

    torch.save({"q.weight": torch.ones(2), "k.weight": Run()}, model / NAMES[0])
    declare(project, "a1", OPERATIONS["rename"])
    refused(project, 3, f"k.weight in {NAMES[0]} is not a tensor")
    assert not Path("ran").exists()


def test_a_shard_alone_is_refused(project: Folder, model: Path) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    refused(
        project,
        3,
        "which can only be migrated as a whole; give the path of its folder",
        "upgrade",
        "head",
        model / NAMES[0],
    )
    refused(project, 3, "give the path of that file", "upgrade", "head", single(model))
    project.ok("upgrade", "head", "model")


def single(model: Path) -> Path:
    folder = model.with_name("single")
    folder.mkdir()
    shutil.copy(model / NAMES[1], folder / "pytorch_model.bin")
    return folder
