"""training checkpoints of anemoi-models

Where the chain begins: what anemoi-models 0.9.4 to 0.9.5 saved. Nothing changes; what is no such checkpoint is refused
here, before anything is done to it. A checkpoint of a later release has to be stamped with that release first.

These are functions, because operations change something, and this only looks.

Revision ID: a7d1c04e9b52
Revises: nothing, this is a base
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "a7d1c04e9b52"
down_revision = None
branch_labels = "anemoi"
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.9.4"})
known_as = {
    "1755530253_initial": {
        "3.9": "b45697a8c90602201bc5eb190d5b2365dfa0d65716fb30021290299c854519d3",
        "3.12": "d176f7dbbf8fc046902b4c1ee5bf2304b07802a0905f393eb3a329aac6cf2a5c",
        "3.13": "ba40ee482986bce16644fdf5e3689ddbedf077e21bedb8864bb9a6a01b55e054",
    },
}


def migrate(ckpt: CkptType) -> CkptType:
    """Leave the checkpoint as it is, if it is one of this package."""
    state_dict = ckpt.get("state_dict", {}) if isinstance(ckpt, dict) else {}
    if "hyper_parameters" not in ckpt or not any(key.startswith("model.model.") for key in state_dict):
        raise ValueError("this is no training checkpoint of anemoi-models")
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Leave the checkpoint as it is."""
    return ckpt
