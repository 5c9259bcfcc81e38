"""the training method, in the configuration

The trainers for anemoi-models 0.16.0 take the training method with its arguments. Diffusion models are called transport models.

Revision ID: 6ea07b3954d2
Revises: bd60f8a3179c
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "6ea07b3954d2"
down_revision = "bd60f8a3179c"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.16.0"})

operations = [
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MoveItem("training.training_method", "training.method._target_", optional=True),
            op.MapItem(
                "model.model._target_",
                {
                    "anemoi.models.models.AnemoiDiffusionModelEncProcDec": "anemoi.models.models.AnemoiTransportModelEncProcDec",
                    "anemoi.models.models.AnemoiDiffusionTendModelEncProcDec": "anemoi.models.models.AnemoiTransportTendModelEncProcDec",
                },
                optional=True,
            ),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
