"""A file that is a checkpoint only together with others is never changed alone; those that read say what it is."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.storage import folder_names
from tests.support.project import RENAME, Folder, digest, names

torch = pytest.importorskip("torch")

WRITE = (
    ["upgrade", "head"],
    ["upgrade", "head", "--in-place"],
    ["upgrade", "head", "--dry-run"],
    ["upgrade", "head", "-o", "elsewhere.ckpt"],
    ["downgrade", "base"],
    ["sync"],
    ["stamp", "head"],
    ["compact"],
    ["compact", "-o", "elsewhere.ckpt"],
    ["recover"],
)


@pytest.fixture
def chain(project: Folder) -> Folder:
    project.script("a1", None, **RENAME)
    return project


def saved(path: str, tree: object = None) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"x.weight": torch.ones(3)} if tree is None else tree, path)
    return Path(path)


def content(folder: Path) -> dict[str, str]:
    return {str(path): digest(path) for path in folder.rglob("*") if path.is_file()}


def no_command_writes(chain: Folder, member: Path, *says: str) -> None:
    before = content(chain.path)
    for words in WRITE:
        ran = chain.run(*words, member)
        assert (ran.code, ran.err.count("\n")) == (3, 1), (words, ran.err)
        assert all(part in ran.err for part in says), ran.err
    assert content(chain.path) == before


@pytest.mark.parametrize(
    ("member", "others", "kind"),
    [
        ("hf/pytorch_model-00001-of-00002.bin", [], "a sharded checkpoint (hf/pytorch_model-*-of-00002.bin)"),
        ("hf/model-01-of-16.pt", [], "a sharded checkpoint"),
        ("llama/consolidated.00.pth", ["llama/consolidated.01.pth"], "a checkpoint of Llama in parallel parts"),
        ("llama/consolidated.01.pth", [], "a checkpoint of Llama in parallel parts"),
        ("ds/mp_rank_00_model_states.pt", [], "a checkpoint of DeepSpeed (ds)"),
        ("ds/zero_pp_rank_0_mp_rank_00_optim_states.pt", [], "a checkpoint of DeepSpeed"),
        ("ds/bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt", [], "a checkpoint of DeepSpeed"),
        ("ds/zero_pp_rank_1_mp_rank_00_model_states.pt", [], "a checkpoint of DeepSpeed"),
        ("ds/layer_03-model_00-model_states.pt", [], "a checkpoint of DeepSpeed"),
        ("ds/layer_0_expert_2_mp_rank_00_model_states.pt", [], "a checkpoint of DeepSpeed"),
        ("ds/zero/layers.0.weight/exp_avg.pt", [], "a checkpoint of DeepSpeed"),
        ("iter_0000100/mp_rank_00/model_optim_rng.pt", [], "a checkpoint of Megatron (iter_0000100)"),
        ("iter_0000100/mp_rank_01_002/distrib_optim.pt", [], "a checkpoint of Megatron"),
        ("nemo/tp_rank_00_pp_rank_001/model_weights.ckpt", [], "a checkpoint of Megatron"),
        ("fsdp/pytorch_model_fsdp_rank0.bin", ["fsdp/pytorch_model_fsdp_rank1.bin"], "a file for each rank"),
        ("fsdp/rank_0.pt", ["fsdp/rank_1.pt"], "a file for each rank"),
        ("fairseq/checkpoint_best-shard0.pt", ["fairseq/checkpoint_best-shard1.pt"], "a file for each rank"),
        ("lightning.ckpt/meta.pt", ["lightning.ckpt/.metadata"], "torch.distributed.checkpoint) (lightning.ckpt)"),
    ],
)
def test_no_command_writes_a_member(chain: Folder, member: str, others: list[str], kind: str) -> None:
    for other in others:
        Path(other).parent.mkdir(exist_ok=True)
        Path(other).touch()
    no_command_writes(chain, saved(member), "it is part of ", kind, "which can only be migrated as a whole; ")
    for words in (["inspect"], ["current"]):
        ran = chain.ok(*words, member)
        assert f"{kind}" in ran.err


@pytest.mark.parametrize(
    "whole",
    [
        "pytorch_model-00001-of-00001.bin",
        "consolidated.00.pth",
        "rank_0.pt",
        "epoch=3-step=00001.ckpt",
        "model_states.pt",
        "exp_avg.pt",
        "my_optim_states.pt",
    ],
)
def test_a_file_that_is_whole_by_itself_is_migrated(chain: Folder, whole: str) -> None:
    chain.script("a1", None, 'ckpt["y.weight"] = ckpt.pop("x.weight")')
    chain.ok("upgrade", "head", saved(whole))
    assert "y.weight" in names(Path(whole))


# How Llama's published code divides each tensor between its parts: along rows, along columns, or not at all.
LLAMA = {
    "tok_embeddings.weight": ((10, 8), 1),
    "layers.0.attention.wq.weight": ((8, 8), 0),
    "layers.0.attention.wo.weight": ((8, 8), 1),
    "layers.0.feed_forward.w1.weight": ((12, 8), 0),
    "layers.0.feed_forward.w2.weight": ((8, 12), 1),
    "layers.0.attention_norm.weight": ((8,), None),
    "output.weight": ((10, 8), 0),
}


def test_the_way_out_for_parts_of_llama(chain: Folder) -> None:
    """The parts of each tensor are joined and saved as one file, which is migrated; a part is refused."""
    chain.script("a1", None, 'ckpt["lm_head.weight"] = ckpt.pop("output.weight")')
    whole = {name: torch.randn(shape) for name, (shape, _) in LLAMA.items()}
    for number in (0, 1):
        part = {
            name: whole[name] if axis is None else whole[name].chunk(2, axis)[number].clone()
            for name, (_, axis) in LLAMA.items()
        }
        saved(f"llama/consolidated.0{number}.pth", part)
    ran = chain.run("upgrade", "head", "llama/consolidated.00.pth")
    assert ran.code == 3
    assert "join the parts of each tensor, save them as one file, and migrate that" in ran.err

    parts = [torch.load(path) for path in sorted(Path("llama").glob("consolidated.*.pth"))]
    joined = {
        name: parts[0][name] if axis is None else torch.cat([part[name] for part in parts], axis)
        for name, (_, axis) in LLAMA.items()
    }
    path = saved("joined/consolidated.00.pth", joined)
    chain.ok("upgrade", "head", path)
    migrated = torch.load(path)
    assert torch.equal(migrated.pop("lm_head.weight"), whole.pop("output.weight"))
    assert all(torch.equal(migrated[name], whole[name]) for name in whole)


def sharded(folder: str, one: str, other: str) -> dict[str, str]:
    parts = {one: ["x.weight", "x.bias"], other: ["head.weight"]}
    for file, held in parts.items():
        saved(f"{folder}/{file}", {name: torch.ones(2) for name in held})
    weight_map = {name: file for file, held in parts.items() for name in held}
    Path(folder, "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_an_index_makes_members_of_files_whatever_their_names(chain: Folder) -> None:
    """An index names them: one.bin and two.bin. three.bin is not among them, and an index that is none names nothing."""
    sharded("hf", "one.bin", "two.bin")
    no_command_writes(chain, Path("hf/one.bin"), "a sharded checkpoint (hf/pytorch_model.bin.index.json)")
    saved("hf/three.bin")
    for text in ("[", "[]", '{"weight_map": 1}', '{"weight_map": {"x": 5}}'):
        Path("hf/a.index.json").write_text(text)
        chain.ok("stamp", "head", "hf/three.bin", "--no-backup")
        chain.ok("stamp", "base", "hf/three.bin", "--no-backup")


def test_a_link_to_a_member_is_one(chain: Folder) -> None:
    """As in the cache of Hugging Face, where names of snapshots lead to blobs; and the other way round."""
    saved("blobs/6b1f")
    os.makedirs("snapshot")
    os.symlink("../blobs/6b1f", "snapshot/pytorch_model-00001-of-00002.bin")
    no_command_writes(chain, Path("snapshot/pytorch_model-00001-of-00002.bin"), "a sharded checkpoint")
    saved("hf/pytorch_model-00001-of-00002.bin")
    os.symlink("hf/pytorch_model-00001-of-00002.bin", "best.ckpt")
    no_command_writes(chain, Path("best.ckpt"), "a sharded checkpoint")


def test_the_way_out_for_shards(chain: Folder) -> None:
    """Give the folder."""
    chain.script("a1", None, 'ckpt["y.weight"] = ckpt.pop("x.weight")')
    sharded("hf", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    ran = chain.run("upgrade", "head", "hf/pytorch_model-00002-of-00002.bin")
    assert "give the path of its folder" in ran.err
    chain.ok("upgrade", "head", "hf")
    index = json.loads(Path("hf/pytorch_model.bin.index.json").read_bytes())
    assert set(index["weight_map"]) >= {"y.weight", "x.bias", "head.weight"}


def test_the_way_out_for_shards_without_an_index(chain: Folder) -> None:
    """Load all, save one file, migrate that."""
    chain.script("a1", None, 'ckpt["y.weight"] = ckpt.pop("x.weight")')
    weight_map = sharded("hf", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    Path("hf/pytorch_model.bin.index.json").unlink()
    ran = chain.run("upgrade", "head", "hf/pytorch_model-00002-of-00002.bin")
    assert "load all its files, save them as one with torch.save, and migrate that" in ran.err
    files = [torch.load(Path("hf", name)) for name in sorted(set(weight_map.values()))]
    torch.save({name: tensor for file in files for name, tensor in file.items()}, "whole.bin")
    chain.ok("upgrade", "head", "whole.bin")
    assert set(torch.load("whole.bin")) >= {"y.weight", "x.bias", "head.weight"}


def test_the_way_out_for_a_megatron_of_one_rank(chain: Folder) -> None:
    member = saved("iter_0000100/mp_rank_00/model_optim_rng.pt", {"state_dict": {"x.weight": torch.ones(2)}})
    ran = chain.run("upgrade", "head", member)
    assert "a single file can be copied out of its folder and migrated there" in ran.err
    Path("copy.pt").write_bytes(member.read_bytes())
    chain.ok("upgrade", "head", "copy.pt")
    assert names(Path("copy.pt")) == ["y.weight"]


@pytest.fixture
def distributed(chain: Folder) -> Path:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    tree = {"state_dict": {f"x.{number}": torch.ones(64) for number in range(3)}}
    checkpoint.save(tree, checkpoint_id="dcp", no_dist=True)
    return Path("dcp/__0_0.distcp")


def test_a_file_of_a_distributed_checkpoint(chain: Folder, distributed: Path) -> None:
    no_command_writes(chain, distributed, "a distributed checkpoint (torch.distributed.checkpoint) (dcp)")
    no_command_writes(chain, distributed.with_name(".metadata"), "give its folder, dcp")


def test_several_archives_in_one_file_whatever_its_name(chain: Folder, distributed: Path) -> None:
    """Only the last one could be seen, and writing would lose the others."""
    renamed = distributed.rename("renamed.ckpt")
    before = digest(renamed)
    for words in (*WRITE[:-1], ["inspect"], ["current"]):  # there is nothing to recover
        ran = chain.run(*words, renamed)
        assert (ran.code, "it holds several archives, one after the other" in ran.err) == (3, True), ran.err
    assert digest(renamed) == before


def test_the_way_out_for_a_distributed_checkpoint(chain: Folder, distributed: Path) -> None:
    chain.script("a1", None, 'ckpt["state_dict"]["y"] = ckpt["state_dict"].pop("x.0")')
    told = chain.run("upgrade", "head", distributed).err.rpartition("give its folder, ")[2].strip()
    chain.ok("upgrade", "head", told)
    assert "state_dict.y" in {tensor.path for tensor in cm.inspect(told).tensors}


@pytest.mark.parametrize("offsets", ["as they were", "moved along"])
def test_bytes_before_the_archive_are_refused_by_every_command(chain: Folder, offsets: str) -> None:
    """torch takes such a file for one of before 1.6, and runs the pickle in front."""
    whole = saved("whole.ckpt")
    hidden = Path("hidden.ckpt")
    hidden.write_bytes(b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR.")
    if offsets == "as they were":
        hidden.write_bytes(hidden.read_bytes() + whole.read_bytes())
    else:
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(hidden, "a") as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
    before = digest(hidden)
    for words in (*WRITE[:-1], ["inspect"], ["current"]):
        ran = chain.run(*words, hidden)
        assert (ran.code, "bytes before its first record" in ran.err) == (1, True), ran.err
    assert digest(hidden) == before


def test_what_was_written_in_place_again_and_again_is_no_such_file(chain: Folder) -> None:
    """Its first record is no longer the first thing in the file. With anything in front it is refused as any other."""
    checkpoint = chain.copy()
    for target in ("a1", "base", "a1"):
        chain.ok("stamp", target, checkpoint, "--in-place")
    chain.ok("inspect", checkpoint)
    Path("two.ckpt").write_bytes(chain.copy(to="first.ckpt").read_bytes() + checkpoint.read_bytes())
    assert chain.run("inspect", "two.ckpt").code == 3


def test_a_folder_is_listed_once_for_all_its_files(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand files in one folder are not to list it ten thousand times; each folder is its own."""
    tree = {"state_dict": {"x.weight": torch.ones(3)}}
    files = [saved(f"{folder}/{name}.pt", tree) for folder in ("a", "b") for name in ("one", "two", "three")]
    Path("b/x.index.json").write_text(json.dumps({"weight_map": {"x.weight": "two.pt"}}))
    listed, real = list[str](), os.listdir

    def listing(path: str) -> list[str]:
        listed.append(str(path))
        return real(path)

    monkeypatch.setattr(folder_names.os, "listdir", listing)
    for words in (["current"], ["upgrade", "head"]):
        del listed[:]
        ran = chain.run(*words, *files)
        assert "b/two.pt" in ran.out + ran.err
        assert "part of a sharded checkpoint (b/x.index.json)" in ran.out + ran.err
        assert sorted(Path(path).name for path in listed) == ["a", "b"]
    assert [path for path in files if "y.weight" not in names(path)] == [Path("b/two.pt")]
    Path("a/x.index.json").write_text(json.dumps({"weight_map": {"x.weight": "one.pt"}}))
    assert chain.run("upgrade", "head", files[0]).code == 3  # the next run looks anew
