"""hidden nodes belong to the model, in the configuration

From anemoi-models 0.13.0 on, the model is told what its hidden nodes are called, and whether it skips them; nodes of datasets
and hidden ones have as many trainable parameters as are configured for each, where all had as many as the hidden ones. What is
read of a dataset stands below `dataset_config`. Output may have several steps.

Before, hierarchical models never skipped hidden nodes and all others always did: what does otherwise has no way back.

Releases 0.13 to 0.15 leave the processor out of models that skip nothing. So a model that is of before is marked until 0.16.0.

The list of migrations that anemoi-models keeps no longer holds functions that undo them, and their class is gone.

Revision ID: 81f6a3d0c95b
Revises: c63d812fa07b
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, items, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_begun, refuse_ended

revision = "81f6a3d0c95b"
down_revision = "c63d812fa07b"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

PLACES = ["hyper_parameters.config", "hyper_parameters.metadata.config"]
RECORDS = {"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"}
SKIPS = "model.model.latent_skip"
NEVER_SKIPPED = "never_skipped_by_anemoi_migrations"


def told(ckpt: CkptType) -> list[op.Operation]:
    """Tell the model what its hidden nodes are called, and whether it skips them; nodes of data have names of their own."""
    refuse_ended(ckpt, "0.13.0")
    own = [
        op.MoveItem("graph.hidden", "model.model.hidden_nodes_name", optional=True),
        op.SetItem("model.model.hidden_nodes_name", "hidden", overwrite=False, optional=True),
        op.DropItem("graph.data", optional=True),
        skipping(ckpt),
    ]
    unsaid = items.get(ckpt, f"{PLACES[0]}.model") is not None and items.get(ckpt, f"{PLACES[0]}.{SKIPS}") is None
    marks = [op.SetItem(NEVER_SKIPPED, True)] if unsaid and not always_skipped(ckpt) else []
    return [op.At(PLACES, own, records=RECORDS, optional=True), *marks]


def untold(ckpt: CkptType) -> list[op.Operation]:
    """Say of the graph what nodes are called, and nothing of skipping, if it is what was so."""
    refuse_begun(ckpt, "0.13.0")
    skips = items.get(ckpt, f"{PLACES[0]}.{SKIPS}")
    if skips not in (None, always_skipped(ckpt)):
        raise Refused(
            f"its latent_skip is {skips}, and before anemoi-models 0.13.0 hierarchical models never skip hidden nodes and "
            "all others always do: go on with it in a release from 0.13.0 on"
        )
    back = [
        skipping(ckpt).inverse(),
        op.SetItem("graph.data", "data", overwrite=False, optional=True),
        op.MoveItem("model.model.hidden_nodes_name", "graph.hidden", optional=True),
    ]
    return [op.DropItem(NEVER_SKIPPED, optional=True), op.At(PLACES, back, records=RECORDS, optional=True)]


def skipping(ckpt: CkptType) -> op.Operation:
    """Say what models did until then."""
    return op.SetItem(SKIPS, always_skipped(ckpt), overwrite=False, optional=True)


def always_skipped(ckpt: CkptType) -> bool:
    """Tell whether such a model skipped its hidden nodes until then."""
    return "Hierarchical" not in str(items.get(ckpt, f"{PLACES[0]}.model.model._target_"))


def by_kind(sizes: dict[str, Any], ckpt: CkptType) -> dict[str, Any]:
    """Say how many trainable parameters nodes of datasets have, and hidden ones, where those of all lie side by side."""
    if "hidden" not in sizes:
        return sizes
    indices = ckpt["hyper_parameters"].get("data_indices")
    count = len(indices) if isinstance(indices, dict) else 1
    return {**sizes, "data": sizes["hidden"], "hidden": sizes["hidden"] * count if count > 1 else sizes["hidden"]}


def for_all(sizes: dict[str, Any], ckpt: CkptType) -> dict[str, Any]:
    """Say how many all have."""
    return {**sizes, "hidden": sizes.get("data", sizes.get("hidden", 0))}


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
    op.Derive("told", "untold"),
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.Rewrite("by_kind", "for_all", "model.trainable_parameters", optional=True),
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
