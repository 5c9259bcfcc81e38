"""share node attributes between datasets

anemoi-models 0.13.0 has one graph for all datasets, so that node attributes are no longer kept by dataset.

Revision ID: c63d812fa07b
Revises: d8f0b7495ec1
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "c63d812fa07b"
down_revision = "d8f0b7495ec1"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

operations = [
    op.RenamePrefix("model.model.node_attributes.data.", "model.model.node_attributes."),
]
