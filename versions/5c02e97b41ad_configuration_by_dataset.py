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
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MoveItem("data.forcing", "data.datasets.data.forcing", optional=True),
            op.MoveItem("data.diagnostic", "data.datasets.data.diagnostic", optional=True),
            op.MoveItem("data.target", "data.datasets.data.target", optional=True),
            op.MoveItem("data.processors", "data.datasets.data.processors", optional=True),
            op.DropItem("data.normalizer", optional=True),
            op.MoveItem("dataloader.training.dataset", "dataloader.training.datasets.data.dataset", optional=True),
            op.MoveItem("dataloader.training.start", "dataloader.training.datasets.data.start", optional=True),
            op.MoveItem("dataloader.training.end", "dataloader.training.datasets.data.end", optional=True),
            op.MoveItem("dataloader.training.frequency", "dataloader.training.datasets.data.frequency", optional=True),
            op.MoveItem("dataloader.training.drop", "dataloader.training.datasets.data.drop", optional=True),
            op.MoveItem("dataloader.validation.dataset", "dataloader.validation.datasets.data.dataset", optional=True),
            op.MoveItem("dataloader.validation.start", "dataloader.validation.datasets.data.start", optional=True),
            op.MoveItem("dataloader.validation.end", "dataloader.validation.datasets.data.end", optional=True),
            op.MoveItem(
                "dataloader.validation.frequency", "dataloader.validation.datasets.data.frequency", optional=True
            ),
            op.MoveItem("dataloader.validation.drop", "dataloader.validation.datasets.data.drop", optional=True),
            op.MoveItem("dataloader.test.dataset", "dataloader.test.datasets.data.dataset", optional=True),
            op.MoveItem("dataloader.test.start", "dataloader.test.datasets.data.start", optional=True),
            op.MoveItem("dataloader.test.end", "dataloader.test.datasets.data.end", optional=True),
            op.MoveItem("dataloader.test.frequency", "dataloader.test.datasets.data.frequency", optional=True),
            op.MoveItem("dataloader.test.drop", "dataloader.test.datasets.data.drop", optional=True),
            op.NestItem("dataloader.grid_indices", "datasets.data", optional=True),
            op.NestItem("training.scalers", "datasets.data", optional=True),
            op.NestItem("training.training_loss", "datasets.data", optional=True),
            op.NestItem("training.validation_metrics", "datasets.data", optional=True),
            op.NestItem("training.variable_groups", "datasets.data", optional=True),
            op.NestItem("training.metrics", "datasets.data", optional=True),
            op.SetItem("diagnostics.plot.datasets_to_plot", ["data"], overwrite=False, optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
