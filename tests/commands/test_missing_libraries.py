"""A library that cannot be imported: one sentence names the checkpoint and the way out, and no byte changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.storage import open_checkpoint
from tests.support.project import Folder, digest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise {error}

sys.meta_path.insert(0, Missing())
"""
ABSENT = 'ModuleNotFoundError(f"No module named {name!r}", name=name)'
BROKEN = 'OSError("libcudart.so.12: cannot open shared object file")'
COMMAND = "from anemoi_ckpt_migrate import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
WAYS_TO_WRITE = ((), ("--in-place",), ("--output", "other.ckpt"))


def declare(project: Folder, operation: str) -> None:
    """Write a script of one operation."""
    text = '"""change a1"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n\nrevision = "a1"\n'
    text += 'down_revision = None\nmetadata = MigrationMetadata(versions={"migration": "1.0.0"})\n'
    (project.path / "versions" / "a1.py").write_text(f"{text}operations = [{operation}]\n")


def run_without(missing: str, *words: object, error: str = ABSENT, code: str = COMMAND) -> Any:
    """Run a command line, or other code, in a Python in which a library cannot be imported."""
    command = [sys.executable, "-c", WITHOUT.format(missing=missing, error=error) + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_refused(project: Folder, checkpoint: Path, *words: object, error: str = ABSENT) -> None:
    """Check that a command ends with one sentence about torch, and leaves everything as it is."""
    before, there = digest(checkpoint), sorted(project.path.iterdir())
    ran = run_without("torch", *words, checkpoint, error=error)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert f"{checkpoint.name}: this needs torch, which cannot be imported (" in ran.stderr
    assert ran.stderr.endswith("); run `pip install torch`\n")
    assert (digest(checkpoint), sorted(project.path.iterdir())) == (before, there)


@pytest.mark.parametrize(
    "operation",
    ['op.Cast("norm.weight", "float64")', 'op.Pad("norm.weight", 9)', 'op.Add("new", [3], "float32", init="normal_")'],
)
@pytest.mark.parametrize("way", WAYS_TO_WRITE)
def test_an_upgrade_that_computes_tensors(project: Folder, operation: str, way: tuple[str, ...]) -> None:
    declare(project, operation)
    check_refused(project, project.copy(), "upgrade", "head", *way)


def test_a_function_that_reads_a_tensor(project: Folder) -> None:
    project.script("a1", None, 'ckpt["state_dict"]["norm.weight"] += 1')
    check_refused(project, project.copy(), "upgrade", "head")


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
def test_a_downgrade_that_computes_tensors(project: Folder, way: tuple[str, ...]) -> None:
    checkpoint = project.copy()
    declare(project, 'op.RenamePrefix("x.", "y.")')
    project.ok("upgrade", "head", checkpoint, "--no-backup")
    undo = [{"op": "Interleave", "keys": "norm.weight", "parts": 2, "dim": 0}]
    with open_checkpoint(checkpoint) as file:
        tree = file.load()
        tree["ckpt_migrate"]["lineage"][-1]["undo"]["operations"] = undo
        file.write(file.pickled(tree), {}, backup=False)
    check_refused(project, checkpoint, "downgrade", "base", *way)


def test_a_torch_that_is_broken(project: Folder) -> None:
    declare(project, 'op.Cast("norm.weight", "float64")')
    check_refused(project, project.copy(), "upgrade", "head", error=BROKEN)


def test_what_needs_no_torch_is_done_without_it(project: Folder) -> None:
    declare(project, 'op.RenamePrefix("x.", "y.")')
    ran = run_without("torch", "upgrade", "head", project.copy())
    assert (ran.returncode, ran.stderr) == (0, "")


def test_check_goes_on_with_the_next_checkpoint(project: Folder) -> None:
    declare(project, 'op.Cast("norm.weight", "float64")')
    first, second = project.copy(to="first.ckpt"), project.copy(to="second.ckpt")
    ran = run_without("torch", "check", "--rollback", first, second)
    assert (ran.returncode, ran.stderr) == (1, "")
    for name in ("first.ckpt", "second.ckpt"):
        assert f"{name}: this needs torch, which cannot be imported" in ran.stdout


def test_from_python(project: Folder) -> None:
    declare(project, 'op.Cast("norm.weight", "float64")')
    code = """
from anemoi_ckpt_migrate import errors, upgrade
try:
    upgrade(sys.argv[1], "head")
except errors.NoLibrary as error:
    print(error.checkpoint, error.library)
"""
    checkpoint = project.copy()
    assert run_without("torch", checkpoint, code=code).stdout == f"{checkpoint} torch\n"


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("cloudpickle", ["upgrade", "head", "training.ckpt"]),
        ("mako", ["revision", "another change"]),
        ("packaging", ["upgrade", "pkg<1.2", "training.ckpt"]),
        ("rich", ["inspect", "training.ckpt"]),
    ],
)
def test_other_libraries(project: Folder, library: str, words: list[str]) -> None:
    project.script("a1", None, 'ckpt["by"] = "a1"', 'del ckpt["by"]', version="1.0")
    checkpoint = project.copy()
    before = digest(checkpoint)
    ran = run_without(library, *words)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert f"{'training.ckpt: ' * ('training.ckpt' in words)}this needs {library}, which cannot be" in ran.stderr
    assert ran.stderr.endswith(f"run `pip install {library}`\n")
    assert digest(checkpoint) == before
