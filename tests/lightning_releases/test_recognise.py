"""The release of a checkpoint that nobody stamped. Nothing here needs Lightning or torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from tests.support.chains import make, tree
from tests.support.lightning_releases import AT, HEAD, OLDER, RELEASES, checkpoint_of, difference
from tests.support.project import Folder, digest


def at(current: Any) -> str:
    return ",".join(head["revision"] for head in current["heads"]) or "base"


def test_the_chain_is_found_by_name(project: Folder) -> None:
    assert project.ok("--chain", "lightning", "heads").out.startswith(f"{HEAD}  loops without children")
    assert project.run("--chain", "lightning", "check").code == 0
    chain = cm.open_chain("lightning")
    assert chain.config.package == "pytorch-lightning"
    assert [revision.versions["pytorch-lightning"] for revision in chain.graph] == [
        "0.10.0",
        "1.6.0",
        "1.6.5",
        "1.9.0",
        "2.0.0",
    ]


def test_every_release_is_recognised(project: Folder) -> None:
    found: dict[str, list[str]] = {}
    for release in RELEASES:
        ran = project.ok("--chain", "lightning", "current", "--json", checkpoint_of(release, project.path))
        found.setdefault(at(ran.lines[0]), []).append(release)
    assert {revision: set(releases) for revision, releases in found.items()} == {
        revision: set(releases.split()) for revision, releases in AT.items()
    }


@pytest.mark.parametrize(
    ("version", "revision"),
    [("0.10.0rc1", "base"), ("1.6.0rc1", "6b1d2f80c3e5"), ("1.6.4", "a84e07c5d219"), ("2.0.0.post0", HEAD), ("2.7.0.dev20270101", HEAD)],
)  # fmt: skip
def test_by_version(project: Folder, version: str, revision: str) -> None:
    checkpoint = make(project, {"state_dict": {}, "pytorch-lightning_version": version})
    assert at(project.ok("--chain", "lightning", "current", "--json", checkpoint).lines[0]) == revision


AUTOMATIC = {"fit_loop": {"epoch_loop.automatic_optimization.state_dict": {}}}
NESTED = {"fit_loop": {"epoch_loop.batch_loop.state_dict": {}}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": 1}, "this is no checkpoint of Lightning"),
        ({"state_dict": {}}, 'stamp "pytorch-lightning==1.9.5" CKPT`'),
        ({"state_dict": {}, "pytorch-lightning_version": "new"}, "'new', which is no version"),
        ({"state_dict": {}, "pytorch-lightning_version": 2}, "2, which is no version"),
        ({"state_dict": {}, "pytorch-lightning_version": "2.1.0", "loops": NESTED}, "a release before 2.0.0: stamp"),
        ({"state_dict": {}, "pytorch-lightning_version": "1.7.0", "loops": AUTOMATIC}, "a release from 2.0.0 on: stamp"),
    ],
)  # fmt: skip
def test_refused(project: Folder, content: Any, says: str) -> None:
    checkpoint = make(project, content)
    before = digest(checkpoint)
    ran = project.run("--chain", "lightning", "upgrade", "head", checkpoint)
    assert ran.code == 1
    assert says in ran.err
    assert digest(checkpoint) == before


def test_ways_out(project: Folder) -> None:
    """What a refusal names: the release by hand."""
    progress = {"optimizer": {}, "optimizer_position": 0}
    loops = {
        "fit_loop": {
            "epoch_loop.batch_loop.state_dict": {},
            "epoch_loop.batch_loop.optimizer_loop.optim_progress": progress,
        }
    }
    checkpoint = make(project, {"state_dict": {}, "loops": loops})
    project.ok("--chain", "lightning", "stamp", "pytorch-lightning==1.9.5", checkpoint)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    flat = {"epoch_loop.automatic_optimization.optim_progress": {"optimizer": {}}}
    assert tree(checkpoint) == {
        "state_dict": {},
        "loops": {"fit_loop": flat},
        "pytorch-lightning_version": "2.0.0",
    }
    wrong = make(
        project, {"state_dict": {}, "loops": {"fit_loop": NESTED["fit_loop"]}, "pytorch-lightning_version": "2.1"}
    )
    assert "loops are of a release before 2.0.0" in project.run("--chain", "lightning", "current", wrong).err
    project.ok("--chain", "lightning", "stamp", "pytorch-lightning==1.9.5", wrong)
    project.ok("--chain", "lightning", "upgrade", "head", wrong)
    assert tree(wrong)["loops"] == {"fit_loop": {}}
    newer = make(project, {"state_dict": {}, "pytorch-lightning_version": "1.7.0", "loops": AUTOMATIC})
    project.ok("--chain", "lightning", "stamp", "pytorch-lightning==2.0.0", newer)
    assert "nothing to do" in project.ok("--chain", "lightning", "upgrade", "head", newer).out


@pytest.mark.parametrize("release", OLDER)
def test_back_bit_for_bit(project: Folder, release: str) -> None:
    checkpoint = checkpoint_of(release, project.path)
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint, "--in-place")
    assert tree(checkpoint)["pytorch-lightning_version"] == "2.0.0"
    project.ok("--chain", "lightning", "downgrade", "base", checkpoint, "--in-place")
    assert digest(checkpoint) == digest(before)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint, "--check-rollback")
    project.ok("--chain", "lightning", "downgrade", "base", checkpoint)
    assert difference(before, checkpoint) is None


def test_without_steps(project: Folder) -> None:
    """Somebody kept the weights alone: no loops are made up."""
    checkpoint = make(project, {"state_dict": {}, "pytorch-lightning_version": "1.2.0"})
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    assert tree(checkpoint) == {
        "state_dict": {},
        "pytorch-lightning_version": "2.0.0",
        "legacy_pytorch-lightning_version": "1.2.0",
    }


def test_callbacks_that_are_none(project: Folder) -> None:
    checkpoint = make(project, {"state_dict": {}, "pytorch-lightning_version": "1.8.0", "callbacks": None})
    for words in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head")):
        project.ok("--chain", "lightning", *words, checkpoint)
    assert tree(checkpoint)["callbacks"] is None
