"""no truncation data

anemoi-models 0.11.0 has truncation in the residual connection, which reads its matrices itself: the model takes no
``truncation_data`` any more.

Revision ID: d52a08f1c7e4
Revises: 4d8e0b62f9a7
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "d52a08f1c7e4"
down_revision = "4d8e0b62f9a7"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"})

KEPT = "kept_by_anemoi_migrations"
NAME = "truncation_data"


def migrate(ckpt: CkptType) -> CkptType:
    """Put it aside; there may be none."""
    hyper_parameters = ckpt["hyper_parameters"]
    aside = {NAME: hyper_parameters.pop(NAME)} if NAME in hyper_parameters else {}
    ckpt.setdefault(KEPT, {})[revision] = aside
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Put it back; a model that was made without it had nothing to truncate."""
    kept = ckpt.get(KEPT, {})
    ckpt["hyper_parameters"].update(kept.pop(revision) if revision in kept else {NAME: {}})
    if not kept:
        ckpt.pop(KEPT, None)
    return ckpt
