"""The chain that ships, as such; what it does to checkpoints is tested in `test_anemoi`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.scripts.load_functions import load_module
from tests.support.project import Folder, digest

VERSIONS = Path(str(resources.files("anemoi_ckpt_migrate.versions")))


def test_it_is_found_by_name(project: Folder) -> None:
    assert "[anemoi]" in project.ok("--chain", "anemoi", "heads").out
    chain = cm.open_chain("anemoi")
    assert [path.resolve() for path in chain.config.versions] == [VERSIONS.resolve()]
    assert chain.config.package == "anemoi-models"  # so that releases can be named
    assert len(chain.graph.heads) == 1
    assert project.run("--chain", "anemoi", "check").code == 0


def test_every_revision_says_which_release_made_the_change() -> None:
    for revision in cm.open_chain("anemoi").graph:
        assert "anemoi-models" in revision.versions
        assert load_module(revision).__doc__.count("Revision ID:") == 1


def test_this_repository_is_a_project_with_that_chain() -> None:
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        pytest.skip("the sources are not here")
    assert list(cm.open_project(root).graph) == list(cm.open_chain("anemoi").graph)


def test_foreign_checkpoints_are_refused(project: Folder) -> None:
    checkpoint = project.copy()
    before = digest(checkpoint)
    ran = project.run("--chain", "anemoi", "upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "no training checkpoint of anemoi-models" in ran.err
    assert digest(checkpoint) == before
