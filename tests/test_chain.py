"""The chain that ships: the names of real anemoi-models checkpoints, from release to release."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.config import Config
from anemoi_ckpt_migrate.scripts.loader import load
from tests.conftest import DATA, Folder, digest

torch = pytest.importorskip("torch")
NAMES = json.loads((DATA / "anemoi_names.json").read_text())
VERSIONS = Path(str(resources.files("anemoi_ckpt_migrate.versions")))
CHAIN = cm.Project(Config(VERSIONS, (VERSIONS,), None, "anemoi-models"), load([VERSIONS]))


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


def test_this_repository_is_a_project_with_that_chain() -> None:
    root = Path(__file__).parent.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("the sources are not here")
    assert [revision.id for revision in cm.open_project(root).graph] == [revision.id for revision in CHAIN.graph]
    assert CHAIN.graph.heads == ("5be19a83c0f4",)
