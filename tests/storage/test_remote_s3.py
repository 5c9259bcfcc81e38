"""Checkpoints on S3, on a server (moto's) that the tests start; judged by boto3, safetensors and torch."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")
pytest.importorskip("s3fs")
pytest.importorskip("moto")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.object_store import BUCKET, S3  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

RENAME = 'op.Rename("a.weight", "b.weight")'
MIB = 1 << 20


def tensors(count: int = 3, mib: int = 1) -> dict[str, Any]:
    torch.manual_seed(0)
    found = {f"layer{number}.weight": torch.randn(mib * MIB // 4) for number in range(count)}
    return {**found, "a.weight": torch.arange(6.0).reshape(2, 3)}


def safetensors(state: dict[str, Any]) -> bytes:
    return bytes(library.save(state, {"format": "pt"}))


def torch_zip(state: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, stream)
    return stream.getvalue()


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    return {("b.weight" if name == "a.weight" else name): each for name, each in state.items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loaded(content: bytes) -> dict[str, Any]:
    """Load with the library of the format."""
    if content[:2] == b"PK":
        return dict(torch.load(io.BytesIO(content), weights_only=True)["state_dict"])
    return dict(library.load(content))


KINDS = {"model.safetensors": safetensors, "last.ckpt": torch_zip}


@pytest.mark.parametrize("name", KINDS)
def test_a_rename_and_back(project: Folder, s3: S3, name: str) -> None:
    """a.weight -> b.weight -> a.weight; the old objects are kept as NAME.bak and NAME.bak1."""
    state = tensors()
    old = KINDS[name](state)
    url = s3.put(f"run/{name}", old, Metadata={"owner": "ann"}, ContentType="application/x-weights")
    declare(project, "a1", RENAME)
    ran = project.ok("upgrade", "head", url)
    assert url in ran.out and f"{url}.bak" in ran.out
    assert equal(loaded(s3.get(f"run/{name}")), renamed(state))
    assert s3.names() == [f"run/{name}", f"run/{name}.bak"]
    assert s3.get(f"run/{name}.bak") == old
    for key in s3.names():
        head = s3.client.head_object(Bucket=BUCKET, Key=key)
        assert (head["Metadata"], head["ContentType"]) == ({"owner": "ann"}, "application/x-weights")
    assert project.ok("current", url).out.split()[1:2] == ["a1"]
    project.ok("downgrade", "base", url)
    assert equal(loaded(s3.get(f"run/{name}")), state)
    assert s3.names() == [f"run/{name}", f"run/{name}.bak", f"run/{name}.bak1"]
    assert sorted(os.listdir(project.path)) == ["ckpt-migrate.toml", "versions"]


@pytest.mark.parametrize(
    ("name", "words", "most"),
    [
        ("model.safetensors", ("inspect",), 3),
        ("model.safetensors", ("current",), 3),
        ("model.safetensors", ("history",), 2),
        ("model.safetensors", ("upgrade", "head", "--dry-run"), 3),
        ("model.safetensors", ("check",), 6),
        ("last.ckpt", ("inspect",), 4),
        ("last.ckpt", ("current",), 4),
        ("last.ckpt", ("history",), 3),
        ("last.ckpt", ("upgrade", "head", "--dry-run"), 4),
        ("last.ckpt", ("check",), 8),
    ],
)
def test_reading_commands_fetch_headers_only(
    project: Folder, s3: S3, name: str, words: tuple[str, ...], most: int
) -> None:
    """Of 8 MB in 40 tensors, the first and the last 64 KiB are enough. One request lists the neighbours."""
    state = {f"layer{number}.weight": torch.zeros(50_000) for number in range(40)}
    url = s3.put(name, KINDS[name]({**state, "a.weight": torch.ones(2)}))
    declare(project, "a1", RENAME)
    with s3.count() as requests:
        project.run(*words, url)
    assert len(requests) <= most
    assert sum(each.received for each in requests) < 300_000
    assert all(each.status < 300 for each in requests)


def test_an_archive_with_a_long_table_of_contents(project: Folder, s3: S3) -> None:
    """2,000 tensors: pickle and table of contents are longer than a block, and come whole."""
    url = s3.put("last.ckpt", torch_zip({f"layer{number}.weight": torch.zeros(64) for number in range(2000)}))
    with s3.count() as requests:
        assert len(project.ok("inspect", url, "--json").lines[0]["tensors"]) == 2000
    assert len(requests) <= 9


@pytest.mark.parametrize("name", KINDS)
def test_a_rename_of_25_mb_uploads_the_header_and_one_part(project: Folder, s3: S3, name: str) -> None:
    state = tensors(24)
    url = s3.put(name, KINDS[name](state))
    declare(project, "a1", RENAME)
    with s3.count() as requests:
        project.ok("upgrade", "head", url)
    assert sum(each.sent for each in requests) <= 5 * MIB + 10_000
    assert sum(each.received for each in requests) <= 6 * MIB
    assert equal(loaded(s3.get(name)), renamed(state))


@pytest.mark.parametrize("name", KINDS)
def test_operations_on_content_fetch_the_tensors_that_they_need(project: Folder, s3: S3, name: str) -> None:
    """A cast of one tensor (1 MiB of 16), and a fuse of two small ones."""
    small = {"q.weight": torch.randn(4, 6), "k.weight": torch.randn(4, 6)}
    state = {**tensors(16), **small}
    url = s3.put(name, KINDS[name](state))
    declare(
        project, "a1", 'op.Cast("layer0.weight", dtype="float64")',
        'op.Fuse(["q.weight", "k.weight"], "qk.weight", dim=1)',
    )  # fmt: skip
    with s3.count() as requests:
        project.ok("upgrade", "head", url)
    assert sum(each.received for each in requests) <= 7 * MIB
    now = loaded(s3.get(name))
    assert torch.equal(now["layer0.weight"], state["layer0.weight"].double())
    assert torch.equal(now["qk.weight"], torch.cat(list(small.values()), 1))
    assert torch.equal(now["layer15.weight"], state["layer15.weight"])
    project.ok("downgrade", "base", url)
    assert torch.equal(loaded(s3.get(name))["k.weight"], small["k.weight"])


def test_a_function_that_writes_into_a_tensor(project: Folder, s3: S3) -> None:
    """Small tensors share pages: what was not fetched beside a changed one must not become zeros."""
    state = {f"layer{number}.weight": torch.full((100,), float(number + 1)) for number in range(50)}
    url = s3.put("last.ckpt", torch_zip(state))
    project.script("a1", migrate='ckpt["state_dict"]["layer20.weight"].mul_(2)', rollback="pass")
    project.ok("upgrade", "head", url)
    now = loaded(s3.get("last.ckpt"))
    assert equal(now, {**state, "layer20.weight": state["layer20.weight"] * 2})


def test_diff_of_values_and_verify(project: Folder, s3: S3) -> None:
    state = tensors()
    old, new = (s3.put(f"{name}.ckpt", torch_zip(each)) for name, each in (("old", state), ("new", renamed(state))))
    assert "a.weight" in project.ok("diff", old, new).out
    content = bytearray(torch_zip(state))
    content[len(content) // 2] ^= 1
    ran = project.run("inspect", "--verify", s3.put("damaged.ckpt", bytes(content)))
    assert "layer1.weight" in ran.out + ran.err
    assert "is damaged" in project.run("upgrade", "head", "--verify", f"s3://{BUCKET}/damaged.ckpt").err


@pytest.mark.parametrize("name", KINDS)
def test_to_and_from_a_local_file(project: Folder, s3: S3, name: str) -> None:
    state = tensors()
    url = s3.put(name, KINDS[name](state))
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", url, "--output", f"new-{name}")
    local = project.path / f"new-{name}"
    assert equal(loaded(local.read_bytes()), renamed(state))
    (project.path / "usual").touch()
    assert local.stat().st_mode == (project.path / "usual").stat().st_mode
    project.ok("downgrade", "base", local, "--output", f"s3://{BUCKET}/back/{name}")
    assert equal(loaded(s3.get(f"back/{name}")), state)
    project.ok("upgrade", "head", url, "--output", f"s3://{BUCKET}/beside-{name}")
    assert equal(loaded(s3.get(f"beside-{name}")), renamed(state))
    assert s3.names() == sorted([name, f"back/{name}", f"beside-{name}"])
    assert loaded(s3.get(name)).keys() == state.keys()


def test_load_and_upgraded(project: Folder, s3: S3) -> None:
    state = tensors(1)
    declare(project, "a1", RENAME)
    for name, make in KINDS.items():
        url = s3.put(name, make(state))
        found = cm.load(url)
        assert equal(found.get("state_dict", found), renamed(state))
        with cm.upgraded(url) as path:
            assert equal(loaded(path.read_bytes()), renamed(state))
        with cm.upgraded(url, "base") as path:  # nothing to do, and still a local file
            assert equal(loaded(path.read_bytes()), state)
        assert s3.get(name) == make(state)


def test_an_earlier_state_is_restored(project: Folder, s3: S3) -> None:
    """A file that was written in place holds its earlier bytes; so does its object."""
    path = project.path / "last.ckpt"
    path.write_bytes(torch_zip(tensors()))
    before = path.read_bytes()
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", path, "--in-place")
    url = s3.put("last.ckpt", path.read_bytes())
    project.ok("downgrade", "base", url)
    assert s3.get("last.ckpt") == before
    ran = project.ok("compact", s3.put("last.ckpt", path.read_bytes()), "--json")
    assert ran.lines[0]["after"] == len(s3.get("last.ckpt"))


def test_in_place_is_refused(project: Folder, s3: S3) -> None:
    url = s3.put("last.ckpt", torch_zip(tensors()))
    declare(project, "a1", RENAME)
    before = s3.get("last.ckpt")
    ran = project.run("upgrade", "head", url, "--in-place")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "it is an object in a store, which is only ever replaced as a whole; leave out --in-place" in ran.err
    assert (s3.get("last.ckpt"), s3.names()) == (before, ["last.ckpt"])
    project.ok("upgrade", "head", url)
    project.ok("recover", url)


# Other writers


def replaced_by_another(s3: S3, name: str, content: bytes, when: Any) -> None:
    """Let another program replace an object just before the first request for which `when` holds is answered."""

    def replace(request: Any) -> None:
        if when(request):
            s3.before = None
            s3.put(name, content)

    s3.before = replace


@pytest.mark.parametrize("backup", [True, False], ids=["backup", "no backup"])
@pytest.mark.parametrize(
    ("mib", "when"),
    [(8, lambda each: each.method == "POST" and "uploadId" in each.query and not each.path.endswith(".bak")),
     (8, lambda each: each.method == "PUT" and "partNumber=2" in each.query),
     (0, lambda each: each.method == "PUT" and not each.query)],
    ids=["upload completed", "part copied", "small object put"],
)  # fmt: skip
def test_the_slower_of_two_writers_changes_nothing(project: Folder, s3: S3, mib: int, when: Any, backup: bool) -> None:
    state, other = tensors(mib), safetensors({"other.weight": torch.ones(3)})
    url = s3.put("model.safetensors", safetensors(state))
    declare(project, "a1", RENAME)
    replaced_by_another(s3, "model.safetensors", other, when)
    ran = project.run("upgrade", "head", url, *(() if backup else ("--no-backup",)))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{url}: another program changed the object in the meantime; run the command again" in ran.err
    assert (s3.get("model.safetensors"), s3.names()) == (other, ["model.safetensors"])


def test_two_writers_of_a_new_object(project: Folder, s3: S3) -> None:
    """The condition of the last request decides, not the look before."""
    other, new = safetensors({"other.weight": torch.ones(3)}), f"s3://{BUCKET}/new.safetensors"
    url = s3.put("model.safetensors", safetensors(tensors(8)))
    declare(project, "a1", RENAME)
    replaced_by_another(s3, "new.safetensors", other, lambda each: each.method == "POST" and "uploadId" in each.query)
    ran = project.run("upgrade", "head", url, "--output", new)
    assert (ran.code, f"{new} exists already; remove it or write elsewhere" in ran.err) == (1, True)
    assert s3.get("new.safetensors") == other
    ran = project.run("upgrade", "head", url, "--output", new)
    assert (ran.code, f"{new} exists already; remove it or write elsewhere" in ran.err) == (1, True)


def test_two_backups_at_once(project: Folder, s3: S3) -> None:
    """The name of a backup is taken just before: the next one is used, and nothing is overwritten."""
    url = s3.put("model.safetensors", safetensors(tensors()))
    declare(project, "a1", RENAME)
    replaced_by_another(
        s3, "model.safetensors.bak", b"theirs", lambda each: each.method == "POST" and each.path.endswith(".bak")
    )
    project.ok("upgrade", "head", url)
    assert s3.get("model.safetensors.bak") == b"theirs"
    assert equal(loaded(s3.get("model.safetensors.bak1")), tensors())


@pytest.mark.parametrize("name", KINDS)
def test_an_object_that_changes_while_it_is_read(project: Folder, s3: S3, name: str) -> None:
    """The second range would be that of another object."""
    state = {f"layer{number}.weight": torch.zeros(64) for number in range(2000)}
    url = s3.put(name, KINDS[name](state))
    seen: list[Any] = []

    def second(request: Any) -> bool:
        seen.extend([request] * (request.method == "GET" and not request.query))
        return len(seen) == 2

    replaced_by_another(s3, name, KINDS[name](renamed({**state, "a.weight": torch.ones(1)})), second)
    ran = project.run("inspect", url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "another program changed the object in the meantime; run the command again" in ran.err


# Refusals of the store


@pytest.mark.parametrize(
    ("refused", "word"),
    [(("GET", ""), "read"), (("PUT", "partNumber=1"), "write"), (("PUT", "partNumber=2"), "write"),
     (("POST", "uploadId"), "write"), (("POST", "uploads"), "write")],
    ids=["read", "uploaded part", "copied part", "completed", "begun"],
)  # fmt: skip
def test_no_permission(project: Folder, s3: S3, refused: tuple[str, str], word: str) -> None:
    old = safetensors(tensors(8))
    url = s3.put("model.safetensors", old)
    declare(project, "a1", RENAME)
    s3.before = lambda each: (
        "AccessDenied" if each.method == refused[0] and refused[1] in each.query and "list" not in each.query else None
    )
    ran = project.run("upgrade", "head", url, "--no-backup")
    s3.before = None
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{url}: the store does not let you {word}" in ran.err
    assert "(permission denied); check your credentials" in ran.err
    assert (s3.get("model.safetensors"), s3.names()) == (old, ["model.safetensors"])


def test_ctrl_c_leaves_nothing_behind(project: Folder, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    from anemoi_ckpt_migrate.storage.remote.s3_store import S3Store

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    old = safetensors(tensors(8))
    url = s3.put("model.safetensors", old)
    declare(project, "a1", RENAME)
    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "_check_version", interrupted)  # when all parts are there
        assert project.run("upgrade", "head", url).code == 130
    assert (s3.get("model.safetensors"), s3.names(), s3.uploads()) == (old, ["model.safetensors"], [])


@pytest.mark.parametrize("url", [f"s3://{BUCKET}/nothing.ckpt", "s3://no-such-bucket/last.ckpt"])
def test_nothing_there(project: Folder, s3: S3, url: str) -> None:
    project.script("a1")
    for words in (["inspect"], ["current"], ["upgrade", "head"], ["stamp", "head"], ["compact"]):
        ran = project.run(*words, url)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert f"{url}: there is no such object, or no such bucket" in ran.err


def test_no_such_bucket_to_write_to(project: Folder, s3: S3) -> None:
    url = s3.put("last.ckpt", torch_zip(tensors(0)))
    declare(project, "a1", RENAME)
    ran = project.run("upgrade", "head", url, "--output", "s3://no-such-bucket/last.ckpt")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "there is no bucket for s3://no-such-bucket/last.ckpt; make it, or write elsewhere with --output" in ran.err


def test_a_library_without_conditional_writes(project: Folder, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a parameter that botocore does not know, s3fs says nothing: the write would have no condition."""
    from anemoi_ckpt_migrate.storage.remote import s3_store

    old = safetensors(tensors(0))
    url = s3.put("model.safetensors", old)
    declare(project, "a1", RENAME)
    monkeypatch.setattr(s3_store, "_CONDITIONS", {"IfMatch", "IfNothingElse"})  # one that botocore really lacks
    ran = project.run("upgrade", "head", url, "--no-backup")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "knows no conditional writes" in ran.err
    assert "run `pip install --upgrade s3fs botocore`" in ran.err
    assert (s3.get("model.safetensors"), s3.names()) == (old, ["model.safetensors"])


def test_no_room_for_temporary_files(project: Folder, s3: S3) -> None:
    """A limit on the size of files stands for a full disk."""
    old = safetensors(tensors(8))
    url = s3.put("model.safetensors", old)
    declare(project, "a1", RENAME)
    limits = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))"
    for words in (["inspect", url], ["upgrade", "head", url]):
        code = f"{limits}\nimport sys\nfrom anemoi_ckpt_migrate import cli\nsys.exit(cli.main({words!r}))"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
        assert "its bytes go to the folder of temporary files, which refuses them (file too large)" in ran.stderr
        assert "set TMPDIR to another" in ran.stderr
    assert (s3.get("model.safetensors"), s3.names()) == (old, ["model.safetensors"])


# Sets of files


def test_a_member_of_a_set_is_refused(project: Folder, s3: S3) -> None:
    project.script("a1")
    content = safetensors(tensors(0))
    url = s3.put("run/model-00001-of-00002.safetensors", content)
    ran = project.run("upgrade", "head", url)
    assert (ran.code, f"(s3://{BUCKET}/run/model-*-of-00002.safetensors)" in ran.err) == (3, True)
    s3.put("set/model.safetensors.index.json", b'{"weight_map": {"a.weight": "first.safetensors"}}')
    url = s3.put("set/first.safetensors", content)
    ran = project.run("upgrade", "head", url)
    assert (ran.code, f"(s3://{BUCKET}/set/model.safetensors.index.json)" in ran.err) == (3, True)
    assert f"part of a sharded checkpoint (s3://{BUCKET}/set/" in project.ok("inspect", url).err
    s3.put("dcp/.metadata", b"")
    url = s3.put("dcp/__0_0.distcp", torch_zip({}))
    ran = project.run("upgrade", "head", url)
    assert (ran.code, f"give its folder, s3://{BUCKET}/dcp" in ran.err) == (3, True)


def hub(s3: S3) -> tuple[str, dict[str, Any]]:
    """Put a folder of Hugging Face in two shards."""
    state = tensors(4)
    homes = {name: f"model-0000{1 + (name == 'a.weight')}-of-00002.safetensors" for name in state}
    for file in set(homes.values()):
        s3.put(f"llama/{file}", safetensors({name: state[name] for name, home in homes.items() if home == file}))
    index = {"metadata": {"total_size": sum(each.nbytes for each in state.values())}, "weight_map": homes}
    s3.put("llama/model.safetensors.index.json", json.dumps(index).encode())
    s3.put("llama/config.json", b'{"model_type": "llama"}')
    s3.put("llama/runs/events.log", b"step 1")
    return f"s3://{BUCKET}/llama", state


@pytest.mark.parametrize("end", ["", "/", "/model.safetensors.index.json"])
def test_a_folder_of_hugging_face_is_read(project: Folder, s3: S3, end: str) -> None:
    url, state = hub(s3)
    declare(project, "a1", RENAME)
    with s3.count() as requests:
        assert len(project.ok("inspect", url + end, "--json").lines[0]["tensors"]) == 5
    assert sum(each.received for each in requests) < 200_000
    assert len(requests) <= 13
    assert project.run("check", url + end).code == 4
    found = cm.load(url + end)
    assert equal(found, renamed(state))


def test_a_folder_of_hugging_face_is_written_to_a_local_folder(project: Folder, s3: S3) -> None:
    """Not to another prefix, and the message names the way."""
    url, state = hub(s3)
    declare(project, "a1", RENAME)
    objects = {name: s3.get(name) for name in s3.names()}
    ran = project.run("upgrade", "head", url, "--output", f"s3://{BUCKET}/other")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "give a local folder to --output, and upload that" in ran.err
    assert {name: s3.get(name) for name in s3.names()} == objects
    project.ok("upgrade", "head", url, "--output", "llama")
    found: dict[str, Any] = {}
    for shard in sorted((project.path / "llama").glob("*.safetensors")):
        found |= library.load_file(shard)
    assert equal(found, renamed(state))
    assert (project.path / "llama" / "config.json").read_bytes() == objects["llama/config.json"]
    assert (project.path / "llama" / "runs" / "events.log").read_bytes() == b"step 1"
    project.ok("downgrade", "base", "llama")


def test_other_folders(project: Folder, s3: S3) -> None:
    s3.put("dcp/.metadata", b"")
    ran = project.run("inspect", f"s3://{BUCKET}/dcp")
    assert (ran.code, "its .metadata is damaged" in ran.err) == (1, True)
    s3.put("logs/events.log", b"")
    assert project.run("inspect", f"s3://{BUCKET}/logs").code == 2
