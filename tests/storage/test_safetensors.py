"""Files of safetensors: migrated, taken back and refused; judged by the library's own loader."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.errors import NotACheckpoint  # noqa: E402
from anemoi_ckpt_migrate.storage import open_checkpoint  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, backups, digest  # noqa: E402

KINDS = {
    "float32": torch.arange(12.0).reshape(4, 3),
    "float64": torch.arange(3, dtype=torch.float64),
    "bfloat16": torch.arange(5, dtype=torch.bfloat16),
    "float16": torch.arange(6, dtype=torch.float16).reshape(3, 2),
    "int64": torch.arange(4),
    "int16": torch.arange(3, dtype=torch.int16),
    "uint16": torch.arange(3).to(torch.uint16),
    "uint8": torch.arange(7, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "complex64": torch.tensor([1 + 2j, 3 - 1j]),
    "float8_e4m3fn": torch.arange(3.0).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.arange(3.0).to(torch.float8_e5m2),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
}


def model(**more: Any) -> dict[str, Any]:
    """A small model: three projections, a norm with a counter, an output layer."""
    torch.manual_seed(0)
    tensors = {
        f"{part}.{kind}": torch.randn(4, 4) if kind == "weight" else torch.randn(4)
        for part in "qkv"
        for kind in ("weight", "bias")
    }
    return {**tensors, "norm.count": torch.tensor(7), "out.weight": torch.randn(2, 4), **more}


def saved(project: Folder, tensors: dict[str, Any], name: str = "model.safetensors") -> Path:
    path = project.path / name
    library.save_file(tensors, path, metadata={"format": "pt"})
    return path


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        )

    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # type: ignore[no-any-return]


def test_a_rename_and_back(project: Folder) -> None:
    """model.safetensors: out.weight -> head.weight -> out.weight; the payload is that of before, byte for byte."""
    path = saved(project, model())
    before = path.read_bytes()
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert equal(library.load_file(path), {name.replace("out.", "head."): value for name, value in model().items()})
    assert "a1" in project.ok("current", path).out
    assert header(path)["__metadata__"]["format"] == "pt"
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())
    assert (
        path.read_bytes()[-len(before) + 8 + int.from_bytes(before[:8], "little") :]
        == before[8 + int.from_bytes(before[:8], "little") :]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_dtype_moves(project: Folder, kind: str) -> None:
    path = saved(project, model(old=KINDS[kind]))
    declare(project, "a1", 'op.Rename("old", "new")')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = library.load_file(path)
    assert equal({"new": after["new"]}, {"new": KINDS[kind]})
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model(old=KINDS[kind]))


OPERATIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "rename": ('op.Rename("out.weight", "head")', lambda old: {"head": old["out.weight"]}),
    "fuse": ('op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")', lambda old: {"qkv.bias": torch.cat([old["q.bias"], old["k.bias"], old["v.bias"]])}),
    "fuse columns": ('op.Fuse(["q.weight", "k.weight"], "qk", dim=1)', lambda old: {"qk": torch.cat([old["q.weight"], old["k.weight"]], 1)}),
    "split": ('op.Split("q.weight", ["a", "b"])', lambda old: {"b": old["q.weight"][2:]}),
    "split columns": ('op.Split("q.weight", ["a", "b"], dim=1)', lambda old: {"b": old["q.weight"][:, 2:]}),
    "stack": ('op.Stack(["q.bias", "k.bias"], "s")', lambda old: {"s": torch.stack([old["q.bias"], old["k.bias"]])}),
    "unstack": ('op.Unstack("out.weight", ["a", "b"])', lambda old: {"b": old["out.weight"][1]}),
    "transpose": ('op.Transpose("out.weight")', lambda old: {"out.weight": old["out.weight"].T}),
    "reshape": ('op.Reshape("out.weight", [4, 2])', lambda old: {"out.weight": old["out.weight"].reshape(4, 2)}),
    "cast wider": ('op.Cast("out.weight", "float64")', lambda old: {"out.weight": old["out.weight"].double()}),
    "pad": ('op.Pad("out.weight", 3)', lambda old: {"out.weight": torch.cat([old["out.weight"], torch.zeros(3, 4)])}),
    "crop": ('op.Crop("out.weight", 1)', lambda old: {"out.weight": old["out.weight"][:-1]}),
    "add": ('op.Add("new", [2, 3], fill=1.5)', lambda old: {"new": torch.full((2, 3), 1.5)}),
    "reorder": ('op.Reorder(["k.bias", "q.bias"])', lambda old: {"k.bias": old["k.bias"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_and_back(project: Folder, kind: str) -> None:
    operation, expected = OPERATIONS[kind]
    path = saved(project, model())
    declare(project, "a1", operation)
    project.ok("upgrade", "head", path, "--check-rollback")
    after, wanted = library.load_file(path), expected(model())
    assert equal({name: after[name] for name in wanted}, {name: value.contiguous() for name, value in wanted.items()})
    untouched = [name for name in after if name in model() and name not in wanted]
    assert equal({name: after[name] for name in untouched}, {name: model()[name] for name in untouched})
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())


def test_a_function_gets_real_tensors(project: Folder) -> None:
    path = saved(project, model())
    project.script(
        "a1", None, 'ckpt["out.weight"] = ckpt["out.weight"] * 2', 'ckpt["out.weight"] = ckpt["out.weight"] / 2'
    )
    project.ok("upgrade", "head", path)
    assert torch.equal(library.load_file(path)["out.weight"], model()["out.weight"] * 2)
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())


def test_tensors_that_a_function_leaves_alone_are_copied_by_the_kernel(project: Folder) -> None:
    """Real tensors lie over the file: only those that changed need memory of their own."""
    path = saved(project, model())
    with open_checkpoint(path) as file:
        tree = file.load_content()
        tree["out.weight"].mul_(2)
        tree["half"] = tree["q.weight"][2:]
        tree["turned"] = tree["k.weight"].T
        pickled = file.pickled(tree)
        file.write(pickled, {}, project.path / "new.safetensors")
    assert sorted(len(content) for content in pickled.payloads.values()) == [32, 64]  # out.weight, and k.weight turned
    expected = {
        "out.weight": model()["out.weight"] * 2,
        "half": model()["q.weight"][2:],
        "turned": model()["k.weight"].T,
    }
    assert equal(
        library.load_file(project.path / "new.safetensors"),
        {**model(), **{name: value.contiguous() for name, value in expected.items()}},
    )


def test_nothing_is_made_beside_a_file_for_which_there_is_no_room(
    project: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.Pad("out.weight", 1000)')
    monkeypatch.setattr("anemoi_ckpt_migrate.storage.size_limits._largest_file", lambda: 1000)
    made: list[str] = []
    monkeypatch.setattr("anemoi_ckpt_migrate.storage.atomic_replace.create", lambda path, mode: made.append(str(path)))
    refused(project, 1, "the result needs", "upgrade", "head", path)
    assert made == []


def test_several_steps_add_up(project: Folder) -> None:
    """a1 <- b2 <- c3, up and down one by one."""
    path = saved(project, model())
    declare(project, "a1", 'op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")')
    declare(project, "b2", 'op.RenamePrefix("qkv.", "attention.")', parents="a1")
    declare(project, "c3", 'op.Pad("attention.bias", 4)', parents="b2")
    project.ok("upgrade", "b2", path, "--check-rollback")
    project.ok("upgrade", "head", path, "--check-rollback")
    assert library.load_file(path)["attention.bias"].shape == (16,)
    project.ok("downgrade", "-1", path)
    project.ok("downgrade", "-1", path)
    project.ok("downgrade", "-1", path)
    assert equal(library.load_file(path), model())


def test_reading_commands(project: Folder) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path, "--output", "new.safetensors")
    assert "safetensors" in project.ok("inspect", path).out
    assert {tensor.path for tensor in cm.inspect(path).tensors} == set(model())
    assert "out.weight -> head.weight" in project.ok("diff", path, "new.safetensors").out
    assert "a1" in project.ok("current", "new.safetensors").out
    project.ok("stamp", "head", path)
    assert "a1" in project.ok("current", path).out
    assert equal(library.load_file(path), model())


def test_a_safetensors_file_beside_a_torch_file(project: Folder) -> None:
    """`diff` compares across formats."""
    path = saved(project, model())
    torch.save({"state_dict": model()}, project.path / "last.ckpt")
    assert "renamed" not in project.ok("diff", path, "last.ckpt").out


def test_load_as_if_upgraded(project: Folder) -> None:
    path = saved(project, model())
    before = digest(path)
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    loaded = cm.load(path, project=project.path)
    assert torch.equal(loaded["head.weight"], model()["out.weight"])
    with cm.upgraded(path, project=project.path) as copy:
        assert torch.equal(library.load_file(copy)["head.weight"], model()["out.weight"])
    assert digest(path) == before


def test_neither_torch_nor_the_library_is_imported_for_a_rename(project: Folder) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    code = f"""
import sys
from anemoi_ckpt_migrate import cli
assert cli.main(["upgrade", "head", {str(path)!r}]) == 0
print([name for name in ("torch", "safetensors", "numpy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_order_of_the_file_does_not_count(project: Folder) -> None:
    """A cast puts the larger elements first; nothing has moved for that."""
    half = {"h.weight": torch.ones(3, dtype=torch.float16), "h.bias": torch.ones(1, dtype=torch.float16)}
    path = saved(project, model(**half))
    declare(project, "a1", 'op.Cast("h.bias", "float32")')
    project.ok("upgrade", "head", path)
    ran = project.ok("diff", backups(path)[0], path)
    assert "op.Cast" in ran.out
    assert "moved" not in ran.out
    assert "Reorder" not in ran.out


def test_large_content_begins_at_the_same_byte_of_a_block(project: Folder) -> None:
    """So a file system that shares blocks shares them: only the header is new."""
    path = saved(project, model(large=torch.arange(200_000)))
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path)
    after = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert (after - begin) % 4096 == 0
    assert torch.equal(library.load_file(path)["large"], torch.arange(200_000))


def test_autogenerate(project: Folder) -> None:
    """Between two files, as between two of torch; the script that it writes brings one to the other."""
    path = saved(project, model())
    new = {name.replace("out.", "head."): value for name, value in model().items()}
    saved(project, new, "new.safetensors")
    project.ok("revision", "head for out", "--autogenerate", path, "new.safetensors")
    project.ok("upgrade", "head", path, "--check-rollback")
    assert equal(library.load_file(path), new)


# What the format cannot hold, and what is refused


def refused(project: Folder, code: int, says: str, *words: object) -> None:
    """A command refuses, says why, and leaves every byte where it was."""
    files = {path: digest(path) for path in project.path.glob("*.safetensors")}
    ran = project.run(*words)
    assert (ran.code, says in ran.err) == (code, True), ran.err
    assert {path: digest(path) for path in project.path.glob("*.safetensors")} == files
    assert not [each for path in files for each in backups(path)]


def test_something_else_than_a_tensor(project: Folder) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.SetItem("epoch", 3)')
    refused(
        project,
        1,
        "ckpt['epoch'] cannot be saved (a safetensors file holds tensors only, not a int)",
        "upgrade",
        "head",
        path,
    )


def test_shared_memory_is_refused_or_copied(project: Folder) -> None:
    path = saved(project, model())
    project.script("a1", None, 'ckpt["tied.weight"] = ckpt["out.weight"]', 'del ckpt["tied.weight"]')
    says = "it shares its memory with out.weight, which safetensors cannot express: drop one of them, or write both with --copy-shared"
    refused(project, 1, says, "upgrade", "head", path)
    project.ok("upgrade", "head", path, "--copy-shared", "--check-rollback")
    after = library.load_file(path)
    assert equal(after, model(**{"tied.weight": model()["out.weight"]}))
    assert after["tied.weight"].data_ptr() != after["out.weight"].data_ptr()
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())
    assert torch.equal(cm.load(path, project=project.path)["tied.weight"], model()["out.weight"])


def test_copied_on_the_way_back_and_in_a_sync(project: Folder) -> None:
    path = saved(project, model())
    project.script("a1", None, 'del ckpt["out.weight"]', 'ckpt["out.weight"] = ckpt["q.weight"]')
    project.ok("upgrade", "head", path)
    assert "shares its memory with q.weight" in project.run("downgrade", "base", path).err
    project.ok("downgrade", "base", path, "--copy-shared")
    assert torch.equal(library.load_file(path)["out.weight"], model()["q.weight"])
    project.script("b2", "a1", 'ckpt["tied.weight"] = ckpt["q.weight"]', 'del ckpt["tied.weight"]')
    assert "--copy-shared" in project.run("sync", path).err
    project.ok("sync", path, "--copy-shared")
    assert torch.equal(library.load_file(path)["tied.weight"], model()["q.weight"])
    assert cm.downgrade(path, "base", project=project.path, copy_shared=True).written == str(path)


def test_a_file_of_torch_shares_memory_with_the_option_too(project: Folder) -> None:
    torch.save({"state_dict": model()}, project.path / "last.ckpt")
    project.script("a1", None, 'ckpt["state_dict"]["tied"] = ckpt["state_dict"]["out.weight"]')
    project.ok("upgrade", "head", "last.ckpt", "--copy-shared")
    after = torch.load("last.ckpt")["state_dict"]
    assert after["tied"].data_ptr() == after["out.weight"].data_ptr()


def test_a_dtype_of_torch_alone_is_refused(project: Folder) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.Cast("out.weight", "complex128")')
    refused(project, 1, "safetensors has no dtype complex128", "upgrade", "head", path)


# Old values that are put aside


def stash(path: Path) -> dict[str, Any]:
    return json.loads(header(path)["__metadata__"]["ckpt_migrate/record.json"]).get("stash", {})  # type: ignore[no-any-return]


def test_a_dropped_tensor_is_kept_in_the_record_bit_for_bit(project: Folder) -> None:
    """Each dtype goes into the text of the record, and comes back; a strict load never sees it meanwhile."""
    tensors = model(**{f"old.{kind}": value for kind, value in KINDS.items()})
    path = saved(project, tensors)
    declare(project, "a1", 'op.Drop("old.*", keep=True)')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert equal(library.load_file(path), model())
    kept = [each["$tensor"] for each in stash(path)["a1"]]
    assert {dtype for dtype, _, _ in kept} == {str(value.dtype).removeprefix("torch.") for value in KINDS.values()}
    assert ["float32", [], base64.b64encode(struct.pack("<f", 3.5)).decode()] in kept
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), tensors)
    assert stash(path) == {}


def test_what_is_kept_stays_while_other_steps_come_and_go(project: Folder) -> None:
    """a1 (keeps) <- b2 (renames) <- c3 (casts, and keeps the old values) <- d4 (a function, on real tensors)"""
    path = saved(project, model())
    declare(project, "a1", 'op.Drop("k.weight", keep=True)')
    declare(project, "b2", 'op.RenamePrefix("out.", "head.")', parents="a1")
    declare(project, "c3", 'op.Cast("head.weight", "float16", keep=True)', parents="b2")
    project.script("d4", "c3", 'ckpt["q.bias"] = ckpt["q.bias"] * 2', 'ckpt["q.bias"] = ckpt["q.bias"] / 2')
    project.ok("upgrade", "b2", path, "--check-rollback")
    project.ok("upgrade", "head", path, "--check-rollback")
    assert {revision: len(kept) for revision, kept in stash(path).items()} == {"a1": 1, "c3": 1}
    assert library.load_file(path)["head.weight"].dtype == torch.float16
    project.ok("downgrade", "b2", path)
    assert list(stash(path)) == ["a1"]
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())


def test_a_function_and_kept_tensors_in_one_run(project: Folder) -> None:
    """Both ways the operations run on real tensors, because the function needs them."""
    path = saved(project, model())
    project.script("a1", None, 'ckpt["q.bias"] = ckpt["q.bias"] * 2', 'ckpt["q.bias"] = ckpt["q.bias"] / 2')
    declare(project, "b2", 'op.Drop("k.*", keep=True)', parents="a1")
    declare(project, "c3", 'op.Drop("q.bias", keep=True)', parents="b2")
    project.ok("upgrade", "head", path, "--check-rollback")
    assert torch.equal(decoded(stash(path)["c3"][0]), model()["q.bias"] * 2)
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), model())


def decoded(value: dict[str, Any]) -> Any:
    dtype, shape, content = value["$tensor"]
    return torch.frombuffer(bytearray(base64.b64decode(content)), dtype=getattr(torch, dtype)).reshape(shape)


def test_no_torch_is_imported_to_put_aside_and_to_bring_back(project: Folder) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.Drop("k.weight", keep=True)', 'op.RenamePrefix("out.", "head.")')
    for words in (["upgrade", "head"], ["downgrade", "base"]):
        code = f"""
import sys
from anemoi_ckpt_migrate import cli
assert cli.main([*{words!r}, {str(path)!r}]) == 0
print([name for name in ("torch", "safetensors", "numpy") if name in sys.modules])
"""
        ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines()[-1] == "[]"
    assert equal(library.load_file(path), model())


def test_a_record_takes_a_mebibyte_of_tensors(project: Folder) -> None:
    """262,144 float32: all of it, and no more; then the ways out that the message names."""
    large, more = torch.arange(1 << 18, dtype=torch.float32), torch.ones(1)
    path = saved(project, model(large=large, more=more))
    declare(project, "a1", 'op.Drop("large", keep=True)')
    declare(project, "b2", 'op.Drop("more", keep=True)', parents="a1")
    both = "more (4 bytes) cannot be kept for the downgrade (keep=True): the record of a safetensors file takes 1,048,576 bytes of tensors in all and holds 1,048,576 already"
    refused(project, 3, both, "upgrade", "head", path)
    refused(project, 3, both, "upgrade", "head", path, "--dry-run")
    project.ok("upgrade", "a1", path, "--check-rollback")
    refused_later = project.run("upgrade", "head", path)
    assert (refused_later.code, both in refused_later.err) == (3, True)
    project.ok("downgrade", "base", path)
    assert torch.equal(library.load_file(path)["large"], large)
    saved(project, model(large=torch.arange((1 << 18) + 1), more=more), "larger.safetensors")
    path.unlink()
    refused(
        project, 3, "large (2,097,160 bytes) cannot be kept for the downgrade", "upgrade", "head", "larger.safetensors"
    )
    torch.save({"state_dict": library.load_file("larger.safetensors")}, "larger.ckpt")
    project.ok("upgrade", "head", "larger.ckpt", "--check-rollback")
    declare(project, "a1", 'op.Drop("large", keep=False)', top="rollback = None")
    project.ok("upgrade", "head", "larger.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        ["float32", [2], "AAAA"],
        ["float32", [-1], ""],
        ["float32", [True], "AAAAAA=="],
        ["float33", [], "AAAAAA=="],
        ["float32", [], "%"],
        ["float32", []],
        ["float32", 1, "AAAAAA=="],
        [["float32"], [], "AAAAAA=="],
        "abc",
        3,
    ],
)
def test_a_kept_tensor_that_is_damaged(project: Folder, wrong: Any) -> None:
    path = saved(project, model())
    declare(project, "a1", 'op.Drop("k.bias", keep=True)')
    project.ok("upgrade", "head", path)
    tensors, texts = library.load_file(path), header(path)["__metadata__"]
    record = json.loads(texts["ckpt_migrate/record.json"])
    record["stash"]["a1"] = [{"$tensor": wrong}]
    library.save_file(tensors, path, metadata={**texts, "ckpt_migrate/record.json": json.dumps(record)})
    before = digest(path)
    ran = project.run("downgrade", "base", path)
    assert (ran.code, "$tensor in it does not encode a value" in ran.err) == (1, True), ran.err
    assert digest(path) == before


def test_a_strict_load_by_transformers(project: Folder) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertModel(config)
    bert.save_pretrained(project.path)
    path = project.path / "model.safetensors"
    wanted = library.load_file(path)
    library.save_file({**wanted, "old.bias": torch.ones(3)}, path, metadata={"format": "pt"})
    declare(project, "a1", 'op.Drop("old.bias", keep=True)')
    project.ok("upgrade", "head", path)
    loaded, told = transformers.BertModel.from_pretrained(project.path, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert equal(loaded.state_dict(), bert.state_dict())


# What the format cannot hold, once more


def test_a_shard_is_a_member_of_its_set(project: Folder) -> None:
    path = saved(project, model(), "model-00001-of-00002.safetensors")
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    refused(project, 3, "it is part of a sharded checkpoint", "upgrade", "head", path)


def write(path: Path, text: str | bytes, payload: bytes = bytes(16), length: int | None = None) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + payload)


ONE = '"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'
ATTACKS: dict[str, tuple[str | bytes, bytes, str]] = {
    "a name twice": (f"{{{ONE},{ONE}}}", bytes(16), "names a twice"),
    "an overlap": ('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16), "overlap"),
    "a hole": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}', bytes(16), "leave a gap"),
    "a hole at the start": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16), "leave a gap"),
    "bytes behind the end": (f"{{{ONE}}}", bytes(20), "describes"),
    "a file cut off": (f"{{{ONE}}}", bytes(12), "was it cut off?"),
    "a shape of another size": ('{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}}', bytes(16), "a needs 12 bytes"),
    "a shape that overflows": ('{"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904,0,1],"data_offsets":[0,16]}}', bytes(16), "more bytes than any tensor"),
    "a huge shape": (f'{{"a":{{"dtype":"F32","shape":[{1 << 70}],"data_offsets":[0,16]}}}}', bytes(16), "is no list of sizes"),
    "a negative size": ('{"a":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}', bytes(16), "is no size"),
    "a place that goes backwards": ('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]}}', bytes(16), "a needs 16 bytes"),
    "true for a number": ('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', bytes(1), "is no list of sizes"),
    "an unknown dtype": ('{"a":{"dtype":"Q4","shape":[2,2],"data_offsets":[0,16]}}', bytes(16), "does not know"),
    "a field too many": ('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"code":1}}', bytes(16), "other fields"),
    "a list for a tensor": ('{"a":[1]}', bytes(16), "other fields"),
    "metadata of numbers": (f'{{"__metadata__":{{"a":1}},{ONE}}}', bytes(16), "something else than texts"),
    "metadata in a list": (f'{{"__metadata__":["a"],{ONE}}}', bytes(16), "something else than texts"),
    "a depth without end": ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", bytes(16), "is not JSON"),
    "no JSON": ('{"a":', bytes(16), "is not JSON"),
    "half of a pair in a name": ('{"\\udfff":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', bytes(16), "not Unicode"),
    "half of a pair in metadata": (f'{{"__metadata__":{{"x":"\\udfff"}},{ONE}}}', bytes(16), "not Unicode"),
    "an empty list for metadata": (f'{{"__metadata__":[],{ONE}}}', bytes(16), "something else than texts"),
    "minus zero": ('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[-0,16]}}', bytes(16), "is no size"),
    "a product that overflows": ('{"a":{"dtype":"U8","shape":[9223372036854775807,9223372036854775807,0],"data_offsets":[0,0]}}', b"", "more bytes than any tensor"),
    "a tensor in the place of the record": ('{"ckpt_migrate":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', bytes(16), "the place of the record"),
    "no UTF-8": (b'{"\xff":1}', bytes(16), "is not JSON"),
    "a number of ten thousand digits": ('{"a":' + "1" * 10_000 + "}", bytes(16), "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_header_that_lies(project: Folder, attack: str) -> None:
    text, payload, says = ATTACKS[attack]
    path = project.path / "model.safetensors"
    write(path, text, payload)
    declare(project, "a1", 'op.Rename("a", "b")')
    for words in (("upgrade", "head", path), ("current", path), ("stamp", "head", path)):
        refused(project, 1, says, *words)
    with pytest.raises(NotACheckpoint, match="damaged or hostile"), open_checkpoint(path):
        pass


def test_a_header_longer_than_the_file_is_no_safetensors_file(project: Folder) -> None:
    path = project.path / "model.safetensors"
    write(path, f"{{{ONE}}}", length=1 << 62)
    declare(project, "a1", 'op.Rename("a", "b")')
    refused(project, 1, "it is not a checkpoint", "upgrade", "head", path)


def test_a_record_that_is_damaged(project: Folder) -> None:
    path = project.path / "model.safetensors"
    library.save_file(model(), path, metadata={"ckpt_migrate/record.json": "{"})
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    refused(project, 1, "record", "upgrade", "head", path)


def test_names_that_are_numbers_are_no_keys_of_new_storages(project: Folder) -> None:
    """A name may be any number; storages of new tensors are numbered apart."""
    numbers = {"0": torch.arange(4.0), "7": torch.arange(4.0) + 1, "²": torch.ones(2)}
    large = {"9" * 18: torch.ones(4), "1" + "0" * 18: torch.arange(6.0), "z": torch.zeros(6) + 7}
    path = saved(project, {**numbers, **large})
    split = 'op.Split("1000000000000000000", ["a", "b"])'
    declare(project, "a1", 'op.Fuse(["0", "7"], "1", dim=0)', 'op.Cast("z", "float64")', split)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = library.load_file(path)
    assert after["1"].tolist() == [0, 1, 2, 3, 1, 2, 3, 4]
    assert [after["a"].tolist(), after["b"].tolist(), after["z"].tolist()] == [[0, 1, 2], [3, 4, 5], [7] * 6]
    project.ok("downgrade", "base", path)
    assert equal(library.load_file(path), {**numbers, **large})


def test_content_that_both_safetensors_and_pickle_would_read(project: Folder) -> None:
    """Under a name for torch, `torch.load` would run a pickle that hides in the same bytes."""
    path = saved(project, model()).rename(project.path / "model.pt")
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    for words in (("upgrade", "head", path), ("inspect", path), ("current", path)):
        ran = project.run(*words)
        assert (ran.code, "give it a name that ends in .safetensors" in ran.err) == (1, True)
    path.rename(project.path / "model.safetensors")
    project.ok("upgrade", "head", "model.safetensors")


def test_the_new_file_has_the_format_of_the_old_one(project: Folder) -> None:
    path = saved(project, model())
    torch.save({"state_dict": model()}, project.path / "last.ckpt")
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    for source, output in ((path, "new.ckpt"), ("last.ckpt", "new.safetensors")):
        ran = project.run("upgrade", "head", source, "--output", output)
        assert (ran.code, "a name with the same ending" in ran.err) == (2, True)
        assert not Path(output).exists()


@pytest.mark.parametrize("made", ['torch.ones(2, device="meta")', "torch.nested.nested_tensor([torch.ones(2)])"])
def test_tensors_without_plain_content_are_refused(project: Folder, made: str) -> None:
    path = saved(project, model())
    project.script("a1", None, f'ckpt["made"] = {made}', top="import torch")
    refused(project, 1, "a safetensors file holds plain tensors only", "upgrade", "head", path)


@pytest.mark.parametrize("name", ["ckpt_migrate", "__metadata__"])
def test_a_name_that_is_reserved(project: Folder, name: str) -> None:
    path = saved(project, model())
    declare(project, "a1", f'op.Rename("out.weight", "{name}")')
    refused(project, 1, "cannot be saved", "upgrade", "head", path)


def test_verify_says_that_there_are_no_checksums(project: Folder) -> None:
    path = saved(project, model())
    assert "8 entries have no checksum" in project.ok("inspect", "--verify", path).out


def test_a_file_of_torch_beside_one_of_safetensors_differs_in_nothing(project: Folder) -> None:
    path = saved(project, model())
    torch.save({"state_dict": dict(reversed(model().items()))}, project.path / "last.ckpt")
    ran = project.ok("diff", path, "last.ckpt")
    assert "order" not in ran.out + ran.err
