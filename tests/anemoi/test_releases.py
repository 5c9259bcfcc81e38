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
from tests.anemoi.variants import LATEST, RELEASES, VARIANTS, number  # noqa: E402
from tests.support.anemoi import read  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

OF_ENSEMBLES = tuple(
    f"model.model.{part}.weight"
    for part in (
        *("encoder.emb_nodes_src", "decoder.emb_nodes_dst"),  # before several datasets
        *("encoder.data.emb_nodes_src", "decoder.data.emb_nodes_dst"),
    )
)
"""What has two weights for one input before 0.11, and therefore trains on otherwise."""
SEVERAL = ("another-name", "another-name-gnn", "two-datasets", "two-datasets-gnn")
pytestmark = pytest.mark.skipif(not THERE, reason="make test-anemoi makes what this needs")

REFUSED: dict[tuple[str, str], str] = {
    **{
        (release, "gated"): "belongs to an activation with a gate"
        for release in RELEASES
        if VARIANTS["gated"].made_by(release) and number(release) < number("0.16")
    },
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


def both(release: str) -> list[str]:
    """Return the variants that a release and the latest one make, and that are not refused."""
    names = [name for name, variant in VARIANTS.items() if variant.made_by(release) and variant.made_by(LATEST)]
    return [name for name in names if (release, name) not in REFUSED]


def moved(project: Folder, made: Path, *words: str) -> Path:
    """Take a copy of a checkpoint somewhere along the chain."""
    path = Path(shutil.copy(made, project.path / f"{words[0]}_{made.name}"))
    project.ok("--chain", "anemoi", *words, path, "--no-backup")
    return path


def check(project: Folder, made: dict[str, Path], start: str, end: str, there: list[str], back: list[str]) -> None:
    """Move checkpoints of a release to another, where they go on as they would have where they were made; and back."""
    paths = {name: moved(project, path, *there) for name, path in made.items()}
    kept = {name: Path(shutil.copy(path, f"{path}.kept")) for name, path in paths.items()}
    run("making.py", [end], "continue", end, *(word for name, path in paths.items() for word in (path, name)))
    wrong: list[str] = []
    for name, path in paths.items():
        later = moved(project, made[name].with_suffix(".later.ckpt"), *there)
        trained_apart = (
            OF_ENSEMBLES if VARIANTS[name].noise and min(number(start), number(end)) < number("0.11") else ()
        )
        wrong += [f"{name}: {what}" for what in compared(path, made[name], later, trained_apart)]
        project.ok("--chain", "anemoi", *back, kept[name], "--no-backup")
        if not is_as_before(kept[name], read(made[name])):
            wrong.append(f"{name}: is not what it was in {start}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints that the latest release made."""
    folder = tmp_path_factory.mktemp("latest")
    names = [name for name, variant in VARIANTS.items() if variant.made_by(LATEST)]
    run("making.py", [LATEST], "make", LATEST, folder, *names)
    return folder


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_models_of_a_release_go_on_in_the_latest(project: Folder, release: str) -> None:
    """Strictly loaded, the same output; one more step of training, the same weights and moments; and back."""
    names = both(release)
    run("making.py", [release], "make", release, project.path, *names)
    made = {name: project.path / f"{release}_{name}.ckpt" for name in names}
    check(project, made, release, LATEST, ["upgrade", "head"], ["downgrade", f"anemoi-models=={release}"])


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_models_of_the_latest_go_on_in_a_release(project: Folder, latest: Path, release: str) -> None:
    """The same downwards, from checkpoints that no migration has touched; and up again."""
    names = [name for name in both(release) if (release, name) not in INEXPRESSIBLE]
    made = {name: latest / f"{LATEST}_{name}.ckpt" for name in names}
    check(project, made, LATEST, release, ["downgrade", f"anemoi-models=={release}"], ["upgrade", "head"])


def test_models_of_several_datasets_go_on_in_an_earlier_release(project: Folder) -> None:
    """In 0.12.0, where each dataset has a graph of its own."""
    run("making.py", ["0.13.0"], "make", "0.13.0", project.path, *SEVERAL)
    made = {name: project.path / f"0.13.0_{name}.ckpt" for name in SEVERAL}
    there, back = ["downgrade", "anemoi-models==0.12.0"], ["upgrade", "anemoi-models==0.13.0"]
    check(project, made, "0.13.0", "0.12.0", there, back)


def test_ensembles_that_stay_conditioned_on_what_they_skip(project: Folder) -> None:
    """0.11.3 alone can run them: from 0.13.0 on, releases fail with what they skip."""
    run("making.py", ["0.10.0"], "make", "0.10.0", project.path, "ensemble-conditioned")
    made = {"ensemble-conditioned": project.path / "0.10.0_ensemble-conditioned.ckpt"}
    there, back = ["upgrade", "anemoi-models==0.11.3"], ["downgrade", "anemoi-models==0.10.0"]
    check(project, made, "0.10.0", "0.11.3", there, back)


def compared(path: Path, made: Path, later: Path, trained_apart: tuple[str, ...]) -> list[str]:
    """Say in what a model that went on in another release differs from one that went on where it was made."""
    found: list[str] = []
    outputs = [torch.load(each.with_suffix(".output.pt")) for each in (path, made)]
    apart = max(differences(one, other) for one, other in zip(*(each.values() for each in outputs), strict=True))
    if not apart <= 1e-5:
        found.append(f"outputs are {apart} apart")
    one, other = read(path.with_suffix(".later.ckpt")), read(later)
    for key in {*trained_apart} & {*one["state_dict"]}:
        del one["state_dict"][key], other["state_dict"][key]
    for what in ("state_dict", "optimizer_states"):
        apart = differences(one[what], other[what])
        if not apart <= 1e-4:
            found.append(f"{what} is {apart} apart after one more step")
    return found


@pytest.mark.parametrize(("release", "name"), REFUSED)
def test_what_is_refused(project: Folder, release: str, name: str) -> None:
    run("making.py", [release], "make", release, project.path, name)
    refuses(project, project.path / f"{release}_{name}.ckpt", REFUSED[release, name], "upgrade", "head")


def refuses(project: Folder, path: Path, reason: str, *words: str) -> None:
    """See that a checkpoint is refused, with the reason, and left as it is."""
    before = digest(path)
    ran = project.run("--chain", "anemoi", *words, path)
    assert (ran.code in (1, 3), reason in ran.err) == (True, True), ran.err
    assert digest(path) == before


INEXPRESSIBLE = {
    ("0.16.0", "named-encoders"): "encoder '0' is for 'data'",
    ("0.16.0", "two-named-encoders"): "encoder 'global' is for 'era'",
    ("0.15.0", "gated"): "belongs to layers with a gate",
    ("0.12.0", "two-datasets-trainable"): "it cannot go back further than 0.13.0",
    ("0.12.0", "hierarchical-skip"): "its latent_skip is True",
    ("0.12.0", "unequal-nodes"): "it cannot go back further than 0.13.0",
    ("0.11.3", "two-datasets"): "it cannot go back further than 0.12.0",
    ("0.11.0", "edge-pre-mlp"): "edge_pre_mlp",
    ("0.9.4", "pointwise"): "pointwise",
    ("0.9.4", "target"): "there were no target variables",
}
"""What an earlier release than the latest cannot express, and the reason."""


@pytest.mark.parametrize(("release", "name"), INEXPRESSIBLE)
def test_what_a_release_cannot_express(project: Folder, latest: Path, release: str, name: str) -> None:
    path = Path(shutil.copy(latest / f"{LATEST}_{name}.ckpt", project.path))
    refuses(project, path, INEXPRESSIBLE[release, name], "downgrade", f"anemoi-models=={release}")
