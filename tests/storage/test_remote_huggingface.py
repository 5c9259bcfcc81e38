"""Folders of Hugging Face in object stores: changed shards get new names, and the index that names them is put last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")
pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.buckets import Bucket  # noqa: E402
from tests.support.huggingface import INDEX, SHARDS, made, tensors_in  # noqa: E402
from tests.support.object_store import BUCKET, S3, Request  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import DATA, Folder  # noqa: E402

OLD = {"x.weight": torch.arange(12.0), "z.weight": torch.arange(6.0)}
NEW = {"y.weight": OLD["x.weight"], "z.weight": OLD["z.weight"]}
RENAME = 'op.Rename("x.weight", "y.weight")'
FIRST = "model-00001-of-00002.g{}.safetensors"


def uploaded(put: Callable[[str, bytes], str], folder: Path) -> str:
    """Upload a folder, and return its URL."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    urls = [put(f"{folder.name}/{each.relative_to(folder).as_posix()}", each.read_bytes()) for each in files]
    return urls[0].partition(f"/{folder.name}/")[0] + f"/{folder.name}"


def indexed(get: Callable[[str], bytes], index: str = INDEX) -> dict[str, Any]:
    """Return all tensors that an index names, each from its file; the file must hold no others."""
    files = json.loads(get(f"llama/{index}"))["weight_map"]
    parts = {file: library.load(get(f"llama/{file}")) for file in set(files.values())}
    assert files == {name: file for file, part in parts.items() for name in part}
    return {name: value for part in parts.values() for name, value in part.items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def every(s3: S3) -> dict[str, bytes]:
    return {name: s3.get(name) for name in s3.names()}


def test_a_change_and_the_way_back(project: Folder, bucket: Bucket) -> None:
    """The shard that changes gets a new name; the other one, and all that the old index names, stays."""
    url = uploaded(bucket.put, made(project.path / "llama"))
    before = {name: bucket.get(f"llama/{name}") for name in (INDEX, *SHARDS)}
    declare(project, "a1", RENAME)
    ran = project.ok("upgrade", "head", url, "--check-rollback")
    assert f"{url}/{INDEX}.bak" in ran.out
    assert equal(indexed(bucket.get), NEW)
    assert {FIRST.format(1), *SHARDS, INDEX, f"{INDEX}.bak"} <= set(bucket.names())
    assert {name: bucket.get(f"llama/{name}") for name in SHARDS} == {name: before[name] for name in SHARDS}
    assert bucket.get(f"llama/{INDEX}.bak") == before[INDEX]
    assert equal(indexed(bucket.get, f"{INDEX}.bak"), OLD)
    assert "a1" in project.ok("current", url).out
    assert equal(cm.load(url, project=project.path), NEW)
    project.ok("downgrade", "base", url)
    assert equal(indexed(bucket.get), OLD)
    assert FIRST.format(2) in bucket.names()


def test_an_old_generation_is_restored_by_its_index(project: Folder, bucket: Bucket) -> None:
    url = uploaded(bucket.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url)
    bucket.put(f"llama/{INDEX}", bucket.get(f"llama/{INDEX}.bak"))
    assert "a1" not in project.ok("current", url).out
    assert equal(cm.load(url, project=project.path), NEW)  # upgraded in memory
    project.ok("upgrade", "head", url)
    assert equal(indexed(bucket.get), NEW)
    assert FIRST.format(2) in bucket.names()


def test_without_a_backup(project: Folder, bucket: Bucket) -> None:
    """The old shard goes away after the index has its name; a shard that an earlier backup names stays."""
    url = uploaded(bucket.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    before = set(bucket.names())
    project.ok("upgrade", "head", url, "--no-backup")
    assert set(bucket.names()) == before - {SHARDS[0]} | {FIRST.format(1)}
    assert equal(indexed(bucket.get), NEW)
    project.ok("downgrade", "base", url)
    project.ok("upgrade", "head", url, "--no-backup")
    assert set(bucket.names()) == before - {SHARDS[0]} | {FIRST.format(1), FIRST.format(3), f"{INDEX}.bak"}
    assert equal(indexed(bucket.get), NEW)
    assert equal(indexed(bucket.get, f"{INDEX}.bak"), NEW)


def test_kept_values(project: Folder, bucket: Bucket) -> None:
    """They lie in a file of their generation, too, so that each index finds its own."""
    url = uploaded(bucket.put, made(project.path / "llama"))
    declare(project, "a1", 'op.Drop("x.weight", keep=True)')
    for number in (1, 3):
        project.ok("upgrade", "head", url)
        assert equal(indexed(bucket.get), {"z.weight": OLD["z.weight"]})
        assert f"stash.g{number}.safetensors" in bucket.names()
        project.ok("downgrade", "base", url)
        assert equal(indexed(bucket.get), OLD)
    bucket.put(f"llama/{INDEX}", bucket.get(f"llama/{INDEX}.bak1"))  # the first upgrade
    project.ok("downgrade", "base", url, "--output", "here")
    assert equal(indexed(lambda name: (project.path / name.replace("llama", "here")).read_bytes()), OLD)
    project.ok("upgrade", "head", "here")
    assert (project.path / "here" / ".ckpt_migrate" / "stash.safetensors").exists()


def test_a_copy_of_a_folder_with_old_generations(project: Folder, bucket: Bucket) -> None:
    """A downloaded folder holds both generations; a change keeps the old ones in the backup, else it is refused."""
    url = uploaded(bucket.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url)
    here = project.path / "here"
    here.mkdir()
    for name in (INDEX, f"{INDEX}.bak", *SHARDS, FIRST.format(1)):
        (here / name).write_bytes(bucket.get(f"llama/{name}"))
    ran = project.run("downgrade", "base", "here", "--no-backup")
    assert (ran.code, f"it holds an old generation ({INDEX}.bak)" in ran.err, ran.err.count("\n")) == (3, True, 1), (
        ran.err
    )
    project.ok("downgrade", "base", "here", "--output", "there")
    assert equal(tensors_in(project.path / "there"), OLD)
    project.ok("downgrade", "base", "here")
    assert equal(tensors_in(here), OLD)
    assert (project.path / "here.bak" / f"{INDEX}.bak").exists()


def test_shards_of_torch(project: Folder, bucket: Bucket) -> None:
    files = {"x.weight": "pytorch_model-00001-of-00002.bin", "z.weight": "pytorch_model-00002-of-00002.bin"}
    for name, file in files.items():
        torch.save({name: OLD[name]}, project.path / "w.bin")
        url = bucket.put(f"llama/{file}", (project.path / "w.bin").read_bytes())
    bucket.put("llama/pytorch_model.bin.index.json", json.dumps({"metadata": {}, "weight_map": files}).encode())
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url.rpartition("/")[0])
    named = json.loads(bucket.get("llama/pytorch_model.bin.index.json"))["weight_map"]
    assert named == {"y.weight": "pytorch_model-00001-of-00002.g1.bin", "z.weight": files["z.weight"]}
    (project.path / "w.bin").write_bytes(bucket.get(f"llama/{named['y.weight']}"))
    assert equal(torch.load(project.path / "w.bin", weights_only=True), {"y.weight": OLD["x.weight"]})


def test_a_folder_of_one_file(project: Folder, bucket: Bucket) -> None:
    url = bucket.put("one/config.json", b"{}").rpartition("/")[0]
    old = library.save(OLD)
    bucket.put("one/model.safetensors", old)
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url)
    assert equal(library.load(bucket.get("one/model.safetensors")), NEW)
    assert bucket.get("one/model.safetensors.bak") == old
    ran = project.run("downgrade", "base", url, "--max-shard-size", "50B")
    assert (ran.code, "its one file with weights would be split" in ran.err) == (3, True), ran.err
    project.ok("downgrade", "base", url, "--no-backup")
    assert equal(library.load(bucket.get("one/model.safetensors")), OLD)


def test_more_shards(project: Folder, bucket: Bucket) -> None:
    """The first shard is split; the other one keeps its name."""
    folder = made(project.path / "llama")
    both = {"x.weight": OLD["x.weight"], "w.weight": torch.ones(12)}
    library.save_file(both, folder / SHARDS[0])
    named = {"x.weight": SHARDS[0], "w.weight": SHARDS[0], "z.weight": SHARDS[1]}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 120}, "weight_map": named}))
    url = uploaded(bucket.put, folder)
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url, "--max-shard-size", "50B")
    found = json.loads(bucket.get(f"llama/{INDEX}"))
    first = "model-0000{}-of-00003.g1.safetensors"
    assert set(found["weight_map"].values()) == {SHARDS[1], first.format(1), first.format(2)}
    assert equal(indexed(bucket.get), {**NEW, "w.weight": both["w.weight"]})
    project.ok("downgrade", "base", url, "--output", "here")
    names = {each.name for each in (project.path / "here").glob("model-*")}
    assert set(json.loads((project.path / "here" / INDEX).read_bytes())["weight_map"].values()) <= names


def test_json_files_are_not_changed(project: Folder, bucket: Bucket) -> None:
    """Two objects with fixed names cannot change at once; the way out that the message names."""
    url = uploaded(bucket.put, made(project.path / "llama"))
    declare(project, "a1", RENAME, 'op.At([], [op.SetItem("size", 3)], records={"config.json": ""})')
    ran = project.run("upgrade", "head", url)
    assert (ran.code, ran.err.count("\n"), "config.json in it would change too" in ran.err) == (3, 1, True), ran.err
    assert equal(indexed(bucket.get), OLD)
    project.ok("upgrade", "head", url, "--output", "new")
    uploaded(bucket.put, project.path / "new")
    there = url.removesuffix("llama") + "new"
    assert "a1" in project.ok("current", there).out
    assert json.loads(bucket.get("new/config.json"))["size"] == 3


def test_the_optimizer_of_a_trainer_is_not_changed(project: Folder, bucket: Bucket) -> None:
    """A rename leaves its file alone; what would change it too is refused, and goes to a local folder."""
    url = uploaded(bucket.put, Path(shutil.copytree(DATA / "trainer", project.path / "trainer")))
    old = bucket.get("trainer/optimizer.pt")
    declare(project, "a1", 'op.RenamePrefix("x.", "y.")')
    project.ok("upgrade", "head", url)
    assert bucket.get("trainer/optimizer.pt") == old
    assert "y.weight" in library.load(bucket.get("trainer/model.safetensors"))
    groups = 'op.ParameterGroups([["y.weight", "y.bias", "norm.weight", "norm.bias"]])'
    declare(project, "a2", groups, 'op.Fuse(["norm.weight", "norm.bias"], "norm.both")', parents="a1")
    ran = project.run("upgrade", "head", url)
    assert (ran.code, ran.err.count("\n"), "optimizer.pt in it would change too" in ran.err) == (3, 1, True), ran.err
    assert bucket.get("trainer/optimizer.pt") == old
    project.ok("upgrade", "head", url, "--output", "new")
    assert len(torch.load("new/optimizer.pt")["state"]) == 3


@pytest.mark.parametrize("backup", [[], ["--no-backup"]])
def test_a_failure_of_each_write_leaves_the_old_set(project: Folder, s3: S3, backup: list[str]) -> None:
    """The store refuses the first write, then the second, and so on; the set is the old one until the index is put."""
    url = uploaded(s3.put, made(project.path / "llama"))
    declare(project, "a1", RENAME, 'op.Cast("z.weight", "float64")')
    before, number, codes = every(s3), 0, []
    while True:
        left = [number]

        def refuse(request: Request, left: list[int] = left) -> str | None:
            if request.method not in ("PUT", "POST"):
                return None
            left[0] -= 1
            return "AccessDenied" if left[0] == -1 else None

        s3.before = refuse
        ran = project.run("upgrade", "head", url, *backup)
        s3.before = None
        codes.append(ran.code)
        if ran.code == 0:
            break
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        assert every(s3) == before
        number += 1
    assert len(codes) > 4
    assert s3.uploads() == []
    found = indexed(s3.get)
    assert torch.equal(found["z.weight"], OLD["z.weight"].double())


@pytest.mark.parametrize("target", [INDEX, SHARDS[1]])
def test_another_writer_in_between(project: Folder, s3: S3, target: str) -> None:
    """It writes the index, or a shard that we name but do not write, while our shard is put. We change nothing."""
    url = uploaded(s3.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    other = s3.get(f"llama/{target}") + b" "

    def before(request: Request) -> None:
        if request.method == "PUT" and ".g1." in request.path:
            s3.before = None
            s3.put(f"llama/{target}", other)

    s3.before = before
    ran = project.run("upgrade", "head", url)
    assert (ran.code, "in the meantime" in ran.err, ran.err.count("\n")) == (1, True, 1), ran.err
    assert s3.get(f"llama/{target}") == other
    assert [name for name in s3.names() if ".g1." in name or ".bak" in name] == []


def test_old_files_that_cannot_be_removed(project: Folder, s3: S3) -> None:
    url = uploaded(s3.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    s3.before = lambda request: "AccessDenied" if request.method == "DELETE" else None
    ran = project.run("upgrade", "head", url, "--no-backup")
    s3.before = None
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert (
        f"it was changed, but the store did not let all of its old files be removed; remove {url}/{INDEX}.bak"
        in ran.err
    )
    assert equal(indexed(s3.get), NEW)
    assert "a1" in project.ok("current", url).out


def test_files_of_two_generations_without_a_kept_index(project: Folder, s3: S3) -> None:
    url = uploaded(s3.put, made(project.path / "llama"))
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url)
    s3.client.delete_object(Bucket=BUCKET, Key=f"llama/{INDEX}.bak")
    ran = project.run("inspect", url)
    assert (ran.code, f"{SHARDS[0]} in it is not named by {INDEX}" in ran.err) == (1, True), ran.err
    s3.put(f"llama/{INDEX}.bak", b"{")
    ran = project.run("inspect", url)
    assert (ran.code, f"its index {INDEX}.bak is damaged" in ran.err, ran.err.count("\n")) == (1, True, 1), ran.err


def test_a_rename_transfers_headers(project: Folder, s3: S3) -> None:
    """6 MB in the shard that changes: the store copies all but the least part; the other shard stays."""
    folder = made(project.path / "llama")
    big = {"x.weight": OLD["x.weight"], "b.weight": torch.randn(1_500_000), "c.weight": torch.randn(1_500_000)}
    library.save_file(big, folder / SHARDS[0])
    named = {**dict.fromkeys(big, SHARDS[0]), "z.weight": SHARDS[1]}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": named}))
    url = uploaded(s3.put, folder)
    declare(project, "a1", RENAME)
    with s3.count() as requests:
        project.ok("upgrade", "head", url)
    assert sum(each.sent for each in requests) < 5_400_000
    assert equal(indexed(s3.get), {**NEW, "b.weight": big["b.weight"], "c.weight": big["c.weight"]})
