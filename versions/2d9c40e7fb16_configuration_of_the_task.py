"""the task, in the configuration

From anemoi-models 0.14.0 on, what is to be done (`task`) is apart from how it is trained (`training.training_method`), and the optimizer
from its schedule. Averaging of weights is configured otherwise; nothing is averaged until that is said anew.

Trainers take the task beside the configuration too (`hyper_parameters.task`): it is written where the configuration says all of it.

Revision ID: 2d9c40e7fb16
Revises: f3b9e04d6a85
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_begun, refuse_ended

revision = "2d9c40e7fb16"
down_revision = "f3b9e04d6a85"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.14.0"})


def known(ckpt: CkptType) -> list[op.Operation]:
    """Refuse models of classes that end here."""
    refuse_ended(ckpt, "0.14.0")
    return []


def known_before(ckpt: CkptType) -> list[op.Operation]:
    """Refuse models of classes that begin here."""
    refuse_begun(ckpt, "0.14.0")
    return []


operations = [
    op.Derive("known", "known_before"),
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MoveItem("training.multistep_input", "task.multistep_input", optional=True),
            op.MoveItem("training.multistep_output", "task.multistep_output", optional=True),
            op.MoveItem("data.timestep", "task.timestep", optional=True),
            op.MoveItem("training.rollout.start", "task.rollout.start", optional=True),
            op.MoveItem("training.rollout.epoch_increment", "task.rollout.epoch_increment", optional=True),
            op.MoveItem("training.rollout.max", "task.rollout.maximum", optional=True),
            op.DropItem("training.rollout", optional=True),
            op.MoveItem("dataloader.validation_rollout", "task.validation_rollout", optional=True),
            op.CopyItem("training.model_task", "task._target_", overwrite=False, optional=True),
            op.MapItem(
                "task._target_",
                {
                    "anemoi.training.train.tasks.GraphForecaster": "anemoi.training.tasks.Forecaster",
                    "anemoi.training.train.tasks.GraphEnsForecaster": "anemoi.training.tasks.Forecaster",
                    "anemoi.training.train.tasks.GraphDiffusionForecaster": "anemoi.training.tasks.Forecaster",
                    "anemoi.training.train.tasks.GraphDiffusionTendForecaster": "anemoi.training.tasks.Forecaster",
                    "anemoi.training.train.tasks.GraphMultiOutInterpolator": "anemoi.training.tasks.TemporalDownscaler",
                    "anemoi.training.train.tasks.GraphAutoEncoder": "anemoi.training.tasks.Autoencoder",
                },
                optional=True,
            ),
            op.MoveItem("training.model_task", "training.training_method", optional=True),
            op.MapItem(
                "training.training_method",
                {
                    "anemoi.training.train.tasks.GraphForecaster": "anemoi.training.train.methods.SingleTraining",
                    "anemoi.training.train.tasks.GraphEnsForecaster": "anemoi.training.train.methods.EnsembleTraining",
                },
                optional=True,
            ),
            op.DropItem("training.swa", optional=True),
            op.SetItem("training.weight_averaging", None, overwrite=False, optional=True),
            op.MoveItem("training.optimizer", "training.optimization.optimizer", optional=True),
            op.SetItem("training.optimization.pl_lr_scheduler", {"interval": "step"}, overwrite=False, optional=True),
            op.MoveItem("training.lr.rate", "training.optimization.lr", optional=True),
            op.MoveItem("training.lr.min", "training.optimization.lr_scheduler.lr_min", optional=True),
            op.MoveItem("training.lr.iterations", "training.optimization.lr_scheduler.t_initial", optional=True),
            op.MoveItem("training.lr.warmup", "training.optimization.lr_scheduler.warmup_t", optional=True),
            op.DropItem("training.lr", optional=True),
            op.SetItem(
                "training.optimization.lr_scheduler._target_",
                "timm.scheduler.CosineLRScheduler",
                overwrite=False,
                optional=True,
            ),
            op.SetItem("training.optimization.lr_scheduler.t_in_epochs", False, overwrite=False, optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
    op.Run("with_task", "without_task"),
]


TASK = "task"
FORECASTER = "anemoi.training.tasks.Forecaster"
FORECASTS = ("multistep_input", "multistep_output", "timestep", "rollout", "validation_rollout")


def with_task(ckpt: CkptType) -> CkptType:
    """Put the task that the configuration says beside it, as a call that makes it where it is loaded."""
    kept = ckpt["hyper_parameters"]
    said: Any = items.plain(items.get(kept, "config.task")) or {}
    if TASK not in kept and said.get("_target_") == FORECASTER and all(said.get(name) for name in FORECASTS[:3]):
        given = [said.get(name) for name in FORECASTS]
        kept[TASK] = items.class_named(FORECASTER)(*given[:4], *(given[4:] if given[4] else [1]))
    return ckpt


def without_task(ckpt: CkptType) -> CkptType:
    """Take it away."""
    ckpt["hyper_parameters"].pop(TASK, None)
    return ckpt
