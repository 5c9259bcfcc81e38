"""The chain that ships: the names of real anemoi-models checkpoints, from release to release."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from tests.conftest import DATA, Folder, digest

torch = pytest.importorskip("torch")
NAMES = json.loads((DATA / "anemoi_names.json").read_text())
CHAIN = cm.open_project(Path(__file__).parent.parent)


def save(path: Path, names: list[str]) -> Path:
    """Save a checkpoint whose state dict has the names of a real one, in their order."""
    torch.save({"state_dict": {name: torch.full((1,), float(i)) for i, name in enumerate(names)}}, path)
    return path


@pytest.mark.parametrize("model", ["gt", "gnn"])
def test_names_become_those_of_the_next_releases(project: Folder, model: str) -> None:
    checkpoint = save(project.path / "last.ckpt", NAMES[f"0.11.3_{model}"])
    before = torch.load(checkpoint)["state_dict"]
    for target, release in (("a1c4", "0.12.0"), ("5be1", "0.13.0")):
        cm.upgrade(checkpoint, target, project=CHAIN)
        after = torch.load(checkpoint)["state_dict"]
        assert list(after) == NAMES[f"{release}_{model}"]
        assert [t.item() for t in after.values()] == [t.item() for t in before.values()]
    cm.downgrade(checkpoint, "base", project=CHAIN)
    assert list(torch.load(checkpoint)["state_dict"]) == list(before)


@pytest.mark.parametrize("release", ["0.10.0_gt", "0.13.0_gnn"])
def test_other_releases_are_refused(project: Folder, release: str) -> None:
    checkpoint = save(project.path / "last.ckpt", NAMES[release])
    before = digest(checkpoint)
    with pytest.raises(cm.MigrateError, match="no checkpoint of anemoi-models"):
        cm.upgrade(checkpoint, "head", project=CHAIN)
    assert digest(checkpoint) == before


def test_the_installed_package_carries_it() -> None:
    scripts = {path.name for path in resources.files("anemoi_ckpt_migrate.versions").iterdir()}
    assert {Path(revision.path).name for revision in CHAIN.graph} <= scripts
