"""the model takes the configuration as it is

Until anemoi-models 0.15.0, validated configurations said of the model that what it is given becomes plain dicts (``_convert_``), which
went past its configuration; from then on that would become a dict, and cannot.

Revision ID: 3b7a1e90c5d8
Revises: 2d9c40e7fb16
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "3b7a1e90c5d8"
down_revision = "2d9c40e7fb16"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.15.0"})

operations = [
    op.MapItem("hyper_parameters.config.model.model._convert_", {"all": "none"}, optional=True),
]
