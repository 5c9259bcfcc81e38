"""Distributed checkpoints: migrated by their metadata, taken back, and loaded by torch's own loaders."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support import distributed  # noqa: E402
from tests.support.distributed import (  # noqa: E402
    as_one_file,
    data_files,
    equal_unordered,
    load_into,
    new_files,
    run_lightning,
    save,
)
from tests.support.operations import FUSING, New, Old, batches, declare, equal, train  # noqa: E402
from tests.support.project import Folder  # noqa: E402
from tests.support.ranks import Ranks  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that every test copies: from one process, with both kinds of optimizers."""
    folder = tmp_path_factory.mktemp("saved")
    distributed.save_trained(folder / "single")
    distributed.save_trained(folder / "flat", flat=True)
    return folder


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """Folders from two processes: cut by rows (FSDP2), and by columns."""
    folder = tmp_path_factory.mktemp("of_ranks")
    distributed.run_ranks(ranks, 2, "save_rows", folder / "rows")
    distributed.run_ranks(ranks, 2, "save_columns", folder / "columns")
    return folder


def copied(project: Folder, folder: Path) -> Path:
    return Path(shutil.copytree(folder, project.path / folder.name, copy_function=shutil.copy2))


def metadata(folder: Path) -> Any:
    """Return the metadata, as torch reads it."""
    return pickle.loads((folder / ".metadata").read_bytes())


def model(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    tensors = {
        f"{part}.{kind}": torch.randn(4, 4) if kind == "weight" else torch.randn(4)
        for part in "qkv"
        for kind in ("weight", "bias")
    }
    return {**tensors, "norm.count": torch.tensor(7), "out.weight": torch.randn(2, 4), **more}


def loaded(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Load exactly these tensors with `dcp.load`, which fails if one is missing or has another shape."""
    found = {name: torch.full_like(value, 99) for name, value in like.items()}
    torch.distributed.checkpoint.load(found, checkpoint_id=folder, no_dist=True)
    return found


def test_a_rename_changes_the_metadata_alone(project: Folder, saved: Path) -> None:
    """single: out -> head and back. All three maps follow, and no other file is touched or made."""
    folder = save(model(), project.path / "ckpt")
    before, files = metadata(folder), data_files(folder)
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = metadata(folder)
    assert "head.weight" in after.state_dict_metadata
    assert after.planner_data["head.weight"] == ("head.weight",)
    assert {index.fqn for index in after.storage_data} == set(after.state_dict_metadata)
    new = {name.replace("out.", "head."): value for name, value in model().items()}
    assert equal(loaded(folder, new), new)
    assert "a1" in project.ok("current", folder).out
    project.ok("downgrade", "base", folder)
    assert equal(loaded(folder, model()), model())
    restored = metadata(folder)
    assert (restored.state_dict_metadata, restored.planner_data, restored.storage_data, restored.storage_meta) == (
        before.state_dict_metadata,
        before.planner_data,
        before.storage_data,
        before.storage_meta,
    )
    assert data_files(folder) == files
    assert new_files(folder) == []


# Each operation, whether it needs a new file, and the tensors afterwards.
OPERATIONS: dict[str, tuple[str, bool, Callable[[dict[str, Any]], Any]]] = {
    "rename": ('op.Rename("out.weight", "head")', False, lambda old: {"head": old["out.weight"]}),
    "fuse": ('op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")', False, lambda old: {"qkv.bias": torch.cat([old["q.bias"], old["k.bias"], old["v.bias"]])}),
    "fuse columns": ('op.Fuse(["q.weight", "k.weight"], "qk", dim=1)', False, lambda old: {"qk": torch.cat([old["q.weight"], old["k.weight"]], 1)}),
    "split": ('op.Split("q.weight", ["a", "b"])', True, lambda old: {"b": old["q.weight"][2:]}),
    "stack": ('op.Stack(["q.bias", "k.bias"], "s")', True, lambda old: {"s": torch.stack([old["q.bias"], old["k.bias"]])}),
    "unstack": ('op.Unstack("out.weight", ["a", "b"])', True, lambda old: {"b": old["out.weight"][1]}),
    "transpose": ('op.Transpose("out.weight")', True, lambda old: {"out.weight": old["out.weight"].T}),
    "reshape": ('op.Reshape("out.weight", [4, 2])', True, lambda old: {"out.weight": old["out.weight"].reshape(4, 2)}),
    "cast": ('op.Cast("out.weight", "float64")', True, lambda old: {"out.weight": old["out.weight"].double()}),
    "pad": ('op.Pad("out.weight", 3)', True, lambda old: {"out.weight": torch.cat([old["out.weight"], torch.zeros(3, 4)])}),
    "crop": ('op.Crop("out.weight", 1)', True, lambda old: {"out.weight": old["out.weight"][:-1]}),
    "add": ('op.Add("new", [2, 3], fill=1.5)', True, lambda old: {"new": torch.full((2, 3), 1.5)}),
    "drop": ('op.Drop("out.weight", keep=True)', False, lambda old: {}),
    "reorder": ('op.Reorder(["k.bias", "q.bias"])', False, lambda old: {"k.bias": old["k.bias"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_and_back(project: Folder, kind: str) -> None:
    operation, makes, expected = OPERATIONS[kind]
    folder = save(model(), project.path / "ckpt")
    files = data_files(folder)
    declare(project, "a1", operation)
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert len(new_files(folder)) == makes
    after, wanted = as_one_file(folder), expected(model())
    assert equal({name: after[name] for name in wanted}, {name: value.contiguous() for name, value in wanted.items()})
    untouched = [name for name in after if name in model() and name not in wanted]
    assert equal({name: after[name] for name in untouched}, {name: model()[name] for name in untouched})
    assert loaded(folder, after).keys() == metadata(folder).state_dict_metadata.keys()
    project.ok("downgrade", "base", folder)
    assert equal(loaded(folder, model()), model())
    assert data_files(folder) == files


def test_a_fused_tensor_is_parted_again_without_a_new_file(project: Folder) -> None:
    folder = save(model(), project.path / "ckpt")
    declare(project, "a1", 'op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")')
    declare(project, "b2", 'op.Split("qkv.weight", ["one", "two", "three"])', parents="a1")
    project.ok("upgrade", "head", folder)
    assert new_files(folder) == []
    assert torch.equal(as_one_file(folder)["two"], model()["k.weight"])


def test_what_is_kept_of_a_dropped_tensor_is_its_place(project: Folder) -> None:
    """keep=True: the entry moves into the record; after training saved anew, it would be gone with its file."""
    folder = save(model(), project.path / "ckpt")
    declare(project, "a1", 'op.Drop("out.weight", keep=True)')
    project.ok("upgrade", "head", folder)
    record = metadata(folder).ckpt_migrate
    assert json.loads(json.dumps(record)) == record  # plain data
    assert "out.weight" not in as_one_file(folder)
    project.ok("downgrade", "base", folder)
    assert torch.equal(as_one_file(folder)["out.weight"], model()["out.weight"])


def test_a_file_in_which_only_kept_values_still_lie(project: Folder) -> None:
    """All other tensors were made anew, so the map of files no longer names the file that torch wrote."""
    folder = save({"a": torch.arange(4.0), "b": torch.arange(3.0)}, project.path / "ckpt")
    declare(project, "a1", 'op.Cast("a", "float64")', 'op.Drop("b", keep=True)')
    project.ok("upgrade", "head", folder)
    assert list(as_one_file(folder)) == ["a"]
    assert project.ok("current", "--json", folder).lines[0]["at_head"]
    project.ok("downgrade", "base", folder, "--output", "old")
    assert torch.equal(as_one_file(project.path / "old")["b"], torch.arange(3.0))
    (folder / "__0_0.distcp").unlink()
    assert "the migration record in the checkpoint is damaged" in project.run("downgrade", "base", folder).err
    assert torch.equal(as_one_file(folder)["a"], torch.arange(4.0).double())


@pytest.mark.parametrize("flat", [False, True])
def test_the_optimizer_follows(project: Folder, saved: Path, flat: bool) -> None:
    """Old -> New by operations; the next steps are those of the model that was changed by hand."""
    folder = copied(project, saved / ("flat" if flat else "single"))
    files = data_files(folder)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder, "--check-rollback")
    model, optimizer = load_into(folder, New, flat)
    old, old_optimizer = load_into(saved / ("flat" if flat else "single"), Old, flat)
    by_hand(old, old_optimizer, model)
    train(old, old_optimizer, batches(3, seed=1))
    train(model, optimizer, batches(3, seed=1))
    for part, name in enumerate("qkv"):
        assert torch.equal(model.qkv.weight.chunk(3)[part], getattr(old, name).weight)  # type: ignore[union-attr]
    assert torch.equal(model.proj.weight, old.out.weight)  # type: ignore[union-attr]
    project.ok("downgrade", "base", folder)
    restored, wanted = as_one_file(folder), as_one_file(copied_beside(project, saved / ("flat" if flat else "single")))
    assert sorted(restored) == sorted(wanted)
    assert equal_unordered(restored, wanted)
    assert data_files(folder) == files


def by_hand(old: Any, optimizer: Any, new: Any) -> None:
    """Check the loaded weights and moments against those of the old model."""
    assert torch.equal(new.qkv.weight, torch.cat([old.q.weight, old.k.weight, old.v.weight]))
    assert torch.equal(new.norm.running_mean, old.norm.running_mean)


def copied_beside(project: Folder, folder: Path) -> Path:
    return Path(shutil.copytree(folder, project.path / f"{folder.name}.wanted", copy_function=shutil.copy2))


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_chunks_of_two_ranks(project: Folder, of_ranks: Path, kind: str) -> None:
    """Each weight has two chunks in two files; a fuse of three has six, whichever way they are cut."""
    folder = copied(project, of_ranks / kind)
    files, before = data_files(folder), as_one_file(of_ranks / kind)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert len(metadata(folder).state_dict_metadata["model.qkv.weight"].chunks) == 6
    assert len(new_files(folder)) == 1  # the list of names in the optimizer's group, and no tensor
    assert sum((folder / name).stat().st_size for name in new_files(folder)) < 1000
    after = as_one_file(folder)
    parts = [before["model"][f"{part}.weight"] for part in "qkv"]
    assert torch.equal(after["model"]["qkv.weight"], torch.cat(parts))
    moments = [before["optimizer"]["state"][f"{part}.weight"]["exp_avg"] for part in "qkv"]
    assert torch.equal(after["optimizer"]["state"]["qkv.weight"]["exp_avg"], torch.cat(moments))
    assert after["optimizer"]["param_groups"][0]["params"][0] == "qkv.weight"
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), before)
    assert data_files(folder) == files


@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_ranks_load_it(project: Folder, of_ranks: Path, ranks: Ranks, count: int) -> None:
    folder = copied(project, of_ranks / "rows")
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder)
    distributed.run_ranks(ranks, count, "load_new", folder)
    content = torch.load(project.path / "rows.loaded.pt")
    wanted = as_one_file(folder)
    assert equal_unordered(content["model"], wanted["model"])
    assert torch.equal(
        content["optimizer"]["state"]["qkv.weight"]["exp_avg"], wanted["optimizer"]["state"]["qkv.weight"]["exp_avg"]
    )


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_content_of_several_chunks(project: Folder, of_ranks: Path, kind: str) -> None:
    """A cast, a transposition and a split across chunks put the assembled tensors into one new file."""
    folder = copied(project, of_ranks / kind)
    before, files = as_one_file(of_ranks / kind)["model"], data_files(folder)
    declare(
        project,
        "a1",
        'op.Cast("q.weight", "float64")',
        'op.Transpose("k.weight")',
        'op.Split("v.weight", ["a.weight", "b.weight"], sizes=[3, 5], dim=1)',
    )
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)["model"]
    assert torch.equal(after["q.weight"], before["q.weight"].double())
    assert torch.equal(after["k.weight"], before["k.weight"].T)
    assert torch.equal(after["a.weight"], before["v.weight"][:, :3])
    assert torch.equal(after["b.weight"], before["v.weight"][:, 3:])
    assert len(new_files(folder)) == 1
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder)["model"], before)
    assert data_files(folder) == files


def test_a_function_gets_real_tensors(project: Folder, of_ranks: Path) -> None:
    """Only the tensor that it changed is written."""
    folder = copied(project, of_ranks / "rows")
    before = as_one_file(of_ranks / "rows")
    project.script("a1", None, 'ckpt["model"]["q.bias"] = ckpt["model"]["q.bias"] * 2', 'ckpt["model"]["q.bias"] /= 2')
    project.ok("upgrade", "head", folder)
    assert torch.equal(as_one_file(folder)["model"]["q.bias"], before["model"]["q.bias"] * 2)
    found = metadata(folder).storage_data.items()
    assert [index.fqn for index, place in found if "ckpt_migrate" in place.relative_path] == ["model.q.bias"]
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), before)


def test_a_new_folder(project: Folder, saved: Path) -> None:
    """--output: the new folder is complete; the old one is as it was."""
    folder = copied(project, saved / "single")
    names, files = sorted(path.name for path in folder.iterdir()), data_files(folder)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder, "--output", project.path / "new")
    assert load_into(project.path / "new", New)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert data_files(folder) == files
    assert project.run("upgrade", "head", folder, "--output", project.path / "new").code == 1  # it exists


def test_the_old_metadata_is_kept(project: Folder, saved: Path) -> None:
    folder = copied(project, saved / "single")
    before = (folder / ".metadata").read_bytes()
    declare(project, "a1", *FUSING)
    assert ".metadata.bak" in project.ok("upgrade", "head", folder).out
    assert (folder / ".metadata.bak").read_bytes() == before
    project.ok("downgrade", "base", folder, "--no-backup")
    assert not (folder / ".metadata.bak1").exists()
    (folder / ".metadata.bak").replace(folder / ".metadata")  # a way back without this tool
    assert load_into(folder, Old)


def test_reading_commands(project: Folder, saved: Path, of_ranks: Path) -> None:
    folder = copied(project, of_ranks / "rows")
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder, "--output", "new")
    assert "2 files, 2 ranks" in project.ok("inspect", folder).out
    assert "give its folder" in project.run("inspect", folder / ".metadata").err
    assert project.run("recover", folder).code == project.run("compact", folder).code == 0
    assert "model.q.weight" in {tensor.path for tensor in cm.inspect(folder).tensors}
    assert "a1" in project.ok("current", "new").out
    assert "qkv" in project.ok("diff", folder, "new").out
    assert cm.inspect(folder, verify=True).damaged == ()
    project.ok("check", "--rollback", folder, "new")
    project.ok("stamp", "head", folder)
    assert "a1" in project.ok("current", folder).out


def test_a_folder_beside_the_file_that_came_from_it(project: Folder, of_ranks: Path) -> None:
    """`diff` compares across formats, bit by bit; `revision --autogenerate` finds operations between them."""
    folder = copied(project, of_ranks / "rows")
    torch.save(as_one_file(folder), project.path / "one.ckpt")
    same = project.ok("diff", "one.ckpt", folder)
    assert "op." not in same.out, same.out
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder)
    ran = project.ok("diff", "one.ckpt", folder)
    assert "op.Fuse" in ran.out
    assert 'op.RenamePrefix("out.", "proj.")' in ran.out


def test_load_as_if_upgraded(project: Folder, saved: Path) -> None:
    folder = copied(project, saved / "single")
    names, before = sorted(path.name for path in folder.iterdir()), as_one_file(saved / "single")
    declare(project, "a1", *FUSING)
    content = cm.load(folder, project=project.path)
    assert torch.equal(content["model"]["qkv.weight"], torch.cat([before["model"][f"{part}.weight"] for part in "qkv"]))
    assert content["epoch"] == 3
    with cm.upgraded(folder, project=project.path) as copy:
        assert load_into(copy, New)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_neither_torch_nor_numpy_is_imported_for_a_rename(project: Folder, of_ranks: Path) -> None:
    folder = copied(project, of_ranks / "rows")
    declare(project, "a1", *FUSING)
    code = f"""
import sys
from anemoi_ckpt_migrate import cli
assert cli.main(["upgrade", "head", {str(folder)!r}]) == 0
print([name for name in ("torch", "numpy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_lightning_goes_on_as_if_it_had_been_renamed_by_hand(project: Folder, of_lightning: Path, ranks: Ranks) -> None:
    """One more step of each, on two processes: the old model from the old folder, the new one from the migrated."""
    folder = copied(project, of_lightning)
    declare(
        project,
        "a1",
        'op.Fuse(["model.q.{i}", "model.k.{i}", "model.v.{i}"], "model.qkv.{i}")',
        'op.RenamePrefix("model.out.", "model.proj.")',
    )
    rest = (folder / "meta.pt").read_bytes()
    project.ok("upgrade", "head", folder)
    assert (folder / "meta.pt").read_bytes() == rest
    run_lightning(ranks, project.path / "old", "Old", of_lightning)
    run_lightning(ranks, project.path / "new", "New", folder)
    old, new = as_one_file(project.path / "old"), as_one_file(project.path / "new")
    parts = [old["state_dict"][f"model.{part}.weight"] for part in "qkv"]
    assert torch.equal(new["state_dict"]["model.qkv.weight"], torch.cat(parts))
    assert torch.equal(new["state_dict"]["model.proj.weight"], old["state_dict"]["model.out.weight"])


def test_processes_without_a_part(project: Folder, ranks: Ranks) -> None:
    """one: a row and an empty chunk behind it, where the rows of three begin once they are joined."""
    folder = project.path / "uneven"
    distributed.run_ranks(ranks, 2, "save_uneven", folder)
    before = as_one_file(folder)
    declare(project, "a1", 'op.Fuse(["one", "none", "three"], "four")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert new_files(folder) == []
    assert torch.equal(as_one_file(folder)["four"], torch.cat([before["one"], before["three"]]))
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), before)


# Layouts of other versions of torch, and of other planners


def test_containers_in_one_piece(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.4, a dict without tensors was one value. It stays one."""
    from torch.distributed.checkpoint import _version

    monkeypatch.setattr(_version, "_derived_version", "2_3")
    tree = {"model": model(), "settings": {"lr": 0.1, "sizes": [1, 2]}, "steps": [{"a": 1}, {"b": 2}]}
    folder = save(tree, project.path / "ckpt")
    monkeypatch.undo()
    monkeypatch.chdir(project.path)
    assert "settings" in metadata(folder).state_dict_metadata
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")', 'op.SetItem("settings.lr", 0.2)')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert as_one_file(folder)["settings"] == {"lr": 0.2, "sizes": [1, 2]}
    assert {"settings", "steps"} < metadata(folder).state_dict_metadata.keys()
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), tree)


def test_a_planner_that_does_not_flatten(project: Folder) -> None:
    """Only tensors at the top have chunks; a dict is one value, with its tensors. There is no map of paths."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    tree = {**model(), "inner": {"x": torch.arange(3), "y": [1]}}
    folder = save(tree, project.path / "ckpt", planner=DefaultSavePlanner(flatten_state_dict=False))
    before = metadata(folder)
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\nparameters = ""\n')
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")', 'op.SetItem("inner.y", [2])')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)
    assert torch.equal(after["head.weight"], model()["out.weight"])
    assert torch.equal(after["inner"]["x"], torch.arange(3))
    assert after["inner"]["y"] == [2]
    assert metadata(folder).planner_data == before.planner_data
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), tree)


def test_properties_of_torch_before_2_3(project: Folder) -> None:
    """They were a class of another module."""
    from torch.distributed._shard.sharded_tensor.metadata import TensorProperties

    folder = save(model(), project.path / "ckpt")
    old = metadata(folder)
    for entry in old.state_dict_metadata.values():
        entry.properties = TensorProperties(dtype=entry.properties.dtype, requires_grad=True)
    del old.version, old.storage_meta
    (folder / ".metadata").write_bytes(pickle.dumps(old))
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")', 'op.Cast("q.bias", "float64")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = metadata(folder).state_dict_metadata
    assert after["head.weight"].properties == old.state_dict_metadata["out.weight"].properties
    assert (after["q.bias"].properties.dtype, after["q.bias"].properties.requires_grad) == (torch.float64, True)
    assert torch.equal(as_one_file(folder)["q.bias"], model()["q.bias"].double())


def test_content_in_another_form(project: Folder) -> None:
    """Tensors and values that someone encrypted move; what needs their content is refused."""
    folder = save({"model": model(), "note": "x"}, project.path / "ckpt")
    changed = metadata(folder)
    for index, place in changed.storage_data.items():
        if index.fqn in ("model.out.weight", "note"):
            place.transform_descriptors = ["stream.secret/1"]
    (folder / ".metadata").write_bytes(pickle.dumps(changed))
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = {index.fqn: place for index, place in metadata(folder).storage_data.items()}
    before = {index.fqn: place for index, place in changed.storage_data.items()}
    assert (after["model.head.weight"], after["note"]) == (before["model.out.weight"], before["note"])
    declare(project, "b2", 'op.Cast("head.weight", "float64")', parents="a1")
    now = (folder / ".metadata").read_bytes()
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "is stored in another form (stream.secret/1)" in ran.err) == (3, True), ran.err
    assert (folder / ".metadata").read_bytes() == now


def test_lists_and_names_of_all_kinds(project: Folder) -> None:
    """Lists of tensors and of dicts, numbers as keys, tuples with tensors, tied weights, names with dots."""
    tied = torch.ones(2, 2)
    tree = {
        "model": {"a.weight": tied, "b.weight": tied, "ünïcode": torch.ones(1)},
        "averages": [torch.zeros(2), {"deep": [torch.ones(1), 5]}],
        "7": {"step": torch.tensor(3)},
        "pair": (1, torch.arange(3)),
        "none": None,
        "empty": [],
    }
    folder = save(tree, project.path / "ckpt")
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")', 'op.SetItem("pair", [1, 2])')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)
    assert torch.equal(after["model"]["c.weight"], tied)
    assert after["pair"] == [1, 2]
    assert equal_unordered(after["averages"], tree["averages"])
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), tree)


def test_revisions_make_no_more_files_than_they_need(project: Folder) -> None:
    """Each renames a weight: there is never a new file of tensors."""
    folder = save(model(), project.path / "ckpt")
    for number in range(10):
        old, new = ("out.weight" if number == 0 else f"out{number}"), f"out{number + 1}"
        parents = None if number == 0 else f"a{number - 1}"
        declare(project, f"a{number}", f'op.Rename("{old}", "{new}")', parents=parents)
    project.ok("upgrade", "head", folder)
    for _ in range(10):
        project.ok("downgrade", "-1", folder, "--no-backup")
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", ".metadata.bak", "__0_0.distcp"]
    assert equal(loaded(folder, model()), model())


def test_more_files_than_a_process_may_open(project: Folder) -> None:
    """One file for each tensor, as from thousands of processes: the limit of this process is raised."""
    import resource

    tensors = {f"layers.{number}": torch.tensor([number]) for number in range(300)}
    writer = torch.distributed.checkpoint.FileSystemWriter(project.path / "ckpt", single_file_per_rank=False)
    folder = save(tensors, project.path / "ckpt", storage_writer=writer)
    declare(project, "a1", 'op.RenamePrefix("layers.", "blocks.")', 'op.Cast("blocks.7", "float32")')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        project.ok("upgrade", "head", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    after = as_one_file(folder)
    assert [int(after[f"blocks.{number}"]) for number in range(300)] == list(range(300))


def test_the_layout_of_lightning_with_fsdp(project: Folder, saved: Path) -> None:
    """Its weights lie under `model`; Lightning's FSDP does not run on a CPU, so this folder is made like its own."""
    content = as_one_file(saved / "single")
    folder = save({"model": content["model"], "optimizer_0": content["optimizer"]}, project.path / "ckpt")
    torch.save({"epoch": 3, "hyper_parameters": {"width": 8}}, folder / "meta.pt")
    rest = (folder / "meta.pt").read_bytes()
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)
    assert after["optimizer_0"]["param_groups"][0]["params"][0] == "qkv.weight"
    assert "qkv.weight" in after["optimizer_0"]["state"]
    assert (folder / "meta.pt").read_bytes() == rest
    project.ok("upgrade", "head", folder, "--output", "new")
    assert (project.path / "new" / "meta.pt").read_bytes() == rest


def test_a_whole_optimizer_is_kept(project: Folder, saved: Path) -> None:
    """Its tensors stay where they are; its other values too."""
    folder = copied(project, saved / "single")
    before, files = as_one_file(saved / "single"), data_files(folder)
    declare(project, "a1", 'op.DropItem("optimizer")', 'op.DropItem("note")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert as_one_file(folder).keys() == {"model", "epoch"}
    assert new_files(folder) == []
    record = metadata(folder).ckpt_migrate
    assert json.loads(json.dumps(record)) == record
    assert cm.load(folder, project=project.path).keys() == {"model", "epoch", "ckpt_migrate"}
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), before)
    assert data_files(folder) == files


def test_what_is_kept_may_be_all_that_a_file_holds(project: Folder) -> None:
    """One file for each tensor: nothing else names the file of a dropped one. Without it, the record is damaged."""
    writer = torch.distributed.checkpoint.FileSystemWriter(project.path / "ckpt", single_file_per_rank=False)
    folder = save(model(), project.path / "ckpt", storage_writer=writer)
    declare(project, "a1", 'op.Drop("out.weight", keep=True)')
    project.ok("upgrade", "head", folder)
    (stashed,) = metadata(folder).ckpt_migrate["stash"]["a1"]
    file = json.dumps(stashed).partition('"file": "')[2].partition('"')[0]
    (folder / file).rename(project.path / file)
    ran = project.run("downgrade", "base", folder)
    assert (ran.code, "the migration record in the checkpoint is damaged" in ran.err) == (1, True), ran.err
    (project.path / file).rename(folder / file)
    project.ok("downgrade", "base", folder)
    assert equal(as_one_file(folder), model())


def test_values_move_with_their_places(project: Folder, saved: Path) -> None:
    folder = copied(project, saved / "single")
    before = as_one_file(saved / "single")
    declare(project, "a1", 'op.MoveItem("optimizer", "training.optimizer")', 'op.MoveItem("epoch", "training.epoch")')
    project.ok("upgrade", "head", folder, "--check-rollback")
    after = as_one_file(folder)
    assert new_files(folder) == []
    assert equal_unordered(after["training"], {"optimizer": before["optimizer"], "epoch": 3})
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), before)


def test_autogenerate(project: Folder, of_ranks: Path) -> None:
    """Between a folder and the file of a new model; the script that it writes brings one to the other."""
    folder = copied(project, of_ranks / "rows")
    weights = as_one_file(folder)["model"]
    new = {name.replace("out.", "head."): value for name, value in weights.items()}
    torch.save({"model": new}, project.path / "new.pt")
    project.ok("revision", "head for out", "--autogenerate", folder, "new.pt")
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert as_one_file(folder)["model"].keys() == new.keys()
    assert equal_unordered(as_one_file(folder)["model"], new)


def test_the_revision_of_a_folder_without_a_record(project: Folder, saved: Path) -> None:
    """As after `dcp.save`, which keeps no record: `stamp auto` compares the parameters with those of each revision."""
    folder = copied(project, saved / "single")
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", folder)
    content = as_one_file(folder)
    again = save({key: content[key] for key in ("model", "optimizer")}, project.path / "again")
    assert "base, without a record" in project.ok("current", again).out
    (project.path / "model_of_folder.py").write_text(
        "from tests.support.operations import New\n\ndef make():\n    return New()\n"
    )
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\n[models]\nmain = "model_of_folder:make"\n')
    project.ok("manifest", "--update")
    assert "a1" in project.ok("stamp", "auto", again).out
    assert "a1" in project.ok("current", again).out


@pytest.mark.parametrize("depth", [40, 200])
def test_a_nested_value_is_kept_or_refused(project: Folder, depth: int) -> None:
    """Whatever is written into the record can be read again."""
    nested: Any = {"end": torch.arange(3), "pair": (1, "two"), 7: [None, True, 1.5]}
    for _ in range(depth):
        nested = {"in": nested}
    tree = {"model": model(), "inner": (nested,)}  # torch stores a tuple in one piece
    folder = save(tree, project.path / "ckpt")
    before = (folder / ".metadata").read_bytes()
    declare(project, "a1", 'op.DropItem("inner")')
    ran = project.run("upgrade", "head", folder)
    if depth > 100:
        assert (ran.code, "nested too deeply" in ran.err) == (1, True), ran.err
        assert (folder / ".metadata").read_bytes() == before
        return
    assert ran.code == 0, ran.err
    project.ok("downgrade", "base", folder)
    assert equal_unordered(as_one_file(folder), tree)


TIED = """

def tie(ckpt):
    ckpt["t"] = ckpt["x"]
    return ckpt


def untie(ckpt):
    del ckpt["t"]
    return ckpt


def flip(ckpt):
    ckpt["x"].copy_(ckpt["x"].clone().flip(0))
    return ckpt
"""


def test_a_function_does_not_change_a_kept_tensor(project: Folder) -> None:
    """x and t share memory while the script runs; the folder stores each by itself, so the kept x must be a copy."""
    before = {"x": torch.arange(4.0)}
    torch.distributed.checkpoint.save(before, checkpoint_id="run", no_dist=True)
    operations = ("op.Run(tie, untie)", 'op.Drop("x", keep=True)', 'op.Rename("t", "x")', "op.Run(flip, flip)")
    declare(project, "a1", *operations, top=TIED)
    project.ok("upgrade", "head", "run", "--check-rollback")
    assert torch.equal(loaded(Path("run"), before)["x"], before["x"].flip(0))
    project.ok("downgrade", "base", "run")
    assert torch.equal(loaded(Path("run"), before)["x"], before["x"])


def test_a_function_changes_a_tensor_in_a_tuple(project: Folder) -> None:
    """torch stores a tuple in one piece; the function asks for the content of a tensor in it."""
    folder = save({"model": model(), "pair": (1, torch.arange(4.0))}, project.path / "ckpt")
    project.script("a1", None, 'ckpt["pair"] = (1, ckpt["pair"][1] * 2)', 'ckpt["pair"] = (1, ckpt["pair"][1] / 2)')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert torch.equal(as_one_file(folder)["pair"][1], torch.arange(4.0) * 2)
