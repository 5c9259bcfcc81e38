"""no truncation data

anemoi-models 0.11.0 has truncation in the residual connection, which reads its matrices itself: the model takes no
``truncation_data`` any more.

Revision ID: d52a08f1c7e4
Revises: 4d8e0b62f9a7
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "d52a08f1c7e4"
down_revision = "4d8e0b62f9a7"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"})

operations = [
    # A model that was made without it had nothing to truncate.
    op.DropItem("hyper_parameters.truncation_data", optional=True, default={}),
]
