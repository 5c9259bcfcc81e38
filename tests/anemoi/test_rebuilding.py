"""What 0.19.0 makes of checkpoints that were given: the model is rebuilt from each, and puts out what was saved with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.test_releases import PYTHON, WHEELS  # noqa: E402
from tests.anemoi.variants import LATEST, RELEASES  # noqa: E402
from tests.conftest import Folder  # noqa: E402
from tests.operating import equal  # noqa: E402
from tests.test_anemoi import KINDS, REAL, read  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (PYTHON and WHEELS and (REAL / "README.md").exists()),
    reason="make test-anemoi CHECKPOINTS=DIR has what this needs",
)
# The trainers that were out with a release, and pickled configurations as models of pydantic.
TRAINERS = {"0.9.4": "0.6.3", "0.9.7": "0.6.3", "0.11.0": "0.8.2", "0.11.3": "0.8.2", "0.12.0": "0.9.0"}
CLASSES = ("BaseSchema", "UnvalidatedBaseSchema", "DictConfig")


def rebuilding(paths: list[str], *words: Any) -> str:
    """Have something done with packages of anemoi on the path."""
    roots = os.pathsep.join(str(Path(WHEELS) / path) for path in paths)
    environment = {**os.environ, "PYTHONPATH": roots, "PYTHONWARNINGS": "ignore"}
    command = [PYTHON, str(Path(__file__).with_name("rebuilding.py")), *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def check(project: Folder, release: str, paths: dict[str, Path]) -> None:
    """Take checkpoints up, rebuild their models, and take them back."""
    before = {kind: read(path) for kind, path in paths.items()}
    words: list[Path] = []
    for kind, path in paths.items():
        project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
        words += [path, REAL / f"{release}_{kind}.forward.npz"]
    assert [float(line) for line in rebuilding([LATEST], "rebuild", *words).split()] == [0.0] * len(paths)
    for kind, path in paths.items():
        project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", path, "--no-backup")
        after = read(path)
        for key in ("kept_by_anemoi_migrations", "ckpt_migrate"):
            after.pop(key, None)
        assert equal(after, before[kind])


def copies(project: Folder, release: str) -> dict[str, Path]:
    """Copy the checkpoints of a release."""
    found = {kind: Path(shutil.copy(REAL / f"{release}_{kind}.ckpt", project.path)) for kind in KINDS}
    for path in found.values():
        path.chmod(0o644)
    return found


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_the_model_is_rebuilt(project: Folder, release: str) -> None:
    check(project, release, copies(project, release))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("release", TRAINERS)
def test_from_a_configuration_of_each_class(project: Folder, release: str, name: str) -> None:
    paths = copies(project, release)
    rebuilding([release, f"training-{TRAINERS[release]}"], "configure", name, *paths.values())
    check(project, release, paths)
