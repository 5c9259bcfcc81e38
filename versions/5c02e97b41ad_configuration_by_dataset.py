"""configuration by dataset

The trainers for anemoi-models 0.12.0 take several datasets: what is about one stands under its name, below `datasets`.

Revision ID: 5c02e97b41ad
Revises: b9054fc3d16e
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "5c02e97b41ad"
down_revision = "b9054fc3d16e"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

operations = [
    op.ConvertItem(
        "hyper_parameters.config",
        "omegaconf.DictConfig",
        classes=[
            "anemoi.training.schemas.base_schema.BaseSchema",
            "anemoi.training.schemas.base_schema.UnvalidatedBaseSchema",
        ],
        aliases={"target_": "_target_", "convert_": "_convert_", "mean_std": "mean-std", "min_max": "min-max"},
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.data.forcing", "hyper_parameters.config.data.datasets.data.forcing", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.data.diagnostic",
        "hyper_parameters.config.data.datasets.data.diagnostic",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.data.target", "hyper_parameters.config.data.datasets.data.target", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.data.processors",
        "hyper_parameters.config.data.datasets.data.processors",
        optional=True,
    ),
    op.DropItem("hyper_parameters.config.data.normalizer", optional=True),
    op.MoveItem(
        "hyper_parameters.config.dataloader.training.dataset",
        "hyper_parameters.config.dataloader.training.datasets.data.dataset",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.training.start",
        "hyper_parameters.config.dataloader.training.datasets.data.start",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.training.end",
        "hyper_parameters.config.dataloader.training.datasets.data.end",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.training.frequency",
        "hyper_parameters.config.dataloader.training.datasets.data.frequency",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.training.drop",
        "hyper_parameters.config.dataloader.training.datasets.data.drop",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation.dataset",
        "hyper_parameters.config.dataloader.validation.datasets.data.dataset",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation.start",
        "hyper_parameters.config.dataloader.validation.datasets.data.start",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation.end",
        "hyper_parameters.config.dataloader.validation.datasets.data.end",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation.frequency",
        "hyper_parameters.config.dataloader.validation.datasets.data.frequency",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.validation.drop",
        "hyper_parameters.config.dataloader.validation.datasets.data.drop",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.test.dataset",
        "hyper_parameters.config.dataloader.test.datasets.data.dataset",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.test.start",
        "hyper_parameters.config.dataloader.test.datasets.data.start",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.test.end",
        "hyper_parameters.config.dataloader.test.datasets.data.end",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.test.frequency",
        "hyper_parameters.config.dataloader.test.datasets.data.frequency",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.dataloader.test.drop",
        "hyper_parameters.config.dataloader.test.datasets.data.drop",
        optional=True,
    ),
    op.NestItem("hyper_parameters.config.dataloader.grid_indices", "datasets.data", optional=True),
    op.NestItem("hyper_parameters.config.training.scalers", "datasets.data", optional=True),
    op.NestItem("hyper_parameters.config.training.training_loss", "datasets.data", optional=True),
    op.NestItem("hyper_parameters.config.training.validation_metrics", "datasets.data", optional=True),
    op.NestItem("hyper_parameters.config.training.variable_groups", "datasets.data", optional=True),
    op.NestItem("hyper_parameters.config.training.metrics", "datasets.data", optional=True),
    op.SetItem("hyper_parameters.config.diagnostics.plot.datasets_to_plot", ["data"], overwrite=False, optional=True),
]
