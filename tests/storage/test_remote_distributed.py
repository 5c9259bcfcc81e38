"""Distributed checkpoints in object stores: read by few requests, and written by their metadata."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fsspec")
pytest.importorskip("s3fs")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage.remote.s3_store import S3Store  # noqa: E402
from tests.support.buckets import Bucket  # noqa: E402
from tests.support.distributed import as_one_file, save  # noqa: E402
from tests.support.object_store import BUCKET, S3, Request  # noqa: E402
from tests.support.operations import declare, equal  # noqa: E402
from tests.support.project import Folder  # noqa: E402

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(4, 3), "b.weight": torch.ones(3)}
TREE = {"model": WEIGHTS, "lr": 0.1, "names": ["a", "b"]}


def uploaded(put: Callable[[str, bytes], str], folder: Path) -> str:
    """Upload a folder, and return its URL."""
    urls = [put(f"{folder.name}/{each.name}", each.read_bytes()) for each in sorted(folder.iterdir())]
    return urls[0].rpartition("/")[0]


def downloaded(names: list[str], get: Callable[[str], bytes], folder: Path) -> Any:
    """Return what torch's converter finds in the objects of a prefix."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in names:
        (folder / name.rpartition("/")[2]).write_bytes(get(name))
    return as_one_file(folder)


def test_a_change_and_the_way_back(project: Folder, bucket: Bucket) -> None:
    """A rename puts one object; a cast, a second one under a name of its own. No other object is touched."""
    url = uploaded(bucket.put, save(TREE, project.path / "run"))
    old = {name: bucket.get(f"run/{name}") for name in bucket.names()}
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    assert f"{url}/.metadata.bak" in project.ok("upgrade", "head", url, "--check-rollback").out
    assert bucket.names() == [".metadata", ".metadata.bak", "__0_0.distcp"]
    assert bucket.get("run/.metadata.bak") == old[".metadata"]
    assert "a1" in project.ok("current", url).out
    declare(project, "b2", 'op.Cast("c.weight", "float64")', 'op.SetItem("lr", 0.2)', parents="a1")
    project.ok("upgrade", "head", url, "--no-backup")
    assert bucket.names() == [".metadata", ".metadata.bak", "__0_0.distcp", "__ckpt_migrate_0.distcp"]
    assert bucket.get("run/__0_0.distcp") == old["__0_0.distcp"]
    found = downloaded([f"run/{name}" for name in bucket.names()], bucket.get, project.path / "now")
    assert torch.equal(found["model"]["c.weight"], WEIGHTS["a.weight"].double())
    assert (found["lr"], found["names"]) == (0.2, ["a", "b"])
    project.ok("downgrade", "base", url, "--no-backup")
    found = downloaded([f"run/{name}" for name in bucket.names()], bucket.get, project.path / "now")
    assert equal(found["model"], WEIGHTS)
    assert found["lr"] == 0.1


def test_reading_commands(project: Folder, bucket: Bucket) -> None:
    folder = save(TREE, project.path / "run")
    url = uploaded(bucket.put, folder)
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    assert "1 file, 1 rank" in project.ok("inspect", url).out
    assert cm.inspect(url, verify=True).damaged == ()
    same = project.ok("diff", url, folder).out
    assert "op." not in same, same
    assert equal(cm.load(url, project=project.path)["model"], {"c.weight": WEIGHTS["a.weight"], "b.weight": WEIGHTS["b.weight"]})  # fmt: skip
    project.ok("upgrade", "head", url, "--output", "here")
    assert "c.weight" in as_one_file(project.path / "here")["model"]
    ran = project.run("upgrade", "head", "here", "--output", f"{url}2")
    assert (ran.code, "give a local folder to --output" in ran.err) == (3, True), ran.err
    ran = project.run("upgrade", "head", url, "--in-place")
    assert ran.code == 3, ran.err


def test_a_rename_transfers_metadata_alone(project: Folder, s3: S3) -> None:
    """8 MB of tensors in 2 files: their content stays in the store."""
    writer = torch.distributed.checkpoint.FileSystemWriter(project.path / "run", single_file_per_rank=False)
    tensors = {f"a.{number}": torch.full((1 << 20,), float(number)) for number in range(2)}
    folder = save({"model": tensors, "epoch": 3}, project.path / "run", storage_writer=writer)
    url = uploaded(s3.put, folder)
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    with s3.count() as requests:
        project.ok("inspect", url)
    assert sum(each.received for each in requests) < 400_000
    with s3.count() as requests:
        project.ok("upgrade", "head", url)
    assert sum(each.received for each in requests) < 800_000
    assert sum(each.sent for each in requests) < 100_000
    written = [each.path for each in requests if each.method in ("PUT", "POST")]
    assert all(path.endswith((".metadata", ".metadata.bak")) for path in written), written


def test_a_fused_tensor_with_content_is_put_together_in_the_store(project: Folder, s3: S3) -> None:
    url = uploaded(s3.put, save(TREE, project.path / "run"))
    declare(project, "a1", 'op.Stack(["a.weight", "a.weight2"], "c")')
    big = {"a.weight": torch.randn(300, 300), "a.weight2": torch.randn(300, 300)}
    url = uploaded(s3.put, save({"model": big}, project.path / "big"))
    project.ok("upgrade", "head", url)
    found = downloaded([name for name in s3.names() if name.startswith("big/")], s3.get, project.path / "now")
    assert torch.equal(found["model"]["c"], torch.stack(list(big.values())))
    assert s3.uploads() == []


@pytest.mark.parametrize("backup", [True, False])
def test_the_slower_of_two_writers_changes_nothing(project: Folder, s3: S3, backup: bool) -> None:
    """Another run saves new metadata before ours are put; the file that only ours would name goes away again."""
    url = uploaded(s3.put, save(TREE, project.path / "run"))
    declare(project, "a1", 'op.Cast("a.weight", "float64")')
    other = s3.get("run/.metadata") + b" "

    def before(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith(".distcp"):
            s3.before = None
            s3.put("run/.metadata", other)

    s3.before = before
    ran = project.run("upgrade", "head", url, *([] if backup else ["--no-backup"]))
    assert (ran.code, "in the meantime" in ran.err) == (1, True), ran.err
    assert s3.get("run/.metadata") == other
    assert [name for name in s3.names() if "ckpt_migrate" in name or ".bak" in name] == []


def test_no_permission(project: Folder, s3: S3) -> None:
    url = uploaded(s3.put, save(TREE, project.path / "run"))
    before = {name: s3.get(name) for name in s3.names()}
    declare(project, "a1", 'op.Cast("a.weight", "float64")')
    s3.before = lambda request: "AccessDenied" if request.method == "PUT" and ".metadata" in request.path else None
    ran = project.run("upgrade", "head", url)
    s3.before = None
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert {name: s3.get(name) for name in s3.names()} == before


def test_an_answer_that_is_lost(project: Folder, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store took the new metadata; the request was sent again, and found its own object. What they name stays."""
    url = uploaded(s3.put, save(TREE, project.path / "run"))
    declare(project, "a1", 'op.Cast("a.weight", "float64")')
    real = S3Store.assemble

    def sent_twice(store: S3Store, place: Any, *rest: Any) -> None:
        real(store, place, *rest)
        if place.name == ".metadata":
            real(store, place, *rest)

    monkeypatch.setattr(S3Store, "assemble", sent_twice)
    ran = project.run("upgrade", "head", url, "--no-backup")
    assert (ran.code, "in the meantime" in ran.err) == (1, True), ran.err
    found = downloaded([name for name in s3.names() if name.startswith("run/")], s3.get, project.path / "now")
    assert torch.equal(found["model"]["a.weight"], WEIGHTS["a.weight"].double())


def test_what_would_change_two_objects_at_once_is_refused(project: Folder, bucket: Bucket) -> None:
    """`meta.pt` of Lightning is read; a rename leaves it as it is."""
    folder = save({"state_dict": WEIGHTS}, project.path / "run")
    torch.save({"epoch": 3}, folder / "meta.pt")
    url = uploaded(bucket.put, folder)
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    project.ok("upgrade", "head", url)
    assert cm.load(url)["epoch"] == 3
    declare(project, "b2", 'op.SetItem("epoch", 9)', parents="a1")
    before = {name: bucket.get(f"run/{name}") for name in bucket.names()}
    ran = project.run("upgrade", "head", url)
    assert (ran.code, "meta.pt in it would change too" in ran.err) == (3, True), ran.err
    assert {name: bucket.get(f"run/{name}") for name in bucket.names()} == before
    project.ok("upgrade", "head", url, "--output", "here")
    assert torch.load(project.path / "here" / "meta.pt")["epoch"] == 9
    there = uploaded(bucket.put, project.path / "here")
    assert "b2" in project.ok("current", there).out
    assert cm.load(there)["epoch"] == 9


def test_a_folder_that_is_not_whole(project: Folder, s3: S3) -> None:
    folder = save(TREE, project.path / "run")
    url = uploaded(s3.put, folder)
    s3.client.delete_object(Bucket=BUCKET, Key="run/__0_0.distcp")
    ran = project.run("inspect", url)
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    s3.put("run/__0_0.distcp", (folder / "__0_0.distcp").read_bytes()[:-100])
    ran = project.run("inspect", url)
    assert (ran.code, "was it cut off" in ran.err) == (1, True), ran.err
