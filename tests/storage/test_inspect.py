"""What is in a checkpoint, as facts, as JSON and as a picture; nothing that it names is run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.storage import open_checkpoint
from tests.support.project import DATA, RENAME, Folder, digest


def flip(checkpoint: Path, name: str) -> None:
    """Flip one bit in the content of a record."""
    from anemoi_ckpt_migrate.storage import zip_archive

    with open_checkpoint(checkpoint) as file, file._stream() as stream:
        at = zip_archive.payload_offset(stream, file._archive.entries[name])
    with checkpoint.open("r+b") as raw:
        raw.seek(at)
        byte = raw.read(1)[0]
        raw.seek(at)
        raw.write(bytes([byte ^ 4]))


def test_the_facts() -> None:
    found = cm.inspect(DATA / "lightning.ckpt")
    assert (found.facts.format, found.facts.byteorder, found.facts.protocol) == ("torch zip", "little", 2)
    assert found.facts.size == (DATA / "lightning.ckpt").stat().st_size
    assert (found.facts.dead, found.facts.unchecked, found.facts.interrupted, found.facts.unused) == (0, 0, False, ())
    assert (found.record, found.damaged) == (None, None)
    weight = found.tensors[0]
    assert (weight.path, weight.dtype, weight.shape, weight.size) == (
        "state_dict.model.x.weight",
        "float32",
        (4, 4),
        64,
    )
    assert list(found.shared.values()) == [["state_dict.model.x.weight", "state_dict.model.tied.weight"]]
    (optimizer,) = found.optimizers
    assert (optimizer.path, optimizer.groups, optimizer.parameters) == ("optimizer_states.0", 1, 4)
    assert optimizer.states == ("step", "exp_avg", "exp_avg_sq")
    assert {name.standing for name in found.names} == {"known"}
    assert found.tree.size == sum({t.storages: t.size for t in found.tensors}.values())


def test_the_facts_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    state = torch.load(DATA / "lightning.ckpt", weights_only=True)["state_dict"]
    found = {t.path.removeprefix("state_dict."): t for t in cm.inspect(DATA / "lightning.ckpt").tensors}
    for name, tensor in state.items():
        assert found[name].shape == tuple(tensor.shape)
        assert f"torch.{found[name].dtype}" == str(tensor.dtype)
        assert found[name].size == tensor.untyped_storage().nbytes()


def test_dtypes_and_kinds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "kinds.pt"
    tree = {
        "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
        "c": torch.ones(2, dtype=torch.complex64),
        "f8": torch.ones(4).to(torch.float8_e4m3fn),
        "u16": torch.ones(4, dtype=torch.uint16),
        "sparse": torch.eye(3).to_sparse(),
        "q": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "meta": torch.ones(7, device="meta"),
        "empty": torch.empty(0),
    }
    torch.save(tree, path)
    found = {t.path: t for t in cm.inspect(path).tensors}
    for name, tensor in tree.items():
        assert f"torch.{found[name].dtype}" == str(tensor.dtype), name
        assert found[name].shape in (tuple(tensor.shape), None)
    assert found["parameter"].kind == "parameter"
    assert found["sparse"].kind == "sparse_tensor"
    assert len(found["sparse"].storages) == 2


def test_json(project: Folder) -> None:
    project.script("a1", None, **RENAME, name="rename x to y")
    checkpoint = project.copy()
    project.ok("upgrade", "head", "--in-place", checkpoint)
    (found,) = project.ok("inspect", "--json", "--verify", checkpoint).lines
    assert found["checkpoint"] == str(checkpoint)
    assert found["dead"] > 0
    assert found["record"]["heads"] == ["a1"]
    assert found["record"]["lineage"][0]["revision"] == "a1"
    assert found["damaged"] == []
    assert found["attached"] == {"ckpt_migrate/previous.json": pytest.approx(80, abs=20)}
    state_dict = next(child for child in found["tree"]["children"] if child["name"] == "state_dict")
    assert {"name": "x.bias", "what": "tensor", "dtype": "float32", "shape": [4], "size": 16} in state_dict["children"]


def test_the_picture(project: Folder) -> None:
    project.script("a1", None, **RENAME, name="rename x to y")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    out = project.ok("inspect", "--verify", checkpoint).out
    for part in (
        "torch zip, little-endian, pickle protocol 2, checksums",
        "at a1 (rename x to y), 1 revisions applied",
        "│  └─ weight",
        "float32 4x4",
        "█",
        "optimizer  optimizer_states.0: ",
        "shared     data/0: state_dict.",
        "verified   all checksums match",
    ):
        assert part in out, part
    assert len(project.ok("inspect", "--depth", 1, checkpoint).out) < len(out)
    assert project.run("inspect", "--depth", 0, checkpoint).code == 2


def test_many_children_are_counted_not_listed(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"layers": {f"w{i}": torch.ones(10) for i in range(1000)}}, "many.pt")
    out = project.ok("inspect", "many.pt").out
    assert len(out.splitlines()) < 30
    assert "… 989 more" in out
    assert "w999" in out


def test_names_cannot_steer_the_terminal(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"\x1b[31mred": torch.ones(1), "[bold]x[/nothing]": torch.ones(1)}, "hostile.pt")
    out = project.ok("inspect", "hostile.pt").out
    assert "\x1b" not in out
    assert "[bold]x[/nothing]" in out


class Danger:
    """What runs a command when it is unpickled by something that imports."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_what_the_names_could_do(project: Folder, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tree = {"w": torch.ones(1), "layer": torch.nn.Linear(2, 2), "bad": Danger(tmp_path / "ran"), "path": Path("x")}
    torch.save(tree, "names.pt")
    (project.path / "ckpt-migrate.toml").write_text('trusted = ["pathlib"]\n')
    (found,) = project.ok("inspect", "--json", "names.pt").lines
    standing = {entry["name"]: entry["standing"] for entry in found["classes"]}
    assert standing["torch._utils._rebuild_tensor_v2"] == "known"
    assert standing["torch.FloatStorage"] == "known"
    assert standing["torch.nn.modules.linear.Linear"] == "opaque"
    assert standing["posix.system"] == "dangerous"
    assert standing["pathlib.PosixPath"] == "trusted"
    assert not (tmp_path / "ran").exists()
    assert "dangerous  posix.system" in project.ok("inspect", "names.pt").out


@pytest.mark.parametrize("record", ["data/0", "version", "data/3"])
def test_a_flipped_bit_is_named(project: Folder, record: str) -> None:
    checkpoint = project.copy("lightning.ckpt")
    flip(checkpoint, record)
    before = digest(checkpoint)
    project.ok("inspect", checkpoint)  # nobody asked
    ran = project.run("inspect", "--verify", checkpoint)
    assert (ran.code, f"damaged (wrong checksum): {record}" in ran.err) == (1, True)
    ran = project.run("inspect", "--verify", "--json", checkpoint)
    (damage,) = ran.lines[0]["damaged"]
    assert (ran.code, damage["record"]) == (1, record)
    if record == "data/0":
        assert damage["tensors"] == ["state_dict.model.x.weight", "state_dict.model.tied.weight"]
    assert cm.inspect(checkpoint, verify=True).damaged
    assert digest(checkpoint) == before


@pytest.mark.parametrize(
    "words", [("upgrade", "head"), ("upgrade", "head", "--in-place"), ("stamp", "head"), ("compact",)]
)
def test_a_flipped_bit_is_not_copied_when_asked_to_verify(project: Folder, words: tuple[str, ...]) -> None:
    project.script("a1", None, 'ckpt["note"] = 1')
    checkpoint = project.copy("lightning.ckpt")
    flip(checkpoint, "data/2")
    before = digest(checkpoint)
    ran = project.run(*words, "--verify", checkpoint)
    assert (ran.code, "data/2 is damaged (wrong checksum)" in ran.err) == (1, True)
    assert digest(checkpoint) == before
    assert [path.name for path in project.path.iterdir() if "lightning" in path.name] == ["lightning.ckpt"]


def test_a_flipped_bit_in_what_a_migration_looks_at(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    project.script("a1", None, 'ckpt["norm"] = float(ckpt["w1"].sum())')
    # Far apart: the kernel maps a file by sixteen pages at a time.
    torch.save({f"w{i}": torch.ones(100_000) for i in range(5)}, "last.ckpt")
    checkpoint = project.path / "last.ckpt"
    sound = shutil.copy(checkpoint, project.path / "sound.ckpt")
    flip(checkpoint, "data/1")
    before = digest(checkpoint)
    ran = project.run("upgrade", "head", checkpoint)
    assert (ran.code, "data/1 is damaged (wrong checksum)" in ran.err) == (1, True)
    assert digest(checkpoint) == before
    flip(Path(sound), "data/4")
    project.ok("upgrade", "head", sound)  # nobody looked at that one


def test_files_without_checksums(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    config = pytest.importorskip("torch.utils.serialization").config
    project.script("a1", None, **RENAME)
    config.save.compute_crc32 = False
    try:
        torch.save({"state_dict": {"x.weight": torch.ones(3)}}, "unchecked.pt")
    finally:
        config.save.compute_crc32 = True
    assert "no checksums" in project.ok("inspect", "--verify", "unchecked.pt").out
    project.ok("upgrade", "head", "--verify", "unchecked.pt")
    assert torch.load("unchecked.pt")["state_dict"]["y.weight"].sum() == 3


def test_an_interrupted_run_shows(project: Folder) -> None:
    from tests.support.in_place import interrupted

    checkpoint = project.copy()
    size = checkpoint.stat().st_size
    interrupted(checkpoint, os.urandom(70_000))
    ran = project.ok("inspect", "--json", checkpoint)
    assert (ran.lines[0]["interrupted"], ran.lines[0]["size"]) == (True, size)
    assert "the rest cannot be read: `recover` the file before you load it" in ran.err


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "UnknownContent"), (b"PK\3\4 and no end", "NotACheckpoint"), (b"\x80\x02}.", "ForeignFile")],
    ids=["empty", "cut", "a bare pickle"],
)
def test_what_is_no_checkpoint(project: Folder, content: bytes, kind: str) -> None:
    path = project.path / "odd.ckpt"
    path.write_bytes(content)
    ran = project.run("inspect", path, "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["error"]["type"] == kind


def test_a_damaged_record_is_a_warning(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": 1, "w": torch.ones(1), "ckpt_migrate": {"format": "?"}}, "odd.ckpt")
    ran = project.ok("inspect", "odd.ckpt")
    assert "the migration record in the checkpoint is damaged" in ran.err


@pytest.mark.parametrize("old", [False, True], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(
    "kind",
    [
        "tensor",
        "parameter",
        "buffer",
        "sparse",
        "list",
        "number",
        "text",
        "None",
        "storage",
        "dtype",
        "class",
        "module",
    ],
)
def test_a_file_that_is_no_dict(project: Folder, kind: str, old: bool) -> None:
    torch = pytest.importorskip("torch")
    made = {
        "tensor": lambda: torch.zeros(3, 4),
        "parameter": lambda: torch.nn.Parameter(torch.zeros(3, 4)),
        "buffer": lambda: torch.nn.Buffer(torch.zeros(3, 4)),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "list": lambda: [torch.zeros(3, 4), 5],
        "number": lambda: 5,
        "text": lambda: "hello",
        "None": lambda: None,
        "storage": lambda: torch.zeros(3).untyped_storage(),
        "dtype": lambda: torch.float32,
        "class": lambda: torch.nn.Linear,
        "module": lambda: torch.nn.Linear(2, 2),
    }[kind]()
    torch.save(made, "bare.pt", _use_new_zipfile_serialization=not old)
    project.ok("inspect", "bare.pt")
    project.ok("inspect", "--verify", "bare.pt")
    (line,) = project.ok("inspect", "--json", "bare.pt").lines
    shapes = [tensor["shape"] for tensor in line["tensors"]]
    assert shapes == {"sparse": [None], "module": [[2, 2], [2]]}.get(kind, [[3, 4]] if is_tensor(kind) else [])
    project.ok("current", "bare.pt")


def is_tensor(kind: str) -> bool:
    return kind in ("tensor", "parameter", "buffer", "list")
