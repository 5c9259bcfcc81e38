"""What 0.19.0 makes of checkpoints that were given: the model is rebuilt from each, and puts out what was saved with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.running import THERE, is_as_before, run  # noqa: E402
from tests.anemoi.variants import LATEST, RELEASES  # noqa: E402
from tests.support.anemoi import KINDS, REAL, read  # noqa: E402
from tests.support.project import Folder  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (THERE and (REAL / "README.md").exists()),
    reason="make test-anemoi CHECKPOINTS=DIR has what this needs",
)
# The trainers that were out with a release, and pickled configurations as models of pydantic.
TRAINERS = {"0.9.4": "0.6.3", "0.9.7": "0.6.3", "0.11.0": "0.8.2", "0.11.3": "0.8.2", "0.12.0": "0.9.0"}
CLASSES = ("BaseSchema", "UnvalidatedBaseSchema", "DictConfig")


def check(project: Folder, release: str, paths: dict[str, Path]) -> None:
    """Take checkpoints up, rebuild their models, and take them back."""
    before = {kind: read(path) for kind, path in paths.items()}
    words: list[Path] = []
    for kind, path in paths.items():
        project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
        words += [path, REAL / f"{release}_{kind}.forward.npz"]
    assert [float(line) for line in run("rebuilding.py", [LATEST], "rebuild", *words).split()] == [0.0] * len(paths)
    for kind, path in paths.items():
        project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", path, "--no-backup")
        assert is_as_before(path, before[kind])


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
    run("rebuilding.py", [release, f"training-{TRAINERS[release]}"], "configure", name, *paths.values())
    check(project, release, paths)


@pytest.mark.parametrize("name", ["0.15.1_diffusion", "0.14.0_gt-convert"])
def test_the_model_puts_out_what_it_did_in_its_release(project: Folder, name: str) -> None:
    """Unstamped, built from its own configuration; noise is drawn otherwise in later releases, so samples differ."""
    path = Path(shutil.copy(REAL / f"{name}.ckpt", project.path))
    path.chmod(0o644)
    release, before = name.partition("_")[0], read(path)
    run("rebuilding.py", [release], "forward", project.path / "before.pt", path)
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    run("rebuilding.py", [LATEST], "forward", project.path / "after.pt", path)
    old, new = (torch.load(project.path / f"{when}.pt") for when in ("before", "after"))
    assert torch.equal(old["made"], new["made"])
    assert {key: value.shape for key, value in old.items()} == {key: value.shape for key, value in new.items()}
    assert all(value.isfinite().all() for value in new.values())
    project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", path, "--no-backup")
    assert is_as_before(path, before)
