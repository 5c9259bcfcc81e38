"""Folders of Hugging Face: migrated as a whole, taken back and refused; judged by transformers and safetensors."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage import folder_exchange  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, leftovers  # noqa: E402

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama in three shards, written by transformers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=32,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hub") / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="12KB")
    assert len(shards(folder)) == 3
    (folder / "README.md").write_text("# A model\n")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.log").write_text("step 1\n")
    return folder


@pytest.fixture
def llama(project: Folder, written: Path) -> Path:
    return Path(shutil.copytree(written, project.path / "llama"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder, as the index says, and no others."""
    index = folder / INDEX
    if not index.exists():
        return dict(library.load_file(folder / "model.safetensors"))
    data = json.loads(index.read_bytes())
    found = {}
    for shard in shards(folder):
        for name, value in library.load_file(shard).items():
            assert data["weight_map"].pop(name) == shard.name
            found[name] = value
    assert data["weight_map"] == {}
    size = sum(value.nbytes for value in found.values())
    assert data["metadata"]["total_size"] == size
    assert data["metadata"].get("total_parameters", 0) in (0, sum(value.numel() for value in found.values()))
    return found


def state(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    alike = one.keys() == other.keys() and all(value.dtype == other[name].dtype for name, value in one.items())
    return alike and all(torch.equal(value, other[name]) for name, value in one.items())


def strict(folder: Path) -> Any:
    """Load with transformers, which names missing and unexpected weights."""
    model, report = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize("named", ["llama", f"llama/{INDEX}"], ids=["the folder", "its index"])
def test_a_rename_and_back(project: Folder, llama: Path, named: str) -> None:
    """model.norm.weight (shard 3) -> model.final.weight -> model.norm.weight."""
    before, old = tensors(llama), state(llama)
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("upgrade", "head", named)
    now = tensors(llama)
    assert torch.equal(now["model.final.weight"], before["model.norm.weight"])
    assert "model.norm.weight" not in now
    assert project.ok("current", named).out.split()[1:2] == ["a1"]
    assert state(project.path / "llama.bak") == old
    assert (llama / "runs" / "events.log").read_text() == "step 1\n"
    project.ok("downgrade", "base", named)
    assert equal(tensors(llama), before)
    strict(llama)
    assert state(project.path / "llama.bak1") != old
    assert not leftovers(project.path)


def test_only_shards_that_change_are_written(project: Folder, llama: Path) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    inodes = {each.name: each.stat().st_ino for each in shards(llama)}
    home = json.loads((llama / INDEX).read_bytes())["weight_map"]["model.norm.weight"]
    project.ok("upgrade", "head", "llama", "--no-backup")
    assert {each.name for each in shards(llama) if each.stat().st_ino == inodes[each.name]} == inodes.keys() - {home}
    assert not list(project.path.glob("llama.bak*"))


def test_a_fuse_across_shards_goes_to_the_shard_of_its_first_source(project: Folder, llama: Path) -> None:
    """lm_head (shard 1) and embed_tokens (another one) become one tensor."""
    before = tensors(llama)
    files = json.loads((llama / INDEX).read_bytes())["weight_map"]
    first, second = "lm_head.weight", "model.embed_tokens.weight"
    if files[first] == files[second]:
        second = next(name for name, file in files.items() if file != files[first] and before[name].shape[1:] == (16,))
    declare(project, "a1", f'op.Fuse(["{first}", "{second}"], "both.weight", dim=0)')
    project.ok("upgrade", "head", "llama")
    now = tensors(llama)
    assert torch.equal(now["both.weight"], torch.cat([before[first], before[second]]))
    project.ok("downgrade", "base", "llama")
    assert equal(tensors(llama), before)
    strict(llama)


def test_no_shard_grows_beyond_the_largest_old_one(project: Folder, llama: Path) -> None:
    largest = max(sum(value.nbytes for value in library.load_file(each).values()) for each in shards(llama))
    declare(project, "a1", 'op.Cast("*", "float64")')
    project.ok("upgrade", "head", "llama")
    found = [sum(value.nbytes for value in library.load_file(each).values()) for each in shards(llama)]
    assert len(found) > 3
    assert max(found) <= largest
    assert all(f"-of-{len(found):05}" in each.name for each in shards(llama))
    tensors(llama)
    project.ok("downgrade", "base", "llama")
    strict(llama)


def test_shards_of_another_size(project: Folder, llama: Path) -> None:
    before = tensors(llama)
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("upgrade", "head", "llama", "--max-shard-size", "4KiB")
    found = [sum(value.nbytes for value in library.load_file(each).values()) for each in shards(llama)]
    assert max(found) <= 4096
    assert len(found) > 3
    project.ok("downgrade", "base", "llama", "--max-shard-size", "1GB")
    assert equal(tensors(llama), before)
    strict(llama)


def test_one_file_becomes_several(project: Folder, written: Path) -> None:
    """The record moves from the file to the index."""
    transformers.LlamaForCausalLM.from_pretrained(written).save_pretrained("single")
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("upgrade", "head", "single", "--max-shard-size", "8KB")
    assert len(shards(Path("single"))) > 1
    assert not (Path("single") / "model.safetensors").exists()
    assert project.ok("current", "single").out.split()[1:2] == ["a1"]
    assert all(
        "ckpt_migrate/record.json" not in each.read_bytes()[:2000].decode("latin1") for each in shards(Path("single"))
    )
    project.ok("downgrade", "base", "single")
    strict(Path("single"))


@pytest.mark.parametrize("size", ["0", "-1", "5PB", "many", ""])
def test_a_size_that_is_none(project: Folder, llama: Path, size: str) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    refused(
        project,
        2,
        "is not the size of a shard; give one such as 5GB",
        "upgrade",
        "head",
        llama,
        f"--max-shard-size={size}",
    )
    project.ok("upgrade", "head", llama, "--max-shard-size=5GB")


def test_hard_links_on_demand(project: Folder, llama: Path) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    home = json.loads((llama / INDEX).read_bytes())["weight_map"]["model.norm.weight"]
    project.ok("upgrade", "head", llama, "--hard-link")
    kept = project.path / "llama.bak"
    assert {each.name for each in shards(llama) if each.samefile(kept / each.name)} == {
        each.name for each in shards(kept) if each.name != home
    }


def test_the_learned_weights_are_those_that_transformers_reads(project: Folder, llama: Path) -> None:
    """Upgraded to other names and taken back, the model answers the same."""
    ids = torch.arange(8)[None]
    with torch.no_grad():
        answer = strict(llama)(ids).logits
        declare(
            project, "a1", 'op.Rename("model.layers.{n}.self_attn.{kind}.weight", "blocks.{n}.attention.{kind}.weight")'
        )
        project.ok("upgrade", "head", "llama", "--check-rollback")
        project.ok("downgrade", "-1", "llama")
        assert torch.equal(strict(llama)(ids).logits, answer)


def test_one_file_with_its_config(project: Folder, written: Path) -> None:
    """The folder and its only file are the same checkpoint: the record lies in the file."""
    model = transformers.LlamaForCausalLM.from_pretrained(written)
    model.save_pretrained("single")
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("upgrade", "head", "single")
    assert project.ok("current", "single/model.safetensors").out.split()[1:2] == ["a1"]
    project.ok("downgrade", "base", "single/model.safetensors")
    strict(Path("single"))
    assert "a1" not in project.ok("current", "single").out


def test_an_operation_changes_the_config(project: Folder, llama: Path) -> None:
    """config.json is reached as a JSON entry of an archive is, and comes back byte for byte."""
    old = state(llama)
    declare(project, "a1", """op.At([], [op.SetItem("attention_bias", True)], records={"config.json": ""})""")
    project.ok("upgrade", "head", "llama", "--check-rollback")
    assert json.loads((llama / "config.json").read_bytes())["attention_bias"] is True
    assert transformers.AutoConfig.from_pretrained("llama").attention_bias is True
    assert [name for name, content in state(llama).items() if content != old[name]] == ["config.json", INDEX]
    project.ok("downgrade", "base", "llama")
    assert (llama / "config.json").read_bytes() == old["config.json"]


def test_reading_commands(project: Folder, llama: Path) -> None:
    old = state(llama)
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    shown = json.loads(project.ok("inspect", "--json", "llama").out)
    assert {each["path"] for each in shown["tensors"]} == {f"{name}" for name in tensors(llama)}
    assert "3 files" in project.ok("inspect", "llama").out
    whole = {name: value.clone() for name, value in tensors(llama).items()}
    torch.save(whole, "whole.pt")
    assert project.run("diff", "llama", "whole.pt").code == 0
    loaded = cm.load("llama")
    assert torch.equal(loaded["model.final.weight"], whole["model.norm.weight"])
    assert project.ok("upgrade", "head", "llama", "--dry-run").out
    assert state(llama) == old


def test_loaded_as_if_upgraded_without_writing(project: Folder, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where no file can be written: a read-only store, a full disk."""
    before, old = tensors(llama), state(project.path)
    declare(
        project,
        "a1",
        'op.Rename("model.norm.weight", "model.final.weight")',
        'op.Fuse(["lm_head.weight", "model.embed_tokens.weight"], "both.weight", dim=0)',
        'op.Cast("both.weight", "float64")',
    )
    monkeypatch.setenv("TMPDIR", "/nowhere")
    loaded = cm.load(llama, map_location="cpu")
    both = torch.cat([before["lm_head.weight"], before["model.embed_tokens.weight"]]).double()
    assert torch.equal(loaded["both.weight"], both)
    assert torch.equal(loaded["model.final.weight"], before["model.norm.weight"])
    assert loaded.keys() - {"both.weight", "model.final.weight"} == before.keys() - {
        "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
    }  # fmt: skip
    assert {name: text for name, text in state(project.path).items() if "versions" not in name} == old


def test_what_cannot_be_loaded_as_if_upgraded(project: Folder, llama: Path) -> None:
    """A shard is a part; a map of devices is for files of torch."""
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight", optional=True)')
    with pytest.raises(cm.MigrateError, match="can only be migrated as a whole"):
        cm.load(shards(llama)[0])
    with pytest.raises(cm.MigrateError, match="map_location is one device for this format, such as 'cpu', not "):
        cm.load("llama", map_location={"cuda:0": "cpu"})
    assert cm.load("llama", map_location="meta")["model.final.weight"].is_meta


def test_another_folder(project: Folder, llama: Path) -> None:
    old = state(llama)
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("upgrade", "head", "llama", "--output", "new")
    assert state(llama) == old
    assert "model.final.weight" in tensors(Path("new"))
    assert (Path("new") / "README.md").read_text() == "# A model\n"
    project.ok("upgrade", "head", "new", "--output", "again")  # nothing to do: a copy
    assert state(Path("again")) == state(Path("new"))


def test_stamp_and_check(project: Folder, llama: Path) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    project.ok("stamp", "head", "llama")
    assert project.ok("current", "llama").out.split()[1:2] == ["a1"]
    strict(llama)


def test_neither_torch_nor_the_library_is_imported_for_a_rename(project: Folder, llama: Path) -> None:
    import subprocess
    import sys

    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    code = (
        "import sys; from anemoi_ckpt_migrate import cli; code = cli.main(['upgrade', 'head', 'llama']); "
        "sys.exit(code or any(name.partition('.')[0] in ('torch', 'safetensors') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Kept values


STASH = ".ckpt_migrate/stash.safetensors"


def test_a_kept_tensor_lies_beside_the_shards_and_comes_back(project: Folder, llama: Path) -> None:
    """Two revisions keep one tensor each: an old one, and one that the first revision made."""
    before = tensors(llama)
    declare(project, "a1", 'op.Drop("lm_head.weight", keep=True)', 'op.Cast("model.norm.weight", "float64")')
    declare(project, "a2", 'op.Drop("model.norm.weight", keep=True)', parents="a1")
    project.ok("upgrade", "a1", "llama", "--check-rollback")
    assert torch.equal(library.load_file(llama / STASH)["0"], before["lm_head.weight"])
    project.ok("upgrade", "head", "llama")
    kept = library.load_file(llama / STASH)
    assert sorted(map(str, (value.dtype for value in kept.values()))) == ["torch.float32", "torch.float64"]
    assert tensors(llama).keys() == before.keys() - {"lm_head.weight", "model.norm.weight"}
    assert not any(STASH in name for name in json.loads((llama / INDEX).read_bytes())["weight_map"].values())
    _, report = transformers.LlamaForCausalLM.from_pretrained(llama, output_loading_info=True)
    assert set(report["missing_keys"]) == {"lm_head.weight", "model.norm.weight"}
    assert not report["unexpected_keys"]
    project.ok("downgrade", "-1", "llama")
    assert len(library.load_file(llama / STASH)) == 1
    project.ok("downgrade", "-1", "llama")
    assert equal(tensors(llama), before)
    assert not (llama / ".ckpt_migrate").exists()
    strict(llama)


TWICE = """

def twice(ckpt):
    ckpt["model.norm.weight"] = ckpt["model.norm.weight"] * 2
    return ckpt


def half(ckpt):
    ckpt["model.norm.weight"] = ckpt["model.norm.weight"] / 2
    return ckpt
"""


def test_a_function_makes_a_tensor_that_is_kept(project: Folder, llama: Path) -> None:
    before = tensors(llama)
    drop = 'op.Drop("model.norm.weight", keep=True)'
    declare(project, "a1", "op.Run(twice, half)", drop, top=TWICE)
    project.ok("upgrade", "head", "llama")
    assert torch.equal(library.load_file(llama / STASH)["0"], before["model.norm.weight"] * 2)
    project.ok("downgrade", "base", "llama")
    assert equal(tensors(llama), before)


def test_a_function_takes_back_a_tensor_that_was_made_and_kept(project: Folder, llama: Path) -> None:
    """It changes the restored tensor in place; the proof of the rollback does so in memory, without a file."""
    before = tensors(llama)
    top = TWICE.replace(
        'ckpt["model.norm.weight"] = ckpt["model.norm.weight"] / 2', 'ckpt["model.norm.weight"].div_(2)'
    )
    declare(project, "a1", "op.Run(twice, half)", 'op.Drop("model.norm.weight", keep=True)', top=top)
    project.ok("upgrade", "head", "llama", "--check-rollback")
    project.ok("downgrade", "base", "llama")
    assert equal(tensors(llama), before)


@pytest.mark.parametrize("how", ["missing", "cut off", "another place", "beyond the end", "no place"])
def test_a_stash_that_lies(project: Folder, llama: Path, how: str) -> None:
    declare(project, "a1", 'op.Drop("model.norm.weight", keep=True)')
    project.ok("upgrade", "head", "llama")
    place = {"another place": ["~7", 0], "beyond the end": ["~0", 1], "no place": ["1", 0]}.get(how)
    if how == "missing":
        (llama / STASH).unlink()
    elif how == "cut off":
        os.truncate(llama / STASH, 50)
    else:
        text = (llama / INDEX).read_text()
        data = json.loads(text)
        stash = data["metadata"]["ckpt_migrate"]["stash"]["a1"]
        found = json.dumps(stash)
        data["metadata"]["ckpt_migrate"]["stash"]["a1"] = json.loads(found.replace('["~0", 0]', json.dumps(place)))
        (llama / INDEX).write_text(json.dumps(data))
    says = "stash.safetensors: it" if how == "cut off" else "keeps for a downgrade is missing or damaged"
    refused(project, 1, says, "downgrade", "base", "llama")


def test_a_stash_that_was_not_copied_along(project: Folder, llama: Path) -> None:
    """`cp llama/* new` leaves the hidden folder out: the next upgrade says so, and the way out that it names works."""
    declare(project, "a1", 'op.Drop("model.norm.weight", keep=True)')
    declare(project, "a2", 'op.Rename("lm_head.weight", "head.weight")', parents="a1")
    project.ok("upgrade", "a1", "llama")
    shutil.rmtree(llama / ".ckpt_migrate")
    refused(project, 1, "(the storage ~0 is missing); restore it from a backup, or", "upgrade", "a2", "llama")
    project.ok("stamp", "--purge", "a1", "llama")
    project.ok("upgrade", "a2", "llama")


ALIAS = """

def alias(ckpt):
    ckpt["flat"] = ckpt["model.norm.weight"]
    return ckpt


def single(ckpt):
    del ckpt["flat"]
    return ckpt
"""


def test_kept_tensors_of_one_place_and_two_shapes(project: Folder, llama: Path) -> None:
    before = tensors(llama)
    drops = (f'op.Drop("{name}", keep=True)' for name in ("flat", "model.norm.weight"))
    declare(project, "a1", "op.Run(alias, single)", 'op.Reshape("flat", [4, 4])', *drops, top=ALIAS)
    project.ok("upgrade", "head", "llama")
    assert sorted(value.dim() for value in library.load_file(llama / STASH).values()) == [1, 2]
    project.ok("downgrade", "base", "llama")
    assert equal(tensors(llama), before)


@pytest.mark.parametrize("kept", [{"$tensor": []}, {"$tensor": ["float32", [1], ["=lm_head.weight", 0]]}, [1], "text"])
def test_a_stash_of_another_kind(project: Folder, llama: Path, kept: object) -> None:
    """The text of config.json is put together again from the stash, in which anyone can have written."""
    declare(project, "a1", 'op.At([], [op.SetItem("attention_bias", True)], records={"config.json": ""})')
    project.ok("upgrade", "head", "llama")
    edited(llama, lambda data: data["metadata"]["ckpt_migrate"]["stash"].update(a1=[kept]))
    refused(project, 1, "damaged", "downgrade", "base", "llama")


def test_what_only_looks_like_a_kept_tensor(project: Folder, llama: Path) -> None:
    """A later version may add to the record; that is kept as it is."""
    declare(project, "a1", 'op.Drop("model.norm.weight", keep=True)')
    declare(project, "a2", 'op.Rename("lm_head.weight", "head.weight")', parents="a1")
    project.ok("upgrade", "a1", "llama")
    edited(llama, lambda data: data["metadata"]["ckpt_migrate"].update(more={"$tensor": []}))
    project.ok("upgrade", "a2", "llama")
    assert json.loads((llama / INDEX).read_bytes())["metadata"]["ckpt_migrate"]["more"] == {"$tensor": []}


# Refused


def refused(project: Folder, code: int, says: str, *words: object) -> None:
    """A command refuses with one sentence, and nothing changes."""
    old = state(project.path)
    ran = project.run(*(words or ("upgrade", "head", "llama")))
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert says in ran.err
    assert state(project.path) == old


@pytest.fixture
def renaming(project: Folder) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')


def edited(llama: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((llama / INDEX).read_bytes())
    change(data)
    (llama / INDEX).write_text(json.dumps(data))


HOSTILE: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a file above": (
        lambda llama: edited(llama, lambda data: data["weight_map"].update({"lm_head.weight": "../x.safetensors"})),
        1,
        "it names '../x.safetensors', which is no file of its folder",
    ),
    "a name with a zero": (
        lambda llama: edited(llama, lambda data: data["weight_map"].update({"lm_head.weight": "a\0"})),
        1,
        "which is no file of its folder",
    ),
    "a missing file": (
        lambda llama: edited(llama, lambda data: data["weight_map"].update({"new": "nothing.safetensors"})),
        1,
        "nothing.safetensors in it cannot be read (no such file or directory)",
    ),
    "a missing shard": (lambda llama: shards(llama)[1].unlink(), 1, "cannot be read (no such file or directory)"),
    "a stale name": (
        lambda llama: edited(llama, lambda data: data["weight_map"].update({"new": shards(llama)[0].name})),
        1,
        "its index says that new is in model-00001-of-00003.safetensors, but no file holds it",
    ),
    "a name without a file": (
        lambda llama: edited(llama, lambda data: data["weight_map"].pop("lm_head.weight")),
        1,
        "lm_head.weight: its index does not name it, but model-",
    ),
    "a tensor in two files": (
        lambda llama: shutil.copy(shards(llama)[0], shards(llama)[1]),
        1,
        "both model-00001-of-00003.safetensors and model-00002-of-00003.safetensors holds it",
    ),
    "a damaged shard": (
        lambda llama: os.truncate(shards(llama)[2], 100),
        1,
        "model-00003-of-00003.safetensors: it",
    ),
    "two sets of weights": (
        lambda llama: (llama / "pytorch_model.bin").write_bytes(b""),
        3,
        f"it has two sets of weights, {INDEX} and pytorch_model.bin",
    ),
    "two generations": (
        lambda llama: shutil.copy(shards(llama)[0], llama / "model-00001-of-00009.safetensors"),
        1,
        "model-00001-of-00009.safetensors in it is not named by",
    ),
    "an optimizer of FSDP": (
        lambda llama: (llama / "optimizer_0").mkdir(),
        3,
        "it has the state of an optimizer in parts, as FSDP writes it (optimizer_0)",
    ),
    "an optimizer of DeepSpeed": (
        lambda llama: (llama / "global_step500").mkdir(),
        3,
        "it has the state of an optimizer in parts, as DeepSpeed writes it (global_step500)",
    ),
    "an index that is no JSON": (lambda llama: (llama / INDEX).write_text("{"), 1, "it cannot be read as JSON"),
    "an index nested deeply": (lambda llama: (llama / INDEX).write_text("[" * 100_000), 1, "nested too deeply"),
    "an index without a map": (lambda llama: (llama / INDEX).write_text("{}"), 1, "does not give a file for each"),
    "an empty map": (lambda llama: (llama / INDEX).write_text('{"weight_map": {}}'), 1, "its weight_map is empty"),
    "a name twice": (
        lambda llama: (llama / INDEX).write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        1,
        "it names 'a' twice",
    ),
    "a map of lists": (lambda llama: (llama / INDEX).write_text('{"weight_map": {"a": []}}'), 1, "does not give"),
    "a link out of it": (
        lambda llama: (shards(llama)[0].rename("elsewhere"), shards(llama)[0].with_name("x").symlink_to("/etc"))
        and (llama / "model-00001-of-00003.safetensors").symlink_to(Path("elsewhere").resolve()),
        3,
        "model-00001-of-00003.safetensors in it is a link that leads out of the folder",
    ),
    "a link in it": (
        lambda llama: shards(llama)[0].rename(llama / "blob") and shards(llama)[0].with_name(
            "model-00001-of-00003.safetensors"
        ).symlink_to("blob"),
        3,
        "model-00001-of-00003.safetensors in it is a link, as in the cache of a hub; write elsewhere with --output",
    ),
    "a folder as a shard": (
        lambda llama: shards(llama)[0].unlink() or (llama / "model-00001-of-00003.safetensors").mkdir(),
        1,
        "model-00001-of-00003.safetensors in it is not a regular file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.usefixtures("renaming")
def test_a_folder_that_lies(project: Folder, llama: Path, attack: str) -> None:
    change, code, says = HOSTILE[attack]
    change(llama)
    refused(project, code, says)
    assert not leftovers(project.path)


@pytest.mark.usefixtures("renaming")
def test_a_cache_of_the_hub(project: Folder, llama: Path) -> None:
    """models--x/snapshots/abc/model... -> ../../blobs/1: not written, but copied to another folder."""
    blobs, snapshot = Path("models--x/blobs"), Path("models--x/snapshots/abc")
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, each in enumerate(sorted(llama.iterdir())):
        if each.is_file():
            shutil.copy(each, blobs / str(number))
            (snapshot / each.name).symlink_to(f"../../blobs/{number}")
    old = state(Path("models--x"))
    refused(
        project, 3, "is a link, as in the cache of a hub; write elsewhere with --output", "upgrade", "head", snapshot
    )
    project.ok("upgrade", "head", snapshot, "--output", "new")
    assert state(Path("models--x")) == old
    assert "model.final.weight" in tensors(Path("new"))
    assert not any(each.is_symlink() for each in Path("new").iterdir())
    assert torch.equal(cm.load(snapshot)["model.final.weight"], tensors(llama)["model.norm.weight"])


def test_a_config_that_is_a_link(project: Folder, llama: Path) -> None:
    """It is changed like a file if it leads to one in the folder; the file that it leads to stays."""
    (llama / "config.json").rename(llama / "base.txt")
    (llama / "config.json").symlink_to("base.txt")
    (llama / "away.json").symlink_to("../pyproject.toml")
    (llama / "nowhere.json").symlink_to("missing")
    change = 'op.At([], [op.SetItem("attention_bias", True)], records={"config.json": ""}, optional=True)'
    declare(project, "a1", change)
    project.ok("upgrade", "head", "llama", "--verify")
    assert json.loads((llama / "config.json").read_bytes())["attention_bias"] is True
    assert json.loads((llama / "base.txt").read_bytes())["attention_bias"] is False
    assert (llama / "away.json").is_symlink()
    project.ok("downgrade", "base", "llama")
    assert (llama / "config.json").read_bytes() == (llama / "base.txt").read_bytes()


@pytest.mark.parametrize("named", [".", INDEX, "../llama", "runs/.."])
def test_the_current_folder(
    project: Folder, llama: Path, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be the backup after the exchange, and the next command would change that."""
    old = state(llama)
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    monkeypatch.chdir(llama)
    ran = project.run("upgrade", "head", named)
    assert ran.code == 3
    assert f"run the command from another one, with {llama}" in ran.err
    assert state(llama) == old
    project.ok("upgrade", "head", named, "--dry-run")
    project.ok("upgrade", "head", named, "--output", "../new")
    monkeypatch.chdir("..")
    project.ok("upgrade", "head", llama)


def test_a_path_that_ends_in_dots(project: Folder, llama: Path) -> None:
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    ran = project.ok("upgrade", "head", "llama/runs/..")
    assert f"the old file is kept as {project.path / 'llama.bak'}" in ran.out


@pytest.mark.usefixtures("renaming")
def test_in_place_is_refused_with_the_way_out(project: Folder, llama: Path) -> None:
    refused(
        project,
        3,
        "which is only ever replaced as a whole; leave out --in-place",
        "upgrade",
        "head",
        llama,
        "--in-place",
    )
    project.ok("upgrade", "head", llama)


@pytest.mark.usefixtures("renaming")
def test_a_shard_alone_is_refused_and_its_folder_is_the_way(project: Folder, llama: Path) -> None:
    refused(
        project,
        3,
        "which can only be migrated as a whole; give the path of its folder",
        "upgrade",
        "head",
        shards(llama)[0],
    )
    project.ok("upgrade", "head", llama)


@pytest.mark.usefixtures("renaming")
def test_a_folder_that_is_no_checkpoint(project: Folder) -> None:
    Path("nothing").mkdir()
    refused(project, 2, "nothing: it is a directory, not a checkpoint", "upgrade", "head", "nothing")


@pytest.mark.usefixtures("renaming")
def test_a_pipeline_names_its_models(project: Folder, llama: Path) -> None:
    Path("pipe").mkdir()
    Path("pipe/model_index.json").write_text("{}")
    llama.rename("pipe/text_encoder")
    refused(
        project,
        3,
        "it is a pipeline of diffusers; each of its models is a checkpoint of its own: give pipe/text_encoder",
        "upgrade",
        "head",
        "pipe",
    )
    project.ok("upgrade", "head", "pipe/text_encoder")


@pytest.mark.usefixtures("renaming")
def test_a_folder_that_is_protected(project: Folder, llama: Path) -> None:
    llama.chmod(0o555)
    refused(project, 3, "it is read-only; allow writing")
    llama.chmod(0o755)
    project.ok("upgrade", "head", "llama")


@pytest.mark.usefixtures("renaming")
def test_a_mount_point(project: Folder, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does not rename one; the fault is raised here, as only root can mount."""

    def busy(source: Path, target: Path, flags: int) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patched:
        patched.setattr(folder_exchange, "_rename", busy)
        refused(project, 1, "llama: it is a mount point, which no other folder can replace; write elsewhere")
    project.ok("upgrade", "head", "llama", "--output", "new")


def test_the_way_out_for_one_file_of_torch(project: Folder, llama: Path) -> None:
    Path("old").mkdir()
    torch.save(tensors(llama), "old/pytorch_model.bin")
    declare(project, "a1", 'op.Rename("model.norm.weight", "model.final.weight")')
    says = "its weights are in pytorch_model.bin, a file of torch.save; give the path of that file"
    refused(project, 3, says, "upgrade", "head", "old")
    project.ok("upgrade", "head", "old/pytorch_model.bin")
    assert "model.final.weight" in torch.load("old/pytorch_model.bin")
