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
known_as = {
    "1773048851_fuse_multiple_perdataset_graphs": {
        "3.9": "cac75ef0852908408a1452274556dfa2e74ebfe07f2bcbbb9f4ac994310fd3cf",
        "3.12": "70c84b19cbeb75c087330f94c374117ded013668153dc030fa2b0e0d17ea7dbf",
        "3.13": "2fb1a657d9632cae0c1410feed96686eb31e0a2a8b1bd08df35fe8d5c677fe65",
    },
}

operations = [
    op.RenamePrefix("model.model.node_attributes.data.", "model.model.node_attributes."),
]
