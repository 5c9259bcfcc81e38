"""Distributed checkpoints that lie: one sentence, an exit code, and nothing is run, read outside, or changed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.distributed.checkpoint.metadata import (  # noqa: E402
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
)

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.distributed import as_one_file, save  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

TREE = {"model": {"a.weight": torch.ones(4, 2), "b.weight": torch.ones(3)}, "epoch": 3, "names": ["a", "b"]}


@pytest.fixture
def folder(project: Folder) -> Path:
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    return save(TREE, project.path / "ckpt")


def content(folder: Path) -> dict[str, str]:
    return {str(path): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(project: Folder, folder: Path, says: str, code: int = 1, *, reads: bool = False) -> None:
    """All commands refuse, with one sentence; reading ones too, unless only the content lies."""
    before = content(project.path)
    for words in (["upgrade", "head"], ["stamp", "head"], *([] if reads else [["inspect"], ["current"]])):
        ran = project.run(*words, folder)
        assert (ran.code, ran.err.count("\n"), says in ran.err) == (code, 1, True), (words, ran.err)
    assert content(project.path) == before


def changed(folder: Path, change: Callable[[Metadata], object]) -> None:
    """Change the metadata as whoever has torch can."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


WEIGHT = MetadataIndex("model.a.weight", [0, 0])


def place(**fields: Any) -> Callable[[Metadata], object]:
    return lambda metadata: vars(metadata.storage_data[WEIGHT]).update(fields)


def chunks(*boxes: tuple[list[int], list[int]]) -> Callable[[Metadata], object]:
    def change(metadata: Metadata) -> None:
        found = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes]
        metadata.state_dict_metadata["model.a.weight"].chunks[:] = found
        info = metadata.storage_data.pop(WEIGHT)
        metadata.storage_data |= {MetadataIndex("model.a.weight", offsets): info for offsets, _ in boxes}

    return change


def size(*sizes: int) -> Callable[[Metadata], object]:
    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata["model.a.weight"].size = torch.Size(sizes)
        metadata.state_dict_metadata["model.a.weight"].chunks[0].sizes = torch.Size(sizes)

    return change


def path(*keys: str | int) -> Callable[[Metadata], object]:
    return lambda metadata: metadata.planner_data.update({"model.a.weight": keys})


def renamed(old: str, new: str, *keys: str | int) -> Callable[[Metadata], object]:
    """Give a value another name and path, in all maps."""

    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata[new] = metadata.state_dict_metadata.pop(old)
        del metadata.planner_data[old]
        metadata.planner_data[new] = keys
        index = next(index for index in metadata.storage_data if index.fqn == old)
        metadata.storage_data[MetadataIndex(new, index.offset)] = metadata.storage_data.pop(index)

    return change


ATTACKS: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "a file beside the folder": (place(relative_path="../secret"), "which is not in the folder"),
    "a file far away": (place(relative_path="/etc/passwd"), "which is not in the folder"),
    "a file by way of the folder": (place(relative_path="x/../../secret"), "which is not in the folder"),
    "no file": (place(relative_path=""), "which is not in the folder"),
    "a file that is missing": (place(relative_path="__7_0.distcp"), "__7_0.distcp in it cannot be read (no such file"),
    "a place before the file": (place(offset=-1), "lie in an impossible place"),
    "a place that overflows": (place(offset=1 << 62, length=1 << 62), "lie in an impossible place"),
    "a place behind the end": (place(offset=1 << 40), "is not where its .metadata says"),
    "a place that is text": (place(offset="0"), "lie in an impossible place"),
    "a place that is true": (place(length=True), "lie in an impossible place"),
    "an overlap": (chunks(([0, 0], [3, 2]), ([2, 0], [2, 2])), "overlap, leave a gap, or reach beyond"),
    "an overlap that makes up for a gap": (chunks(([0, 0], [2, 2]), ([1, 0], [2, 2])), "overlap, leave a gap"),
    "a gap": (chunks(([0, 0], [3, 2])), "overlap, leave a gap, or reach beyond"),
    "a chunk beyond the shape": (chunks(([0, 0], [4, 2]), ([4, 0], [4, 2])), "overlap, leave a gap, or reach beyond"),
    "a chunk of another rank": (chunks(([0], [8])), "overlap, leave a gap, or reach beyond"),
    "no chunks": (chunks(), "overlap, leave a gap, or reach beyond"),
    "a shape that overflows": (size(1 << 40, 1 << 40), "is larger than any tensor"),
    "a huge size": (size(1 << 62, 0), "a size or an offset of model.a.weight is impossible"),
    "a name without a file": (lambda it: it.storage_data.pop(WEIGHT), "no file holds the chunk of model.a.weight"),
    "a value without a file": (lambda it: it.storage_data.pop(MetadataIndex("epoch")), "no file holds epoch"),
    "a file without a name": (lambda it: it.state_dict_metadata.pop("model.a.weight"), "names model.a.weight"),
    "a chunk too many": (lambda it: it.storage_data.update({MetadataIndex("epoch", [9]): it.storage_data[WEIGHT]}), "names a chunk of epoch that the tensor does not have"),
    "a name without a path": (lambda it: it.planner_data.pop("epoch"), "do not both name epoch"),
    "a path without a name": (lambda it: it.planner_data.update({"more": ("more",)}), "do not both name more"),
    "a stale path": (path("model", "old.weight"), "the path of model.a.weight leads to model.old.weight"),
    "an empty path": (path(), "the plan of another planner"),
    "a path of something else": (path("model", None), "is not made of keys and indices"),  # type: ignore[arg-type]
    "an impossible index": (renamed("epoch", "epochs.99999999", "epochs", 99_999_999), "there is an impossible index"),
    "a value below another": (renamed("names", "epoch.x", "epoch", "x"), "a value lies above epoch.x"),
    "a list and a dict in one place": (renamed("names", "model.0", "model", 0), "two paths disagree at model.0"),
    "no map of tensors": (lambda it: setattr(it, "state_dict_metadata", None), "it has no map of tensors"),
    "no map of files": (lambda it: setattr(it, "storage_data", []), "it has no map of files"),
    "a tensor of no kind": (lambda it: it.state_dict_metadata.update(epoch=3), "epoch is neither a tensor nor another value"),
    "a tensor without a dtype": (lambda it: setattr(it.state_dict_metadata["model.a.weight"], "properties", None), "has no dtype"),
    "another plan": (lambda it: setattr(it, "planner_data", [1]), "the plan of another planner"),
    "a transformation of no kind": (place(transform_descriptors=3), "transformed in an unknown way"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_metadata_that_lie(project: Folder, folder: Path, attack: str) -> None:
    change, says = ATTACKS[attack]
    changed(folder, change)
    refused(project, folder, says)


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "says"),
    [((os.system, "touch run"), "posix.system"), ((eval, "1"), "eval"), ((getattr, Metadata, "x"), "getattr")],
)
@pytest.mark.parametrize("field", ["planner_data", "storage_meta", "anything"])
def test_a_payload_in_the_metadata(project: Folder, folder: Path, call: Any, says: str, field: str) -> None:
    """torch would run it. Here it is named, and nothing runs."""
    changed(folder, lambda metadata: setattr(metadata, field, {"x": Evil(*call)}))
    refused(project, folder, says)
    refused(project, folder, "torch would import it, and may run it")
    assert not (project.path / "run").exists()


SPELLED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is cut off"),
    "text": (b"metadata", "it holds the opcode 0x6d"),
    "a number": (b"\x80\x04K\x01.", "the object is no Metadata"),
    "a huge memo index": (b"\x80\x04Nr\xff\xff\xff\xff.", "it numbers an object out of turn"),
    "a huge length": (b"\x80\x04X\xff\xff\xff\xff.", "it is cut off"),
    "an unknown opcode": (b"\x80\x04N0.", "it holds the opcode 0x30"),
    "a deep tuple as a key": (b"\x80\x04}(" + b")" + b"\x85" * 100_000 + b"Nu.", "neither a text nor an index"),
    "a deep list": (b"\x80\x04" + b"(" * 100_000 + b"]" + b"l" * 100_000 + b".", "it holds the opcode"),
    "the state of a class": (b"\x80\x04\x8c\x05torch\x8c\x04Size\x93Nb.", "it sets the state of an object twice"),
    "a call of text": (b"\x80\x04\x8c\x01x)R.", "it calls something else than a class"),
    "a key twice": (b"\x80\x04}(\x8c\x01xN\x8c\x01xNu.", "holds a key twice"),
    "a pop below a mark": (b"\x80\x04N(a.", "it is cut off"),
    "no UTF-8": (b"\x80\x04\x8c\x01\xff.", "it is cut off, or spelled in an unknown way"),
    "a zip archive": (b"PK\x03\x04" + bytes(100), "it holds the opcode 0x50"),
}


@pytest.mark.parametrize("kind", SPELLED)
def test_metadata_that_are_none(project: Folder, folder: Path, kind: str) -> None:
    data, says = SPELLED[kind]
    (folder / ".metadata").write_bytes(data)
    refused(project, folder, says)


def test_metadata_cut_off_anywhere(project: Folder, folder: Path) -> None:
    data = (folder / ".metadata").read_bytes()
    for end in range(0, len(data), 7):
        (folder / ".metadata").write_bytes(data[:end])
        ran = project.run("current", folder)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err


def test_a_deeply_nested_attribute(project: Folder, folder: Path) -> None:
    def nest(metadata: Any) -> None:
        metadata.more = []
        for _ in range(300):
            metadata.more = [metadata.more]

    changed(folder, nest)
    refused(project, folder, "nested too deeply", reads=True)


def test_a_billion_laughs(project: Folder, folder: Path) -> None:
    """Shared lists are written once, so the metadata do not grow."""

    def laugh(metadata: Any) -> None:
        metadata.more = ["ha"]
        for _ in range(40):
            metadata.more = [metadata.more, metadata.more]

    changed(folder, laugh)
    project.ok("upgrade", "head", folder)
    assert (folder / ".metadata").stat().st_size < 20_000


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata"])
def test_a_link_that_leads_out(project: Folder, folder: Path, file: str) -> None:
    (folder / file).rename(project.path / "outside")
    (folder / file).symlink_to("../outside")
    refused(project, folder, "is a link that leads out of the folder", 3)


def test_a_file_that_is_no_file(project: Folder, folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    os.mkfifo(folder / "__0_0.distcp")
    refused(project, folder, "__0_0.distcp in it is not a regular file")


def test_a_file_cut_off(project: Folder, folder: Path) -> None:
    os.truncate(folder / "__0_0.distcp", 3000)
    refused(project, folder, "was it cut off, or does it belong to another checkpoint?")


def test_a_file_of_another_generation(project: Folder, folder: Path) -> None:
    other = save({**TREE, "names": ["a"] * 300}, project.path / "other")
    shutil.copy(other / "__0_0.distcp", folder / "__0_0.distcp")
    refused(project, folder, "was it cut off, or does it belong to another checkpoint?")


def test_two_sets_of_weights(project: Folder, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"{}")
    refused(project, folder, "it has two sets of weights, .metadata and model.safetensors", 3)


def test_a_folder_of_that_name_is_no_metadata(project: Folder) -> None:
    """Editors keep settings under such a name."""
    (project.path / "work" / ".metadata").mkdir(parents=True)
    refused(project, project.path / "work", "not a checkpoint", 2)


def test_a_payload_in_a_value(project: Folder) -> None:
    """As in a file of torch: it is named, it is not run, and it may move."""
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    folder = save({**TREE, "hook": Evil(os.system, "touch run")}, project.path / "ckpt")
    (project.path / "run").unlink(missing_ok=True)
    found = {name.name: name.standing for name in cm.inspect(folder).names}
    assert found["posix.system"] == "dangerous"
    project.ok("upgrade", "head", folder)
    assert not (project.path / "run").exists()


def damaged_at(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of one tensor or value."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == name)
    data = bytearray((folder / info.relative_path).read_bytes())
    range_ = slice(info.offset, info.offset + info.length)
    new = change(bytes(data[range_]))
    assert len(new) == info.length
    data[range_] = new
    (folder / info.relative_path).write_bytes(data)


def test_a_damaged_value(project: Folder, folder: Path) -> None:
    damaged_at(folder, "names", lambda data: data.replace(b"PK\1\2", b"XX\1\2"))
    refused(project, folder, "names in __0_0.distcp cannot be read")


def test_bytes_before_a_value(project: Folder, folder: Path) -> None:
    """torch.load would run what stands in front of the archive."""
    damaged_at(folder, "names", lambda data: b"\x80\x04K" + data[3:])
    refused(project, folder, "names in __0_0.distcp")


def test_a_damaged_tensor(project: Folder, folder: Path) -> None:
    """A rename does not read it; `inspect --verify` and a cast do."""
    ones = torch.ones(8).numpy().tobytes()
    damaged_at(folder, "model.a.weight", lambda data: data.replace(ones, ones[:-1] + b"\0"))
    assert [damage.tensors for damage in cm.inspect(folder, verify=True).damaged or ()] == [("model.a.weight",)]
    declare(project, "b2", 'op.Cast("c.weight", "float64")', parents="a1")
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "wrong checksum" in ran.err) == (1, True), ran.err
    assert content(folder) == before
    project.ok("upgrade", "a1", folder)


def test_a_tensor_that_is_none(project: Folder, folder: Path) -> None:
    """The metadata call a chunk what it is not; this is found where the content is needed."""

    def swap(metadata: Metadata) -> None:
        metadata.storage_data[WEIGHT] = metadata.storage_data[MetadataIndex("model.b.weight", [0])]

    changed(folder, swap)
    declare(project, "b2", 'op.Cast("c.weight", "float64")', parents="a1")
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "as the metadata says" in ran.err) == (1, True), ran.err
    assert content(folder) == before


def test_a_record_that_lies(project: Folder, folder: Path) -> None:
    """The record is data of anyone: damaged, it is refused like that of any format, and `stamp` writes a new one."""
    changed(
        folder,
        lambda metadata: setattr(
            metadata, "ckpt_migrate", {"format": 1, "record": {}, "stash": {"a": [{"tensor": {"shape": [1 << 60]}}]}}
        ),
    )
    for words in (["upgrade", "head"], ["current"]):
        ran = project.run(*words, folder)
        assert (ran.code, "the migration record in the checkpoint is damaged" in ran.err) == (1, True), ran.err
    project.ok("stamp", "base", folder)
    project.ok("upgrade", "head", folder)


def test_a_stash_that_leads_out(project: Folder, folder: Path) -> None:
    declare(project, "b2", 'op.Drop("c.weight", keep=True)', parents="a1")
    project.ok("upgrade", "head", folder)

    def lead(metadata: Any) -> None:
        (stashed,) = metadata.ckpt_migrate["stash"]["b2"]
        text = repr(stashed).replace("__0_0.distcp", "../secret")
        metadata.ckpt_migrate["stash"]["b2"] = [eval(text)]

    changed(folder, lead)
    ran = project.run("downgrade", "base", folder)
    assert (ran.code, "the migration record in the checkpoint is damaged" in ran.err) == (1, True), ran.err


def test_a_folder_that_changes_meanwhile(project: Folder) -> None:
    folder = save(TREE, project.path / "ckpt")
    project.script("a1", None, f'open({str(folder / "__0_0.distcp")!r}, "ab").write(b"x")')
    before = (folder / ".metadata").read_bytes()
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "another program changed __0_0.distcp in the meantime" in ran.err) == (1, True), ran.err
    assert (folder / ".metadata").read_bytes() == before
    assert sorted(os.listdir(folder)) == [".metadata", "__0_0.distcp"]


def test_a_protected_folder(project: Folder, folder: Path) -> None:
    (folder / ".metadata").chmod(0o444)
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "it is read-only" in ran.err) == (3, True), ran.err
    assert content(folder) == before
    project.ok("upgrade", "head", folder, "--output", project.path / "new")


def test_in_place_is_refused_with_the_way_out(project: Folder, folder: Path) -> None:
    before = content(folder)
    ran = project.run("upgrade", "head", folder, "--in-place")
    assert (ran.code, "leave out --in-place" in ran.err) == (3, True), ran.err
    assert content(folder) == before
    project.ok("upgrade", "head", folder)


def test_no_room(project: Folder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(project, "b2", 'op.Pad("c.weight", 1000)', parents="a1")
    monkeypatch.setattr("anemoi_ckpt_migrate.storage.size_limits._largest_file", lambda: 1000)
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "the result needs" in ran.err) == (1, True), ran.err
    assert content(folder) == before


def test_what_the_format_cannot_hold(project: Folder, folder: Path) -> None:
    project.script("b2", "a1", 'ckpt["model"]["sparse"] = __import__("torch").eye(3).to_sparse()')
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "gets plain tensors only" in ran.err) == (1, True), ran.err
    assert content(folder) == before


def test_two_values_of_one_name(project: Folder, folder: Path) -> None:
    """torch joins the keys of a path with dots."""
    project.script("b2", "a1", 'ckpt["model.c"] = {"weight": 1}')
    before = content(folder)
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "another value would have the same name" in ran.err) == (1, True), ran.err
    assert content(folder) == before


def test_attributes_of_a_later_torch_are_kept(project: Folder, folder: Path) -> None:
    def add(metadata: Any) -> None:
        metadata.later = {"list": [1, 2.5, None, True, b"x"], "size": torch.Size([1])}
        metadata.state_dict_metadata["model.a.weight"].later = 1
        metadata.state_dict_metadata["model.a.weight"].chunks[0].later = "chunk"
        metadata.state_dict_metadata["epoch"].later = ("value",)
        metadata.storage_data[WEIGHT].later = 1 << 40

    changed(folder, add)
    project.ok("upgrade", "head", folder)
    found = pickle.loads((folder / ".metadata").read_bytes())
    assert found.later == {"list": [1, 2.5, None, True, b"x"], "size": torch.Size([1])}
    weight = found.state_dict_metadata["model.c.weight"]
    assert (weight.later, weight.chunks[0].later) == (1, "chunk")
    assert found.state_dict_metadata["epoch"].later == ("value",)
    assert found.storage_data[MetadataIndex("model.c.weight", [0, 0])].later == 1 << 40
    assert torch.equal(as_one_file(folder)["model"]["c.weight"], torch.ones(4, 2))
