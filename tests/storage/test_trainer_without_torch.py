"""Folders of a trainer, where no torch is needed: recognised, renamed, fused, taken back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.project import DATA, Folder, load

FUSED = """
from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "a1"
down_revision = None
metadata = MigrationMetadata(versions={"migration": "1.0.0"})
operations = [%s]
"""
NAMED = 'op.ParameterGroups([["x.weight", "x.bias", "norm.weight", "norm.bias"]]), '


@pytest.fixture
def run(project: Folder) -> Path:
    return Path(shutil.copytree(DATA / "trainer", project.path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def declare(project: Folder, operations: str) -> None:
    (project.path / "versions" / "a1_change.py").write_text(FUSED % operations)


def test_a_rename_and_back(project: Folder, run: Path) -> None:
    old = content(run)
    declare(project, 'op.RenamePrefix("x.", "y.")')
    project.ok("upgrade", "head", "-r", ".", "--check-rollback")
    assert project.ok("current", "run").out.split()[1:2] == ["a1"]
    assert {name for name, text in content(run).items() if text != old[name]} == {"model.safetensors"}
    assert content(project.path / "run.bak") == old
    paths = {each["path"] for each in json.loads(project.ok("inspect", "--json", "run").out)["tensors"]}
    assert {"model.y.weight", "optimizer.state.0.exp_avg"} <= paths
    project.ok("downgrade", "base", "run")
    assert {name for name, text in content(run).items() if text != old[name]} == {"model.safetensors"}


def test_the_optimizer_follows(project: Folder, run: Path) -> None:
    """norm.weight and norm.bias become one, and so do their moments."""
    declare(project, f'{NAMED}op.Fuse(["norm.weight", "norm.bias"], "norm.both")')
    project.ok("upgrade", "head", "run", "--check-rollback")
    moments = load(run / "optimizer.pt")
    assert moments["param_groups"][0]["params"] == [0, 1, 2]
    assert tuple(moments["state"][2]["exp_avg"].shape) == (8,)
    project.ok("downgrade", "base", "run")
    moments = load(run / "optimizer.pt")
    assert [tuple(each["exp_avg"].shape) for each in moments["state"].values()] == [(4, 4), (4,), (4,), (4,)]


def test_an_unknown_order_is_refused(project: Folder, run: Path) -> None:
    old = content(run)
    declare(project, 'op.Fuse(["norm.weight", "norm.bias"], "norm.both")')
    ran = project.run("upgrade", "head", "run")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "the files do not keep the order of the model; list their names with op.ParameterGroups" in ran.err
    assert content(run) == old
    declare(project, f'{NAMED}op.Fuse(["norm.weight", "norm.bias"], "norm.both")')
    project.ok("upgrade", "head", "run")
