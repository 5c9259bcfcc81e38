"""Checkpoints in stores of any kind: memory, and (`make test-stores`) Azure and Google Cloud on emulators."""

from __future__ import annotations

import ast
import io
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")
fsspec = pytest.importorskip("fsspec")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.errors import UsageError  # noqa: E402
from anemoi_ckpt_migrate.storage.descriptor import fetch_all, read_at  # noqa: E402
from anemoi_ckpt_migrate.storage.remote.object_file import object_file  # noqa: E402
from anemoi_ckpt_migrate.storage.remote.parts import SMALLEST, Taken, parts_of  # noqa: E402
from anemoi_ckpt_migrate.storage.remote.store import RemoteObject, Store  # noqa: E402
from anemoi_ckpt_migrate.storage.url import Url, url_of  # noqa: E402
from tests.support.buckets import STORES, Bucket  # noqa: E402
from tests.support.hub import hub  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

RENAME = 'op.Rename("a.weight", "b.weight")'
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "out.weight": torch.arange(300_000.0)}
RENAMED = {("b.weight" if name == "a.weight" else name): each for name, each in STATE.items()}


def torch_zip(state: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": state}, stream)
    return stream.getvalue()


def loaded(content: bytes) -> dict[str, Any]:
    if content[:2] == b"PK":
        return dict(torch.load(io.BytesIO(content), weights_only=True)["state_dict"])
    return dict(library.load(content))


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


KINDS: dict[str, Callable[[Any], bytes]] = {"model.safetensors": library.save, "last.ckpt": torch_zip}


def test_a_rename_and_back(project: Folder, bucket: Bucket) -> None:
    for name, make in KINDS.items():
        old = make(STATE)
        url = bucket.put(f"run/{name}", old)
        declare(project, "a1", RENAME)
        project.ok("upgrade", "head", url)
        assert equal(loaded(bucket.get(f"run/{name}")), RENAMED)
        assert bucket.get(f"run/{name}.bak") == old
        assert project.ok("current", url).out.split()[1:2] == ["a1"]
        project.ok("downgrade", "base", url)
        assert equal(loaded(bucket.get(f"run/{name}")), STATE)
        assert f"{name}.bak1" in bucket.names()
        project.ok("upgrade", "head", url, "--no-backup")
        assert f"{name}.bak2" not in bucket.names()
        new = f"{bucket.url}/new/{name}"
        project.ok("downgrade", "base", url, "--output", new)
        assert equal(loaded(bucket.get(f"new/{name}")), STATE)
        ran = project.run("downgrade", "base", url, "--output", new)
        assert (ran.code, f"{new} exists already; remove it or write elsewhere" in ran.err) == (1, True)
        assert cm.load(url)


def test_another_writer(project: Folder, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program replaces the object while it is put together: that stays, and nothing else is left."""
    from anemoi_ckpt_migrate.storage import single_file

    other = library.save(RENAMED)
    url = bucket.put("model.safetensors", library.save(STATE))
    declare(project, "a1", RENAME)
    check = single_file.check_room

    def replaced(*args: Any) -> None:
        bucket.put("model.safetensors", other)
        check(*args)

    monkeypatch.setattr(single_file, "check_room", replaced)
    ran = project.run("upgrade", "head", url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "another program changed the object in the meantime; run the command again" in ran.err
    assert bucket.get("model.safetensors") == other


@pytest.mark.stores
def test_another_writer_in_the_last_moment(project: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Azure, the condition belongs to the write: a look before is not needed."""
    from anemoi_ckpt_migrate.storage.remote.azure_store import AzureStore

    put = AzureStore._put
    for bucket in STORES["azure"](tmp_path, monkeypatch):
        other = library.save(RENAMED)
        url = bucket.put("model.safetensors", library.save(STATE))
        declare(project, "a1", RENAME)

        def late(*args: Any, bucket: Bucket = bucket, other: bytes = other) -> None:
            bucket.put("model.safetensors", other)
            put(*args)

        monkeypatch.setattr(AzureStore, "_put", late)
        ran = project.run("upgrade", "head", url)
        assert (ran.code, "another program changed the object in the meantime" in ran.err) == (1, True)
        assert (bucket.get("model.safetensors"), bucket.names()) == (other, ["model.safetensors"])


def test_the_hub(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers, a folder, content, and an upgraded copy; on an imitation of the Hub."""
    files = {"model.safetensors": library.save(STATE), "config.json": b"{}"}
    url = "hf://org/model"
    declare(project, "a1", RENAME)
    with hub(monkeypatch, files) as read:
        assert len(project.ok("inspect", f"{url}/model.safetensors", "--json").lines[0]["tensors"]) == 2
        assert read == [64 << 10]
        assert project.run("check", url).code == 4
        assert equal(cm.load(url), RENAMED)
        project.ok("upgrade", "head", f"{url}/model.safetensors", "--output", "new.safetensors")
        assert equal(library.load_file("new.safetensors"), RENAMED)
        project.ok("upgrade", "head", url, "--output", "new")
        assert equal(library.load_file("new/model.safetensors"), RENAMED)
        for words in (["upgrade", "head"], ["stamp", "head"]):
            ran = project.run(*words, f"{url}/model.safetensors")
            assert (ran.code, "repositories of the Hugging Face Hub are only read" in ran.err) == (3, True)
        ran = project.run("inspect", "hf://org/other/model.safetensors")
        assert (ran.code, "there is no such object, or no such bucket" in ran.err) == (1, True)


def test_a_torn_read(project: Folder, memory: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranges of two objects look like a damaged file, but the reason is another."""
    from anemoi_ckpt_migrate.storage.remote.store import Store

    many = {f"layer{number}.weight": torch.zeros(64) for number in range(2000)}
    url = memory.put("last.ckpt", torch_zip(many))
    read, count = Store._read, [0]

    def second(store: Store, found: RemoteObject, start: int, end: int) -> bytes:
        count[0] += 1
        if count[0] == 2:
            memory.put("last.ckpt", bytes(found.size))
        return read(store, found, start, end)

    monkeypatch.setattr(Store, "_read", second)
    ran = project.run("inspect", url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "another program changed the object in the meantime" in ran.err


# Refusals


@pytest.mark.parametrize("url", ["memory://", "memory://a//b.ckpt", "s3://b/../c.ckpt", "s3://b/./c.ckpt", "s3:///c"])
def test_a_url_that_names_no_object(project: Folder, url: str) -> None:
    ran = project.run("inspect", url)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"names no object: give {url[: url.index(':')]}://BUCKET/KEY" in ran.err


def test_a_url_that_became_a_path(project: Folder) -> None:
    with pytest.raises(cm.MigrateError, match="lost a slash"):
        cm.inspect(Path("s3://bucket/last.ckpt"))


@pytest.mark.parametrize(
    ("scheme", "missing"),
    [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("abfs", "adlfs"), ("hf", "huggingface_hub"), ("s3", "fsspec")],
)
def test_a_library_that_is_missing(project: Folder, scheme: str, missing: str) -> None:
    url = f"{scheme}://bucket/last.ckpt"
    code = f"""
import sys
sys.modules[{missing!r}] = None
from anemoi_ckpt_migrate import cli
print(cli.main(["inspect", {url!r}]), cli.main(["upgrade", "head", {url!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert (ran.stdout, len(lines)) == ("1 1\n", 2), ran.stderr
    for line in lines:
        assert f"{url}: {scheme}:// needs" in line
        assert "run `pip install 'ckpt-migrate[remote]'`" in line


def test_the_hub_is_only_read(project: Folder) -> None:
    project.copy()
    project.script("a1")
    ran = project.run("upgrade", "head", "training.ckpt", "--output", "hf://org/model/last.ckpt")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "repositories of the Hugging Face Hub are only read; write elsewhere with --output" in ran.err


def test_a_store_that_does_not_answer(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timeout is one of fsspec's configuration."""
    s3fs = pytest.importorskip("s3fs")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        timeouts = {"read_timeout": 0.1, "connect_timeout": 0.1, "retries": {"max_attempts": 0}}
        options = {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "config_kwargs": timeouts}
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        ran = project.run("inspect", "s3://bucket/last.ckpt")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "s3://bucket/last.ckpt: the store did not answer in time; run the command again, or raise the" in ran.err


def test_a_store_that_is_not_there(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    options = {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    ran = project.run("inspect", "s3://bucket/last.ckpt")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "the store cannot be read (Could not connect to the endpoint URL" in ran.err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 100, 5_000, 70_000, 1 << 20])), max_size=12))
def test_bytes_arrive_before_they_are_read(reads: list[tuple[int, int]]) -> None:
    """Whatever is read in whatever order: the right bytes, and hardly any is fetched twice."""
    content, fetched = random.Random(0).randbytes((1 << 20) - 7), []

    class Counted(Store):
        def _read(self, found: RemoteObject, start: int, end: int) -> bytes:
            fetched.append(end - start)
            return content[start:end]

    found = RemoteObject(Url("memory", "x"), len(content), "", {})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counted, "reads_one_version", True)
        with object_file(Path(folder, "x"), Counted("memory", None), found) as file:
            for start, count in reads:
                assert read_at(file, count, start) == content[start : start + count]
            fetch_all(file, [(start, start + 10) for start in range(0, 1 << 20, 200_000)])
            assert read_at(file, 10, 800_000) == content[800_000:800_010]
            assert read_at(file, 1 << 20, 0) == content
            # What lies between two holes that are close to each other comes again.
            assert sum(fetched) <= len(content) + len(fetched) * (64 << 10)


# The parts of an upload


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[Taken]]:
    """A new object of several stretches: ranges of another one, and bytes of its own."""
    source, at, ranges = RemoteObject(Url("s3", "b/old"), 1 << 40, "", {}), 0, []
    for is_taken in draw(st.lists(st.booleans(), max_size=8)):
        length = draw(st.sampled_from([1, 1000, SMALLEST - 1, SMALLEST, SMALLEST + 1, 40 << 20, 3 << 30]))
        if is_taken:
            start = draw(st.integers(0, 1 << 30))
            ranges.append(Taken(at, source, start, start + length))
        at += length
    return at, ranges


@given(layouts())
def test_the_parts_of_an_upload(layout: tuple[int, list[Taken]]) -> None:
    size, ranges = layout
    parts = parts_of(size, ranges)
    assert [part.start for part in parts] == [0, *(part.end for part in parts)][: len(parts)]
    assert (parts[-1].end if parts else 0) == size
    assert all(part.end - part.start >= SMALLEST for part in parts[:-1])
    assert all(0 < part.end - part.start <= 5 << 30 for part in parts)
    assert len(parts) <= 10_000
    for part in parts:
        if part.taken is not None:
            whole = next(each for each in ranges if each.to <= part.start < each.stop)
            assert part.end <= whole.stop
            assert part.taken.start - whole.start == part.start - whole.to
            assert part.taken.end - part.taken.start == part.end - part.start
    uploaded = sum(part.end - part.start for part in parts if part.taken is None)
    own = size - sum(each.end - each.start for each in ranges)
    assert uploaded <= own + 2 * SMALLEST * len(ranges)


# No hole is read as zeros

PACKAGE = Path(cm.__file__).parent
READERS = {"pread", "preadv", "read", "mmap", "copy_file_range", "sendfile", "fdopen"}
LOCAL = {
    "descriptor.py", "copy_range.py", "tensors/torch_content.py", "remote/new_object.py",  # they fetch
    "remote/object_file.py",
    "lock.py", "in_place.py", "folder_exchange.py", "find_checkpoints.py",  # files that are always local
}  # fmt: skip


def test_open_files_are_read_through_the_functions_that_fetch() -> None:
    """Only these modules call the kernel to read a descriptor; all others use `read_at`, `read_into` or `fetch`."""
    found = set()
    for path in (PACKAGE / "storage").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in ("os", "mmap"):
                    found.add(path.relative_to(PACKAGE / "storage").as_posix())
    assert found <= LOCAL, found - LOCAL


def test_urls() -> None:
    url = url_of("s3://bucket/run/last.ckpt")
    assert url is not None
    assert (url.name, str(url.parent), str(url.with_name("x")), os.fspath(url)) == (
        "last.ckpt", "s3://bucket/run", "s3://bucket/run/x", "s3://bucket/run/last.ckpt",
    )  # fmt: skip
    assert url_of("run/last.ckpt") is None
    assert url_of(Path("s3://bucket/last.ckpt")) is None
    assert url_of("https://host/last.ckpt") is None
    with pytest.raises(UsageError):
        url_of("s3://bucket/a\0b")


def test_prefixes_and_patterns_are_not_searched(project: Folder, memory: Bucket) -> None:
    """Each message names the way out, and nothing is written."""
    url = memory.put("run/model.safetensors", library.save({"a.weight": torch.ones(3)}))
    declare(project, "a1", 'op.Rename("a.weight", "b.weight")')
    for words in (["inspect"], ["upgrade", "head"], ["upgrade", "head", "-r"]):
        ran = project.run(*words, "memory://bucket")
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "name each checkpoint below it, as --recursive searches local folders only" in ran.err
    ran = project.run("upgrade", "head", "memory://bucket/run/*.safetensors")
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert "patterns are for local paths, so name each object" in ran.err
    assert memory.names() == ["model.safetensors"]
    project.ok("upgrade", "head", url)
