"""Distributed checkpoints with a file beside the metadata: `meta.pt` of Lightning, `common.pt` of Megatron-Core."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage import folder_exchange, in_place  # noqa: E402
from tests.support import faults  # noqa: E402
from tests.support.distributed import as_one_file, data_files, equal_unordered, new_files, run_lightning, save  # noqa: E402
from tests.support.forks import Forks  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402
from tests.support.ranks import Ranks  # noqa: E402

WEIGHTS = {"a.weight": torch.ones(4, 2), "b.weight": torch.ones(3)}
REST = {"epoch": 3, "hyper_parameters": {"width": 8, "sizes": [1, 2]}, "pytorch-lightning_version": "2.6.6"}


def made(folder: Path, rest: Any = REST, name: str = "meta.pt") -> Path:
    """Save a folder as Lightning does."""
    save({"state_dict": WEIGHTS, "optimizer_0": {"state": {}, "param_groups": [{"lr": 0.1}]}}, folder)
    torch.save(rest, folder / name)
    return folder


def rest_of(folder: Path, name: str = "meta.pt") -> Any:
    return torch.load(folder / name, weights_only=False)


def content(folder: Path) -> tuple[Any, Any]:
    """Return what torch's converter and `torch.load` find."""
    return as_one_file(folder), rest_of(folder)


# The tree


def test_the_tree_is_that_of_one_file(project: Folder) -> None:
    """The keys of meta.pt stand beside those of the tensors, as in a `.ckpt`."""
    folder = made(project.path / "run")
    assert [*cm.load(folder)] == ["state_dict", "optimizer_0", *REST]
    assert cm.load(folder)["hyper_parameters"] == REST["hyper_parameters"]
    torch.save({**as_one_file(folder), **REST}, project.path / "one.ckpt")
    same = project.ok("diff", folder, "one.ckpt").out
    assert "op." not in same, same
    assert "hyper_parameters" in project.ok("inspect", folder).out


def test_both_change_together(project: Folder) -> None:
    """A weight and a hyper-parameter: a new folder with the same files of tensors takes the place of the old one."""
    folder = made(project.path / "run")
    before, files = content(folder), data_files(folder)
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")', 'op.SetItem("hyper_parameters.width", 16)')
    assert "run.bak" in project.ok("upgrade", "head", folder, "--check-rollback").out
    assert "c.weight" in as_one_file(folder)["state_dict"]
    assert rest_of(folder) == {**REST, "hyper_parameters": {"width": 16, "sizes": [1, 2]}}
    assert new_files(folder) == []
    assert data_files(folder) == data_files(project.path / "run.bak") == files  # not a byte was copied: one inode
    assert equal_unordered(content(project.path / "run.bak"), before)
    assert "a1" in project.ok("current", folder).out
    project.ok("downgrade", "base", folder, "--no-backup")
    assert equal_unordered(content(folder), before)
    assert data_files(folder) == files
    assert sorted(each.name for each in project.path.iterdir() if "run" in each.name) == [
        "run", "run.as_one_file.pt", "run.bak", "run.bak.as_one_file.pt",
    ]  # fmt: skip


def test_without_a_change_in_it_the_metadata_alone_are_replaced(project: Folder) -> None:
    folder = made(project.path / "run")
    found = os.stat(folder / "meta.pt")
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    assert f"run{os.sep}.metadata.bak" in project.ok("upgrade", "head", folder).out
    assert os.stat(folder / "meta.pt") == found
    assert not (project.path / "run.bak").exists()


def test_a_downgrade_of_the_rest_alone(project: Folder) -> None:
    folder = made(project.path / "run")
    before = content(folder)
    declare(
        project,
        "a1",
        'op.DropItem("hyper_parameters")',
        'op.MoveItem("epoch", "progress.epoch")',
        'op.SetItem("code", "new")',
    )
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert rest_of(folder) == {"pytorch-lightning_version": "2.6.6", "progress": {"epoch": 3}, "code": "new"}
    project.ok("downgrade", "base", folder)
    assert equal_unordered(content(folder), before)


def test_tensors_in_it(project: Folder) -> None:
    """They are changed where they are; a new key that holds a tensor goes to the metadata."""
    rest = {**REST, "callbacks": {"average": torch.arange(4.0), "seen": torch.arange(3)}}
    folder = made(project.path / "run", rest)
    before = content(folder)
    text = 'ckpt["callbacks"]["average"] = ckpt["callbacks"]["average"] * 2'
    project.script("a1", None, text, text.replace("*", "/"))
    declare(project, "b2", 'op.MoveItem("callbacks.seen", "seen")', parents="a1")
    project.ok("upgrade", "head", folder)
    assert torch.equal(rest_of(folder)["callbacks"]["average"], torch.arange(4.0) * 2)
    assert "seen" not in rest_of(folder)["callbacks"]
    assert torch.equal(as_one_file(folder)["seen"], torch.arange(3))
    project.ok("downgrade", "base", folder)
    assert equal_unordered(content(folder), before)
    assert cm.inspect(folder, verify=True).damaged == ()


def test_objects_in_it(project: Folder) -> None:
    """`common.pt` of Megatron-Core: arguments of the command line, and names with dots in the metadata."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    planner = DefaultSavePlanner(flatten_state_dict=False)
    folder = save({"decoder.weight": torch.ones(3, 2), "rng_state/shard_0_1": ("x", 1)}, project.path / "run", planner=planner)  # fmt: skip
    torch.save({"args": argparse.Namespace(hidden=8, lr=0.1), "iteration": 5}, folder / "common.pt")
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    assert "argparse.Namespace" in project.ok("inspect", folder).out
    declare(project, "a1", 'op.Rename("decoder.weight", "layers.weight")', 'op.SetItem("args.hidden", 16)')
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert rest_of(folder, "common.pt") == {"args": argparse.Namespace(hidden=16, lr=0.1), "iteration": 5}
    assert as_one_file(folder).keys() == {"layers.weight", "rng_state/shard_0_1"}
    assert (folder / "metadata.json").exists()
    project.ok("downgrade", "base", folder)
    assert rest_of(folder, "common.pt")["args"].hidden == 8
    assert "give its folder" in project.run("upgrade", "head", folder / "common.pt").err


def test_the_record_that_a_run_of_lightning_left_in_it(project: Folder) -> None:
    """The callback stamps what Lightning saves, which goes there; whoever resumes looks for it there too."""
    declare(project, "a1", 'op.RenamePrefix("b.", "c.")')
    folder = made(project.path / "run", cm.stamped(REST, project=project.path))
    assert "a1" in project.ok("current", folder).out
    declare(project, "b2", 'op.Drop("a.weight", keep=True)', parents="a1")
    project.ok("upgrade", "head", folder)
    assert "b2" in project.ok("current", folder).out
    stamper = cm.Stamper(project=project.path)
    stamper.resume(rest_of(folder))  # it would refuse a checkpoint of older code
    assert "stash" not in rest_of(folder)["ckpt_migrate"]
    project.ok("downgrade", "-1", folder)
    assert torch.equal(as_one_file(folder)["state_dict"]["a.weight"], WEIGHTS["a.weight"])
    with pytest.raises(cm.MigrateError, match="b2"):
        stamper.resume(rest_of(folder))


def test_a_new_folder(project: Folder) -> None:
    folder = made(project.path / "run")
    before = content(folder)
    declare(project, "a1", 'op.SetItem("epoch", 9)')
    project.ok("upgrade", "head", folder, "--output", "new")
    assert rest_of(project.path / "new")["epoch"] == 9
    assert equal_unordered(content(folder), before)
    with cm.upgraded(folder, project=project.path) as copy:
        assert rest_of(Path(copy))["epoch"] == 9


# Lightning itself


def test_lightning_resumes_and_finds_what_was_changed(project: Folder, of_lightning: Path, ranks: Ranks) -> None:
    """Weights are fused and a hyper-parameter follows; then one more step on two processes, old and new."""
    folder = Path(shutil.copytree(of_lightning, project.path / "run", copy_function=shutil.copy2))
    declare(
        project,
        "a1",
        'op.Fuse(["model.q.{i}", "model.k.{i}", "model.v.{i}"], "model.qkv.{i}")',
        'op.RenamePrefix("model.out.", "model.proj.")',
        'op.SetItem("hyper_parameters.kind", "New")',
    )
    files = data_files(folder)
    project.ok("upgrade", "head", folder, "--check-rollback")
    assert data_files(folder) == files
    run_lightning(ranks, project.path / "old", "Old", of_lightning)
    run_lightning(ranks, project.path / "new", "New", folder)
    old, new = as_one_file(project.path / "old"), as_one_file(project.path / "new")
    parts = [old["state_dict"][f"model.{part}.weight"] for part in "qkv"]
    assert torch.equal(new["state_dict"]["model.qkv.weight"], torch.cat(parts))
    assert rest_of(project.path / "new")["global_step"] == rest_of(folder)["global_step"] + 1 == 4


def test_the_tree_is_what_lightning_makes_one_file_of(project: Folder, of_lightning: Path) -> None:
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    folder = Path(shutil.copytree(of_lightning, project.path / "run", copy_function=shutil.copy2))
    declare(project, "a1", 'op.SetItem("hyper_parameters.width", 9)')
    project.ok("upgrade", "head", folder)
    wanted = _load_distributed_checkpoint(folder)
    assert wanted["hyper_parameters"] == {"kind": "Old", "width": 9}
    found = cm.load(folder)
    del found["ckpt_migrate"]
    assert equal_unordered(found, wanted)


# What goes wrong


def test_bad_files(project: Folder) -> None:
    """One sentence each, and nothing changes."""
    declare(project, "a1", 'op.SetItem("epoch", 9)')

    def refused(name: str, rest: Any) -> str:
        folder = made(project.path / name, rest)
        before = (folder / "meta.pt").read_bytes(), (folder / ".metadata").read_bytes()
        ran = project.run("upgrade", "head", folder)
        assert ran.code == 1
        assert ((folder / "meta.pt").read_bytes(), (folder / ".metadata").read_bytes()) == before
        assert not (project.path / f"{name}.bak").exists()
        return ran.err

    assert "meta.pt in it holds a list, not a dict" in refused("list", [1])
    assert "both .metadata and meta.pt in it hold state_dict" in refused("twice", {"state_dict": 1})
    folder = made(project.path / "cut")
    (folder / "meta.pt").write_bytes((folder / "meta.pt").read_bytes()[:-100])
    assert "meta.pt" in project.run("upgrade", "head", folder).err
    (folder / "meta.pt").unlink()
    (folder / "meta.pt").symlink_to(made(project.path / "other") / "meta.pt")
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "leads out" in ran.err) == (3, True), ran.err


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_it_is_read_without_running_it(project: Folder) -> None:
    folder = made(project.path / "run", {**REST, "evil": Runs()})
    declare(project, "a1", 'op.SetItem("epoch", 9)')
    assert f"{os.system.__module__}.system" in project.ok("inspect", folder).out
    project.run("upgrade", "head", folder)
    assert not (project.path / "ran").exists()


def test_the_current_folder_is_not_exchanged(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(project.path / "run")
    declare(project, "a1", 'op.SetItem("epoch", 9)')
    monkeypatch.chdir(folder)
    ran = project.run("upgrade", "head", ".", "--config", project.path / "ckpt-migrate.toml")
    assert (ran.code, "run the command from another one" in ran.err) == (3, True), ran.err
    assert rest_of(folder) == REST


def test_another_program_changes_it_meanwhile(project: Folder) -> None:
    """The script of the revision stands for the other program: it runs while the folder is open."""
    folder = made(project.path / "run")
    other = f'import torch; torch.save({{"epoch": 7}}, {str(folder / "meta.pt")!r})'
    body = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {other!r}], check=True)\nckpt["epoch"] = 9'
    project.script("a1", None, body, "pass")
    ran = project.run("upgrade", "head", folder)
    assert (ran.code, "in the meantime" in ran.err) == (1, True), ran.err
    assert rest_of(folder) == {"epoch": 7}


def generation(folder: Path) -> tuple[list[str], Any]:
    found = pickle.loads((folder / ".metadata").read_bytes())
    for place in found.storage_data.values():
        assert place.offset + place.length <= (folder / place.relative_path).stat().st_size
    return sorted(found.state_dict_metadata), rest_of(folder)["epoch"]


@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO", faults.KILL])
def test_a_fault_at_every_call(project: Folder, forks_with_torch: Forks, fault: str) -> None:
    """The path names the old metadata and the old meta.pt, or the new ones of both."""
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")', 'op.Pad("b.weight", 2)', 'op.SetItem("epoch", 9)')
    forks_with_torch.rehearse(project.path, "upgrade", "head", made(project.path / "first"))
    sound, runs = made(project.path / "sound"), project.path / "runs"
    old, files, folder = generation(sound), list(data_files(sound)), runs / "run"
    shutil.copytree(sound, folder)
    calls = faults.sound(forks_with_torch, runs, "upgrade", "head", folder)
    new, outcomes = generation(folder), collections.Counter[str]()
    assert new[1] == 9
    for call in faults.struck(calls, fault):
        shutil.rmtree(runs)
        shutil.copytree(sound, folder)
        before = data_files(folder)
        ran = faults.strike(forks_with_torch, call, fault, runs, "upgrade", "head", folder)
        assert (ran.code == -signal.SIGKILL) == (fault == faults.KILL), call
        found = generation(folder)
        assert found in (old, new), call
        if "nothing was changed" in ran.err:
            assert (found, ran.code) == (old, 1)
        if folder_exchange.has_journal(folder):
            project.ok("recover", folder)
            assert generation(folder) == found
        assert {name: data_files(folder)[name] for name in files} == before
        assert all(generation(each) == old for each in runs.glob("run.bak*"))
        outcomes["new" if found == new else "old"] += 1
        project.ok("upgrade", "head", folder)
        assert generation(folder) == new
        project.ok("downgrade", "base", folder, "--no-backup")
        assert [each.name for each in runs.glob(".*")] == [], call
        assert not in_place.journal_of(folder).exists()
    assert outcomes["old"] > 5, outcomes
    assert outcomes["new"] > 1, outcomes


def test_a_rename_after_an_exchange_that_was_killed(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that replaces the metadata alone completes what the killed one left, before it begins."""
    folder = made(project.path / "run")
    declare(project, "a1", 'op.SetItem("epoch", 9)')
    code = (
        "import os\nfrom anemoi_ckpt_migrate import cli\nfrom anemoi_ckpt_migrate.storage import folder_exchange\n"
        "folder_exchange._exchange = lambda *paths: os._exit(9)\ncli.main(['upgrade', 'head', 'run'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, check=False)
    assert ran.returncode == 9
    assert folder_exchange.has_journal(folder)
    (project.path / "versions" / "a1_change.py").unlink(missing_ok=True)
    for path in (project.path / "versions").glob("a1*"):
        path.unlink()
    declare(project, "a1", 'op.RenamePrefix("a.", "c.")')
    project.ok("upgrade", "head", folder)
    assert not folder_exchange.has_journal(folder)
    assert rest_of(folder) == REST
    assert [each.name for each in project.path.glob(".*")] == []
