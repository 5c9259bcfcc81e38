"""configuration without a data module

The trainers for anemoi-models 0.10.0 have one data module, which is no longer configured; the module of its schema is
gone. The profiler is a command.

Until then, and now and then later, trainers pickled configurations as models of pydantic, whose classes are gone.

Revision ID: 93d1f60c8a24
Revises: b3e8f6205d1a
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "93d1f60c8a24"
down_revision = "b3e8f6205d1a"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.10.0"})
known_as = {
    "1762857427_deprecate_eda": {
        "3.9": "9b7bec108dc486f3b1a464a339b1574efca6b52cec8fe59dbfe0494a947a57ab",
        "3.12": "146187edca010fd81ccc9010533292102ab192c2c42fd29c7563dfaf38a15823",
        "3.13": "444efba49e9392c801092bbd55099270ebd2d988f14fbc62189cb76a7b63eb66",
    },
}

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
            op.DropItem("datamodule", optional=True),
            op.DropItem("diagnostics.profiler", optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
