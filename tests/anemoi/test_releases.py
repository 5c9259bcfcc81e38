"""The chain of anemoi-models against its releases: models that each made go on in 0.19.0 as they would have there.

Run by ``make test-anemoi``, which makes what this needs: ``ANEMOI_PYTHON``, an interpreter that has what the releases
need, and ``ANEMOI_RELEASES``, a folder with one for each release, unpacked. Nothing of anemoi is imported here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.running import THERE, is_as_before, run  # noqa: E402
from tests.anemoi.variants import LATEST, RELEASES, VARIANTS  # noqa: E402
from tests.conftest import Folder, digest  # noqa: E402
from tests.test_anemoi import read  # noqa: E402

ENSEMBLES = ("ensemble", "ensemble-injected")
SEVERAL = ("another-name", "another-name-gnn", "two-datasets", "two-datasets-gnn")
pytestmark = pytest.mark.skipif(not THERE, reason="make test-anemoi makes what this needs")

REFUSED: dict[tuple[str, str], str] = {
    **{(release, name): "it is an ensemble model" for release in ("0.9.7", "0.10.0") for name in ENSEMBLES},
}
"""What is refused, by release and variant, and the reason."""


def differences(found: Any, wanted: Any) -> float:
    """Return how far tensors of one structure are apart, at most."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        return max((differences(found[key], wanted[key]) for key in wanted), default=0.0)
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        return max((differences(one, other) for one, other in zip(found, wanted, strict=True)), default=0.0)
    if not isinstance(wanted, torch.Tensor):
        return 0.0 if found == wanted else float("inf")
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    apart = (found.double() - wanted.double()).abs().masked_fill(found == wanted, 0)  # also where both are infinite
    return float(apart.max().item()) if wanted.numel() else 0.0


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_models_of_a_release_go_on_in_the_latest(project: Folder, release: str) -> None:
    """Strictly loaded, the same output; one more step of training, the same weights and moments; and back."""
    names = [name for name, variant in VARIANTS.items() if variant.made_by(release) and variant.made_by(LATEST)]
    names = [name for name in names if (release, name) not in REFUSED]
    run("making.py", [release], "make", release, project.path, *names)
    wrong: list[str] = []
    moved = {name: upgraded(project, f"{release}_{name}.ckpt") for name in names}
    later = {name: upgraded(project, f"{release}_{name}.later.ckpt") for name in names}
    kept = {name: Path(shutil.copy(path, f"{path}.kept")) for name, path in moved.items()}
    run("making.py", [LATEST], "continue", LATEST, *(word for name, path in moved.items() for word in (path, name)))
    for name, path in moved.items():
        made = project.path / f"{release}_{name}.ckpt"
        wrong += [f"{name}: {what}" for what in compared(path, made, later[name])]
        project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", kept[name], "--no-backup")
        if not is_as_before(kept[name], read(made)):
            wrong.append(f"{name}: is not what it was")
    assert not wrong, "\n".join(wrong)


def upgraded(project: Folder, name: str) -> Path:
    """Take a copy of a checkpoint to the head of the chain."""
    path = Path(shutil.copy(project.path / name, project.path / f"up_{name}"))
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    return path


def downgraded(project: Folder, name: str) -> Path:
    """Take a copy of a checkpoint to 0.12.0."""
    path = Path(shutil.copy(project.path / name, project.path / f"down_{name}"))
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.12.0", path, "--no-backup")
    return path


def compared(path: Path, made: Path, later: Path) -> list[str]:
    """Say in what a model that went on in the latest release differs from one that went on where it was made."""
    found: list[str] = []
    outputs = [torch.load(each.with_suffix(".output.pt")) for each in (path, made)]
    apart = max(differences(one, other) for one, other in zip(*(each.values() for each in outputs), strict=True))
    if not apart <= 1e-5:
        found.append(f"outputs are {apart} apart")
    one, other = read(path.with_suffix(".later.ckpt")), read(later)
    for what in ("state_dict", "optimizer_states"):
        apart = differences(one[what], other[what])
        if not apart <= 1e-4:
            found.append(f"{what} is {apart} apart after one more step")
    return found


@pytest.mark.parametrize("release", ["0.13.0", LATEST])
def test_models_of_several_datasets_go_on_in_an_earlier_release(project: Folder, release: str) -> None:
    """In 0.12.0, where each dataset has a graph of its own."""
    run("making.py", [release], "make", release, project.path, *SEVERAL)
    wrong: list[str] = []
    moved = {name: downgraded(project, f"{release}_{name}.ckpt") for name in SEVERAL}
    later = {name: downgraded(project, f"{release}_{name}.later.ckpt") for name in SEVERAL}
    run("making.py", ["0.12.0"], "continue", "0.12.0", *(word for name, path in moved.items() for word in (path, name)))
    for name, path in moved.items():
        wrong += [f"{name}: {what}" for what in compared(path, project.path / f"{release}_{name}.ckpt", later[name])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("release", "name"), REFUSED)
def test_what_is_refused(project: Folder, release: str, name: str) -> None:
    run("making.py", [release], "make", release, project.path, name)
    path = project.path / f"{release}_{name}.ckpt"
    before = digest(path)
    ran = project.run("--chain", "anemoi", "upgrade", "head", path)
    assert (ran.code in (1, 3), REFUSED[release, name] in ran.err) == (True, True), ran.err
    assert digest(path) == before
