"""name modules by dataset

anemoi-models 0.12.0 keeps normalizers, node attributes, graph providers, encoders and decoders in one dict for each
dataset; where there was one dataset, its name is "data". Only the names in the state dict change here. For training
checkpoints of 0.11.3.

Revision ID: a1c4f0d27e12
Revises: nothing, this is a base
Create Date: 2026-11-23 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "a1c4f0d27e12"
down_revision = None
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

DATASET = "data."
BY_DATASET = (
    "model.pre_processors.",
    "model.post_processors.",
    "model.model.node_attributes.",
    "model.model.encoder_graph_provider.",
    "model.model.encoder.",
    "model.model.decoder_graph_provider.",
    "model.model.decoder.",
)


def migrate(ckpt: CkptType) -> CkptType:
    """Insert the name of the dataset behind each of the prefixes."""
    state_dict = ckpt["state_dict"]
    if not any(key.startswith("model.model.encoder_graph_provider.trainable") for key in state_dict):
        raise ValueError("this is no checkpoint of anemoi-models 0.11.3; stamp it if it is of a later release")
    for key in list(state_dict):
        prefix = next((prefix for prefix in BY_DATASET if key.startswith(prefix)), "")
        new = prefix + DATASET + key[len(prefix) :] if prefix else key
        state_dict[new] = state_dict.pop(key)  # every key in turn, so that the order stays
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Take the name of the dataset out again."""
    state_dict = ckpt["state_dict"]
    for key in list(state_dict):
        prefix = next((prefix for prefix in BY_DATASET if key.startswith(prefix + DATASET)), "")
        new = prefix + key[len(prefix + DATASET) :] if prefix else key
        state_dict[new] = state_dict.pop(key)
    return ckpt
