"""What the page on clusters shows works as it is written there, with the variables that the systems set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

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


def bash(source: str, folder: Path, **variables: str) -> str:
    """Run a script for bash in which `ckpt-migrate` is this one, and return what it printed."""
    command = f'ckpt-migrate() {{ "{sys.executable}" -m anemoi_ckpt_migrate "$@"; }}\n{source}'
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1]), "PBS_O_WORKDIR": str(folder), **variables}
    ran = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("system", INDICES)
def test_an_array_of_jobs(project: Folder, system: str) -> None:
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    (project.path / "runs" / "b").mkdir(parents=True)
    paths = [project.copy(to=f"runs/b/{number}.ckpt") for number in range(5)]
    variable, first = INDICES[system]
    for task in range(first, first + PARTS - 1):  # the last one was forgotten
        bash(script(system), project.path, **{variable: str(task)})
    merge, left, rest = (line for line in blocks("bash")[1].splitlines() if line)
    assert "ckpt-migrate report" in merge
    bash(merge, project.path)
    reports = list((project.path / "reports").iterdir())
    assert len(reports) == PARTS - 1
    done = [path for path in paths if any(name.startswith("y") for name in names(path))]
    reported = [json.loads(line) for report in reports for line in report.read_text().splitlines()]
    assert {Path(line["checkpoint"]).name for line in reported if line.get("status") == "moved"} == {
        path.name for path in done
    }
    bash(f"{left}\n{rest}" if len(done) < 0 else left, project.path)
    bash(script(system), project.path, **{variable: str(first + PARTS - 1)})
    assert all(any(name.startswith("y") for name in names(path)) for path in paths)


def test_the_example_with_a_pool_of_processes(project: Folder) -> None:
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    for name in ("a.ckpt", "b.ckpt"):
        project.copy(to=name)
    (project.path / "example.py").write_text(blocks("python")[-1])
    said = bash(f'"{sys.executable}" example.py', project.path)
    assert sorted(said.split()) == ["a.ckpt", "b.ckpt", "moved", "moved"]
