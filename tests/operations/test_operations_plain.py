"""Operations without torch: planning, renames, and what only copies bytes. Runs on every Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anemoi_ckpt_migrate import inspect, op, prove_rollback
from tests.support.project import Folder, digest, names

SCRIPT = '''"""change {revision}"""
from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "{revision}"
down_revision = {parent!r}
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})
operations = [{operations}]
'''


def declare(project: Folder, revision: str, parent: str | None, *operations: object) -> None:
    text = SCRIPT.format(revision=revision, parent=parent, operations=", ".join(f"op.{one!r}" for one in operations))
    (project.path / "versions" / f"{revision}.py").write_text(text)


def contents(path: Path) -> list[object]:
    """Return what is in a file, as far as can be told without torch."""
    found = inspect(path)
    return [found.optimizers, [(t.path, t.shape, t.dtype) for t in found.tensors if "ckpt_migrate" not in t.path]]


@pytest.mark.parametrize("name", ["training.ckpt", "state_dict.pt"])
def test_names_shapes_and_the_way_back(project: Folder, name: str) -> None:
    checkpoint = project.copy(name)
    before = contents(checkpoint)
    first, *_, last = names(checkpoint)
    declare(project, "a1", None, op.RenamePrefix("x.", "encoder.x."), op.Drop(last, keep=True))
    declare(project, "b2", "a1", op.Rename("encoder.x.{leaf}", "z.{leaf}"), op.Reorder(["z.bias", "z.weight"]))
    assert len(prove_rollback(checkpoint).up) == 2
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    assert names(checkpoint)[:2] == ["z.bias", "z.weight"]
    assert first not in names(checkpoint)
    project.ok("downgrade", "-1", checkpoint)
    assert names(checkpoint)[0] == "encoder.x.weight"
    project.ok("downgrade", "base", checkpoint)
    assert contents(checkpoint) == before


def test_optimizers_change_without_torch(project: Folder) -> None:
    checkpoint = project.copy()
    before = contents(checkpoint)
    groups = op.Regroup([["*.weight"], ["*"]], [{"weight_decay": 0.02}, {"weight_decay": 0.0, "lr": 1e-4}])
    declare(project, "a1", None, groups, op.Untrain("norm.*"), op.ChangeOptimizer("Adam", {"betas": [0.8, 0.9]}))
    declare(project, "b2", "a1", op.Train("norm.bias", 1), op.ChangeOptimizer("SGD", {"momentum": 0.9}))
    assert len(prove_rollback(checkpoint).up) == 2
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = inspect(checkpoint).optimizers
    assert [after[0].groups, after[0].parameters] == [2, 3]
    project.ok("downgrade", "base", checkpoint)
    assert contents(checkpoint) == before


def test_splitting_and_fusing_only_copies_bytes(project: Folder) -> None:
    checkpoint = project.copy()
    name = "norm.weight"  # x.weight is tied
    whole = next(t for t in inspect(checkpoint).tensors if t.path == f"state_dict.{name}")
    assert whole.shape is not None
    sizes = [1, whole.shape[0] - 1]
    declare(project, "a1", None, op.Split(name, ["p", "q"], 0, sizes))
    before = contents(checkpoint)
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    assert names(checkpoint)[2:4] == ["p", "q"]
    project.ok("downgrade", "base", checkpoint)
    assert contents(checkpoint) == before


def test_torch_is_not_imported(project: Folder) -> None:
    checkpoint = project.copy()
    groups = op.Regroup([["*.weight"], ["*"]], [{"weight_decay": 0.02}, {"weight_decay": 0.0}])
    optimizer = (groups, op.Untrain("norm.bias"), op.Train("norm.bias", 1), op.ChangeOptimizer("Adam"))
    declare(project, "a1", None, *optimizer, op.Rename("norm.weight", "w"), op.Split("w", ["p", "q"], 0, None))
    code = (
        "import sys; from anemoi_ckpt_migrate import cli;"
        f"code = cli.main(['upgrade', 'head', {str(checkpoint)!r}, '--check-rollback']);"
        "sys.exit(code or int('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_faults_are_found_without_torch(project: Folder) -> None:
    checkpoint = project.copy()
    before = digest(checkpoint)
    declare(
        project, "a1", None, op.Transpose("nothing"), op.Cast("x.weight", "int8"), op.Reshape("x.weight", [7, 7, 7])
    )
    ran = project.run("upgrade", "head", checkpoint, "--dry-run")
    assert ran.code == 1
    assert "3 operations cannot be applied" in ran.err
    assert digest(checkpoint) == before


def test_cropping_needs_no_torch(project: Folder) -> None:
    """Rows that are cut off and put back are bytes, copied by the kernel."""
    checkpoint = project.copy()
    before = contents(checkpoint)
    declare(project, "a1", None, op.Crop("norm.weight", 1))
    code = (
        "import sys; from anemoi_ckpt_migrate import cli;"
        f"code = cli.main(['upgrade', 'head', {str(checkpoint)!r}, '--check-rollback']);"
        f"code = code or cli.main(['downgrade', 'base', {str(checkpoint)!r}]);"
        "sys.exit(code or int('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contents(checkpoint) == before
