"""share node attributes between datasets

anemoi-models 0.13.0 fuses the graphs of all datasets into one, so that their node attributes are no longer kept by
dataset. Only the names in the state dict change here. For training checkpoints of 0.12.0 with one dataset, "data".

Revision ID: 5be19a83c0f4
Revises: a1c4f0d27e12
Create Date: 2026-11-23 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "5be19a83c0f4"
down_revision = "a1c4f0d27e12"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

ATTRIBUTES = "model.model.node_attributes."
BY_DATASET = ATTRIBUTES + "data."


def migrate(ckpt: CkptType) -> CkptType:
    """Take the name of the dataset out of the names of node attributes."""
    state_dict = ckpt["state_dict"]
    if any(key.startswith(ATTRIBUTES) and not key.startswith(BY_DATASET) for key in state_dict):
        raise ValueError("this checkpoint holds another dataset than 'data', or is of a later release than 0.12.0")
    return rename(ckpt, BY_DATASET, ATTRIBUTES)


def rollback(ckpt: CkptType) -> CkptType:
    """Put the name of the dataset back."""
    return rename(ckpt, ATTRIBUTES, BY_DATASET)


def rename(ckpt: CkptType, old: str, new: str) -> CkptType:
    """Replace the start of names, and keep their order."""
    state_dict = ckpt["state_dict"]
    for key in list(state_dict):
        state_dict[new + key[len(old) :] if key.startswith(old) else key] = state_dict.pop(key)
    return ckpt
