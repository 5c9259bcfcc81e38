"""The chain of anemoi-models against its releases: models that each made go on in 0.19.0 as they would have there.

Run by ``make test-anemoi``, which makes what this needs: ``ANEMOI_PYTHON``, an interpreter that has what the releases
need, and ``ANEMOI_RELEASES``, a folder with one for each release, unpacked. Nothing of anemoi is imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.variants import LATEST, RELEASES, VARIANTS  # noqa: E402
from tests.conftest import Folder  # noqa: E402
from tests.operating import equal  # noqa: E402
from tests.test_anemoi import read  # noqa: E402

PYTHON, WHEELS = os.environ.get("ANEMOI_PYTHON", ""), os.environ.get("ANEMOI_RELEASES", "")
MAKING = Path(__file__).with_name("making.py")
pytestmark = pytest.mark.skipif(not (PYTHON and WHEELS), reason="make test-anemoi makes what this needs")

REFUSED: dict[tuple[str, str], str] = {}
"""What is refused, by release and variant, and the reason."""


def making(what: str, release: str, *words: Any) -> None:
    """Have a release make something, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(WHEELS) / release), "PYTHONWARNINGS": "ignore"}
    command = [PYTHON, str(MAKING), what, release, *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]


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
    apart = (found.double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
    return float(apart)


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_models_of_a_release_go_on_in_the_latest(project: Folder, release: str) -> None:
    """Strictly loaded, the same output; one more step of training, the same weights and moments; and back."""
    names = [name for name, variant in VARIANTS.items() if variant.made_by(release) and variant.made_by(LATEST)]
    making("make", release, project.path, *names)
    wrong: list[str] = []
    moved: dict[str, Path] = {}
    for name in names:
        made = project.path / f"{release}_{name}.ckpt"
        for path in (made, made.with_suffix(".later.ckpt")):
            copied = project.path / f"up_{path.name}"
            shutil.copy(path, copied)
            ran = project.run("--chain", "anemoi", "upgrade", "head", copied, "--no-backup")
            if (release, name) in REFUSED:
                assert (ran.code, REFUSED[release, name] in ran.err) == (1, True), ran.err
            elif ran.code:
                wrong.append(f"{name}: {ran.err}")
            elif path is made:
                moved[name] = copied
    going = [word for name, path in moved.items() for word in (path, name)]
    kept = {name: shutil.copy(path, f"{path}.kept") for name, path in moved.items()}
    making("continue", LATEST, *going)
    for name, path in moved.items():
        made = project.path / f"{release}_{name}.ckpt"
        outputs = [torch.load(each.with_suffix(".output.pt")) for each in (path, made)]
        apart = max(differences(one, other) for one, other in zip(*(each.values() for each in outputs), strict=True))
        if apart > 1e-5:
            wrong.append(f"{name}: outputs are {apart} apart")
        one, other = (
            read(each) for each in (path.with_suffix(".later.ckpt"), project.path / f"up_{made.stem}.later.ckpt")
        )
        for what in ("state_dict", "optimizer_states"):
            apart = differences(one[what], other[what])
            if apart > 1e-4:
                wrong.append(f"{name}: {what} is {apart} apart after one more step")
        project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", kept[name], "--no-backup")
        back = read(Path(kept[name]))
        back.pop("kept_by_anemoi_migrations", None)
        if not equal(back, read(made)):
            wrong.append(f"{name}: is not what it was")
    assert not wrong, "\n".join(wrong)
