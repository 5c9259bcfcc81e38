"""hidden nodes belong to the model, in the configuration

From anemoi-models 0.13.0 on, the model is told what its hidden nodes are called, and whether it skips them; each group of
nodes has as many trainable parameters as are configured for it, where all had as many as the hidden ones. What is read of a dataset
stands below `dataset_config`. Output may have several steps.

The list of migrations that anemoi-models keeps no longer holds functions that undo them, and their class is gone.

Revision ID: 81f6a3d0c95b
Revises: c63d812fa07b
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "81f6a3d0c95b"
down_revision = "c63d812fa07b"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

operations = [
    op.DropItem("migrations.*.rollback", optional=True),
    op.DropItem("migrations.*.setup_context", optional=True),
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
            op.MoveItem("graph.hidden", "model.model.hidden_nodes_name", optional=True),
            op.SetItem("model.model.hidden_nodes_name", "hidden", overwrite=False, optional=True),
            op.DropItem("graph.data", optional=True),
            op.SetItem("model.model.latent_skip", True, overwrite=False, optional=True),
            op.CopyItem("model.trainable_parameters.hidden", "model.trainable_parameters.data", optional=True),
            op.MoveItem(
                "dataloader.training.datasets.*.dataset",
                "dataloader.training.datasets.*.dataset_config.dataset",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.training.datasets.*.frequency",
                "dataloader.training.datasets.*.dataset_config.frequency",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.training.datasets.*.drop",
                "dataloader.training.datasets.*.dataset_config.drop",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.validation.datasets.*.dataset",
                "dataloader.validation.datasets.*.dataset_config.dataset",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.validation.datasets.*.frequency",
                "dataloader.validation.datasets.*.dataset_config.frequency",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.validation.datasets.*.drop",
                "dataloader.validation.datasets.*.dataset_config.drop",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.test.datasets.*.dataset", "dataloader.test.datasets.*.dataset_config.dataset", optional=True
            ),
            op.MoveItem(
                "dataloader.test.datasets.*.frequency",
                "dataloader.test.datasets.*.dataset_config.frequency",
                optional=True,
            ),
            op.MoveItem(
                "dataloader.test.datasets.*.drop", "dataloader.test.datasets.*.dataset_config.drop", optional=True
            ),
            op.DropItem("dataloader.grid_indices", optional=True),
            op.DropItem("training.scalers.datasets.*.node_weights.nodes_name", optional=True),
            op.SetItem("training.multistep_output", 1, overwrite=False, optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
