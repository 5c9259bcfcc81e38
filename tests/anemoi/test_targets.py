"""Checkpoints of models that not every release has, and of models that releases compute otherwise: small ones, of no release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.anemoi import read, torch
from tests.support.operations import equal
from tests.support.project import Folder, digest

MODELS = "anemoi.models.models"


def saved(project: Folder, release: str, model: dict[str, Any], **config: Any) -> Path:
    """Save a checkpoint with a configuration, stamped with a release."""
    path = project.path / "last.ckpt"
    config = {"model": {"model": model, **config.pop("parts", {})}, **config}
    torch.save({"state_dict": {"model.model.x": torch.ones(2)}, "hyper_parameters": {"config": config}}, path)
    project.ok("--chain", "anemoi", "stamp", f"anemoi-models=={release}", path, "--no-backup")
    return path


def named(path: Path, *keys: str) -> Any:
    """Return an item of a configuration."""
    found = read(path)["hyper_parameters"]["config"]
    for key in keys:
        found = found[key]
    return found


@pytest.mark.parametrize(
    ("release", "target", "ends"),
    [
        ("0.12.0", f"{MODELS}.AnemoiModelEncProcDecInterpolator", "0.13.0"),
        ("0.12.0", f"{MODELS}.interpolator.AnemoiModelEncProcDecInterpolator", "0.13.0"),
        ("0.13.0", f"{MODELS}.AnemoiModelEncProcDecMultiOutInterpolator", "0.14.0"),
        ("0.18.0", f"{MODELS}.AnemoiModelAutoEncoder", "0.19.0"),
        ("0.12.0", f"{MODELS}.hierarchical_autoencoder.AnemoiModelHierarchicalAutoEncoder", "0.19.0"),
    ],
)
def test_a_model_is_refused_where_it_ends(project: Folder, release: str, target: str, ends: str) -> None:
    path = saved(project, release, {"_target_": target, "latent_skip": True})
    before = digest(path)
    ran = project.run("--chain", "anemoi", "upgrade", "head", path)
    assert (ran.code, f"{target.rpartition('.')[2]}, which anemoi-models {ends} no longer has" in ran.err) == (3, True)
    assert digest(path) == before


def test_an_imputer_is_refused_where_it_ends(project: Folder) -> None:
    imputer = {"_target_": "anemoi.models.preprocessing.imputer.DynamicInputImputer", "config": {}}
    path = saved(
        project, "0.12.0", {"_target_": f"{MODELS}.AnemoiModelEncProcDec"}, data={"datasets": {"data": imputer}}
    )
    ran = project.run("--chain", "anemoi", "upgrade", "head", path)
    assert (ran.code, "its data.datasets.data is DynamicInputImputer" in ran.err) == (3, True)


@pytest.mark.parametrize(
    ("below", "part", "target"),
    [
        ("0.14.0", "residual", "anemoi.models.layers.residual.ScalarOrnsteinConnection"),
        ("0.13.0", "encoder", "anemoi.models.layers.mapper.PointWiseForwardMapper"),
        ("0.12.0", "processor", "anemoi.models.layers.processor.NoOpProcessor"),
    ],
)
def test_a_class_is_refused_below_where_it_begins(project: Folder, below: str, part: str, target: str) -> None:
    model = {"_target_": f"{MODELS}.AnemoiModelEncProcDec", "latent_skip": True}
    path = saved(project, "0.15.0", model, parts={part: {"_target_": target}})
    ran = project.run("--chain", "anemoi", "downgrade", f"anemoi-models=={below}", path)
    assert (ran.code, f"its model.{part} is {target.rpartition('.')[2]}" in ran.err) == (3, True)


# Models that skip nothing.


def test_a_processor_that_was_left_out_is_told_when_it_counts(project: Folder) -> None:
    path = saved(project, "0.15.0", {"_target_": f"{MODELS}.AnemoiModelEncProcDec", "latent_skip": False})
    ran = project.run("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    assert (ran.code, "leave the processor out of such models" in ran.err) == (0, True)


def test_a_hierarchical_model_of_before_never_skipped(project: Folder) -> None:
    """Its mark is there until 0.16.0, and back on the way down."""
    path = saved(project, "0.12.0", {"_target_": f"{MODELS}.AnemoiModelEncProcDecHierarchical"})
    before = read(path)
    project.ok("--chain", "anemoi", "upgrade", "anemoi-models==0.15.0", path, "--no-backup")
    assert read(path)["never_skipped_by_anemoi_migrations"] is True
    ran = project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    assert "leave the processor out" not in ran.err
    assert "never_skipped_by_anemoi_migrations" not in read(path)
    assert named(path, "model", "model", "latent_skip") is False
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.12.0", path, "--no-backup")
    assert equal(read(path), before)


# Diffusion.


@pytest.mark.parametrize(
    ("method", "mode"), [("DiffusionTraining", "state"), ("DiffusionTendencyTraining", "tendency")]
)
def test_diffusion_becomes_transport(project: Folder, method: str, mode: str) -> None:
    diffusion = {"sigma_max": 10.0, "rho": 7.0, "inference_defaults": {"diffusion_sampler": {"sampler": "heun"}}}
    model = {"_target_": f"{MODELS}.AnemoiDiffusionModelEncProcDec", "latent_skip": True, "diffusion": diffusion}
    training = {"training_method": f"anemoi.training.train.methods.{method}"}
    path = saved(project, "0.15.0", model, training=training)
    before = read(path)
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup", "--check-rollback")
    assert named(path, "model", "model") == {
        "_target_": f"{MODELS}.AnemoiTransportModelEncProcDec",
        "latent_skip": True,
        "transport": {
            "sigma_max": 10.0,
            "rho": 7.0,
            "inference_defaults": {"sampler": {"sampler": "heun"}},
            "objective": "edm_diffusion",
            "training_condition": {"distribution": "karras", "sigma_max": 10.0, "rho": 7.0},
        },
    }
    assert named(path, "training") == {
        "method": {"_target_": "anemoi.training.train.methods.TransportTraining"},
        "transport": {"prediction_mode": mode, "objective": "edm_diffusion"},
    }
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.15.0", path, "--no-backup")
    assert equal(read(path), before)


def test_transport_of_the_latest_becomes_diffusion(project: Folder) -> None:
    transport = {"objective": "edm_diffusion", "sigma_max": 10.0}
    model = {"_target_": f"{MODELS}.AnemoiTransportModelEncProcDec", "latent_skip": True, "transport": transport}
    path = saved(project, "0.16.0", model)
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.15.0", path, "--no-backup")
    assert named(path, "model", "model", "diffusion") == {"sigma_max": 10.0}


def test_another_objective_has_no_diffusion(project: Folder) -> None:
    transport = {"objective": "stochastic_interpolant"}
    model = {"_target_": f"{MODELS}.AnemoiTransportModelEncProcDec", "latent_skip": True, "transport": transport}
    path = saved(project, "0.16.0", model)
    ran = project.run("--chain", "anemoi", "downgrade", "anemoi-models==0.15.0", path)
    assert (ran.code, "stochastic_interpolant" in ran.err or "objective" in ran.err) == (1, True), ran.err


# The task.


def test_the_task_is_beside_the_configuration(project: Folder) -> None:
    training = {
        "model_task": "anemoi.training.train.tasks.GraphForecaster",
        "multistep_input": 2,
        "multistep_output": 1,
        "rollout": {"start": 1, "epoch_increment": 2, "max": 3},
    }
    model = {"_target_": f"{MODELS}.AnemoiModelEncProcDec", "latent_skip": True}
    path = saved(project, "0.13.0", model, training=training, data={"timestep": "6h"})
    before = read(path)
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    name, given, *_ = read(path)["hyper_parameters"]["task"]
    assert name == "anemoi.training.tasks.Forecaster"
    assert given == [2, 1, "6h", {"start": 1, "epoch_increment": 2, "maximum": 3}, 1]
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.13.0", path, "--no-backup")
    assert equal(read(path), before)


def test_a_task_that_is_not_known_is_not_written(project: Folder) -> None:
    path = saved(project, "0.13.0", {"_target_": f"{MODELS}.AnemoiModelEncProcDec", "latent_skip": True}, training={})
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    assert "task" not in read(path)["hyper_parameters"]
