"""What the page on clusters shows works as it is written there, with the variables that the systems set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from anemoi_ckpt_migrate.batch.select import Selection
from tests.support.operations import declare
from tests.support.project import Folder, names

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here")
PARTS = 3
INDICES = {
    "slurm": ("SLURM_ARRAY_TASK_ID", 1),
    "pbs": ("PBS_ARRAY_INDEX", 1),
    "kubernetes": ("JOB_COMPLETION_INDEX", 0),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def script(system: str) -> str:
    """Return the script of a system, for fewer parts."""
    if system == "kubernetes":
        folded = re.search(r"- >-\n(.*?)\n +volumeMounts", blocks("yaml")[0], re.S)
        assert folded is not None
        return " ".join(folded[1].split()).replace("/16", f"/{PARTS}")
    found = next(block for block in blocks("bash") if f"#{system.upper().replace('SLURM', 'SBATCH')} " in block)
    assert "1-16" in found
    return found.replace("parts=16", f"parts={PARTS}")


def bash(source: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script for bash in which `ckpt-migrate` is this one."""
    command = f'ckpt-migrate() {{ "{sys.executable}" -m anemoi_ckpt_migrate "$@"; }}\n{source}'
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1]), "PBS_O_WORKDIR": str(folder), **variables}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def is_moved(path: Path) -> bool:
    return any(name.startswith("y") for name in names(path))


@pytest.fixture
def paths(project: Folder) -> list[Path]:
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    (project.path / "runs" / "b").mkdir(parents=True)
    return [project.copy(to=f"runs/b/{number}.ckpt") for number in range(5)]


@pytest.mark.parametrize("system", INDICES)
def test_a_job_of_an_array_does_its_part(project: Folder, paths: list[Path], system: str) -> None:
    variable, first = INDICES[system]
    ran = bash(script(system), project.path, **{variable: str(first)})
    assert ran.returncode == 0, ran.stderr
    groups = Selection((str(project.path / "runs"),), recursive=True, part=(1, PARTS)).groups()
    part = [chosen.path for group in groups for chosen in group]
    assert 0 < len(part) < len(paths)
    assert [str(path) for path in paths if is_moved(path)] == part


def test_reports_of_parts_merge(project: Folder, paths: list[Path]) -> None:
    report, *left = blocks("bash")[1].splitlines()
    for number in (1, 2):
        assert bash(script("slurm"), project.path, SLURM_ARRAY_TASK_ID=str(number)).returncode == 0
    ran = bash(report, project.path)
    assert (ran.returncode, "there is no report of these parts of 3: 3" in ran.stderr) == (1, True)
    assert bash(script("slurm"), project.path, SLURM_ARRAY_TASK_ID="3").returncode == 0
    assert all(map(is_moved, paths))
    ran = bash("\n".join([report, *left]), project.path)
    assert (ran.returncode, ran.stdout.count("5 upgraded")) == (0, 1)
    assert (project.path / "left").read_bytes() == b""


def test_the_example_with_a_pool_of_processes(project: Folder) -> None:
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    for name in ("a.ckpt", "b.ckpt"):
        project.copy(to=name)
    (project.path / "example.py").write_text(blocks("python")[-1])
    ran = bash(f'"{sys.executable}" example.py', project.path)
    assert sorted(ran.stdout.split()) == ["a.ckpt", "b.ckpt", "moved", "moved"]
