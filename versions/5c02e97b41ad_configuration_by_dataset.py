"""configuration by dataset

The trainers for anemoi-models 0.12.0 take several datasets: what is about one stands under its name, below `datasets`.

Revision ID: 5c02e97b41ad
Revises: b9054fc3d16e
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, items, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_begun

revision = "5c02e97b41ad"
down_revision = "b9054fc3d16e"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

PLACES = ["hyper_parameters.config", "hyper_parameters.metadata.config"]
RECORDS = {"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"}
READ = ("dataset", "start", "end", "frequency", "drop")
BY_DATASET = {
    "data": ("forcing", "diagnostic", "target", "processors"),
    "dataloader.training": READ,
    "dataloader.validation": READ,
    "dataloader.test": READ,
}
WHOLE = (
    "dataloader.grid_indices",
    "training.scalers",
    "training.training_loss",
    "training.validation_metrics",
    "training.variable_groups",
    "training.metrics",
)


def by_dataset(ckpt: CkptType) -> list[op.Operation]:
    """Put what is about the dataset under its name."""
    name = dataset(ckpt)
    moves = [
        op.MoveItem(f"{part}.{key}", f"{part}.datasets.{name}.{key}", optional=True)
        for part, keys in BY_DATASET.items()
        for key in keys
    ]
    nests = [op.NestItem(part, f"datasets.{name}", optional=True) for part in WHOLE]
    plots = op.SetItem("diagnostics.plot.datasets_to_plot", [name], overwrite=False, optional=True)
    own = [*moves, op.DropItem("data.normalizer", optional=True), *nests, plots]
    return [op.At(PLACES, own, records=RECORDS, optional=True)]


def for_one(ckpt: CkptType) -> list[op.Operation]:
    """Take it out again."""
    refuse_begun(ckpt, "0.12.0")
    found = [each.inverse() for each in by_dataset(ckpt)]
    return [each for each in reversed(found) if each is not None]


def dataset(ckpt: CkptType) -> str:
    """Return what the only dataset is called."""
    indices = ckpt["hyper_parameters"].get("data_indices")
    names = list(indices) if isinstance(indices, dict) else items.keys(ckpt, f"{PLACES[0]}.data.datasets") or ["data"]
    if len(names) != 1:
        raise Refused(
            f"anemoi-models before 0.12.0 has one dataset, and this model has several ({', '.join(names)}): "
            "it cannot go back further than 0.12.0"
        )
    return names[0]


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
    op.Derive(by_dataset, for_one),
]
