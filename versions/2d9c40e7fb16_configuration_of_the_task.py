"""the task, in the configuration

From anemoi-models 0.14.0 on, what is to be done (`task`) is apart from how it is trained (`training.training_method`), and the optimizer
from its schedule. Averaging of weights is configured otherwise; nothing is averaged until that is said anew.

Revision ID: 2d9c40e7fb16
Revises: f3b9e04d6a85
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "2d9c40e7fb16"
down_revision = "f3b9e04d6a85"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.14.0"})

operations = [
    op.MoveItem(
        "hyper_parameters.config.training.multistep_input",
        "hyper_parameters.config.task.multistep_input",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.multistep_output",
        "hyper_parameters.config.task.multistep_output",
        optional=True,
    ),
    op.MoveItem("hyper_parameters.config.data.timestep", "hyper_parameters.config.task.timestep", optional=True),
    op.MoveItem(
        "hyper_parameters.config.training.rollout.start", "hyper_parameters.config.task.rollout.start", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.training.rollout.epoch_increment",
        "hyper_parameters.config.task.rollout.epoch_increment",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.rollout.max", "hyper_parameters.config.task.rollout.maximum", optional=True
    ),
    op.DropItem("hyper_parameters.config.training.rollout", optional=True),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation_rollout",
        "hyper_parameters.config.task.validation_rollout",
        optional=True,
    ),
    op.CopyItem(
        "hyper_parameters.config.training.model_task",
        "hyper_parameters.config.task._target_",
        overwrite=False,
        optional=True,
    ),
    op.MapItem(
        "hyper_parameters.config.task._target_",
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
    op.MoveItem(
        "hyper_parameters.config.training.model_task", "hyper_parameters.config.training.training_method", optional=True
    ),
    op.MapItem(
        "hyper_parameters.config.training.training_method",
        {
            "anemoi.training.train.tasks.GraphForecaster": "anemoi.training.train.methods.SingleTraining",
            "anemoi.training.train.tasks.GraphEnsForecaster": "anemoi.training.train.methods.EnsembleTraining",
        },
        optional=True,
    ),
    op.DropItem("hyper_parameters.config.training.swa", optional=True),
    op.SetItem("hyper_parameters.config.training.weight_averaging", None, overwrite=False, optional=True),
    op.MoveItem(
        "hyper_parameters.config.training.optimizer",
        "hyper_parameters.config.training.optimization.optimizer",
        optional=True,
    ),
    op.SetItem(
        "hyper_parameters.config.training.optimization.pl_lr_scheduler",
        {"interval": "step"},
        overwrite=False,
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.lr.rate", "hyper_parameters.config.training.optimization.lr", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.training.lr.min",
        "hyper_parameters.config.training.optimization.lr_scheduler.lr_min",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.lr.iterations",
        "hyper_parameters.config.training.optimization.lr_scheduler.t_initial",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.lr.warmup",
        "hyper_parameters.config.training.optimization.lr_scheduler.warmup_t",
        optional=True,
    ),
    op.DropItem("hyper_parameters.config.training.lr", optional=True),
    op.SetItem(
        "hyper_parameters.config.training.optimization.lr_scheduler._target_",
        "timm.scheduler.CosineLRScheduler",
        overwrite=False,
        optional=True,
    ),
    op.SetItem(
        "hyper_parameters.config.training.optimization.lr_scheduler.t_in_epochs", False, overwrite=False, optional=True
    ),
]
