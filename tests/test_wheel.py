"""The wheel, not the editable install: what is in it, and that it works outside this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.project import DATA, RENAME

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("the sources are not here")
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("build_manpages")
    leave_out = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "man", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=leave_out)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*build, folder / "source"], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_what_is_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "anemoi_ckpt_migrate/py.typed",
        "anemoi_ckpt_migrate/templates/script.py.mako",
        "anemoi_ckpt_migrate/versions/ckpt-migrate.toml",
        "anemoi_ckpt_migrate/versions/_recognise.py",
        "anemoi_ckpt_migrate/versions_lightning/ckpt-migrate.toml",
        "anemoi_ckpt_migrate/versions_lightning/_recognise.py",
        "anemoi_ckpt_migrate/versions_lightning/f3c85d0a7b61_loops_without_children.py",
        "anemoi_ckpt_migrate/versions/a7d1c04e9b52_training_checkpoints_of_anemoi_models.py",
    ):
        assert name in names
    (page,) = [name for name in names if name.endswith("data/share/man/man1/ckpt-migrate.1")]
    assert b"trust" in zipfile.ZipFile(wheel).read(page)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]


def test_it_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(site)
    project.mkdir()
    checkpoint = shutil.copy(DATA / "training.ckpt", project)

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "anemoi_ckpt_migrate", *words]
        variables = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=project, env=variables, check=True, capture_output=True, text=True).stdout

    where = [sys.executable, "-c", "import anemoi_ckpt_migrate as m; print(m.__file__)"]
    found = subprocess.run(where, cwd=project, env={"PYTHONPATH": str(site)}, capture_output=True, text=True).stdout
    assert found.startswith(str(site))
    run("init")
    script = project / run("revision", "rename").split()[1]
    text = script.read_text().replace("    return ckpt\n", f"    {RENAME['migrate']}\n    return ckpt\n")
    script.write_text(f"{text}\n\ndef rollback(ckpt):\n    {RENAME['rollback']}\n    return ckpt\n")
    assert "base ->" in run("upgrade", "head", checkpoint)
    assert "-> base" in run("downgrade", "-1", checkpoint)
    for chain in ("anemoi", "lightning"):
        assert f"[{chain}]" in run("--chain", chain, "heads")
