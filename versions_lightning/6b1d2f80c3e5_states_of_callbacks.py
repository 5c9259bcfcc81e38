"""states of callbacks

Lightning 0.10.0 keeps the state of each callback under `callbacks`, by its class. Before, the best score and path of
`ModelCheckpoint` and the counts of `EarlyStopping` were values of the checkpoint itself.

A function puts them there, because no operation makes a key that is a class. The class is not imported.

Revision ID: 6b1d2f80c3e5
Revises: nothing, this is a base
Create Date: 2026-11-30 00:00:00+00:00
"""

from packaging.version import Version

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "6b1d2f80c3e5"
down_revision = None
branch_labels = "lightning"
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "pytorch-lightning": "0.10.0"})

operations = [
    op.Derive("with_place", "as_it_is"),
    op.Rewrite("with_states", "unchanged", "callbacks", optional=True, objects=True),
    op.DropItem("checkpoint_callback_best_model_score", optional=True),
    op.DropItem("checkpoint_callback_best_model_path", optional=True),
    op.DropItem("checkpoint_callback_best", optional=True),
    op.DropItem("early_stop_callback_wait", optional=True),
    op.DropItem("early_stop_callback_patience", optional=True),
    op.Derive("versioned", "as_it_is"),
]

SAVER = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
STOPPER = "pytorch_lightning.callbacks.early_stopping.EarlyStopping"
STATES = {
    "checkpoint_callback_best_model_score": (SAVER, "best_model_score"),
    "checkpoint_callback_best_model_path": (SAVER, "best_model_path"),
    "checkpoint_callback_best": (SAVER, "best_model_score"),
    "early_stop_callback_wait": (STOPPER, "wait_count"),
    "early_stop_callback_patience": (STOPPER, "patience"),
}
"""The class and the name of each value in a state of today."""
LAST_WITHOUT = "0.7.6"
"""The last release that wrote no version."""


def versioned(ckpt: CkptType) -> list[op.Operation]:
    """Write the release into an older checkpoint, as Lightning does, so that it does not upgrade this one again."""
    version = ckpt.get("pytorch-lightning_version")
    if version is not None and Version(version) >= Version("0.10.0"):
        return []
    before = op.SetItem("legacy_pytorch-lightning_version", version or LAST_WITHOUT, overwrite=False)
    return [before, op.SetItem("pytorch-lightning_version", "0.10.0")]


def with_place(ckpt: CkptType) -> list[op.Operation]:
    """Make a place for the states."""
    return [] if ckpt.get("callbacks") or not versioned(ckpt) else [op.SetItem("callbacks", {})]


def as_it_is(ckpt: CkptType) -> list[op.Operation]:
    """Change nothing: releases before 0.10.0 ignore the states in a checkpoint that was saved with them."""
    return []


def with_states(callbacks: CkptType, ckpt: CkptType) -> CkptType:
    """Put the values into the states of their callbacks."""
    names = {items.class_name(key): key for key in callbacks or ()}
    for old, (name, new) in STATES.items():
        if old in ckpt:
            key = names.setdefault(name, items.class_named(name))
            callbacks[key] = callbacks.get(key) or {}
            callbacks[key][new] = ckpt[old]
    return callbacks


def unchanged(callbacks: CkptType, ckpt: CkptType) -> CkptType:
    """Leave the states as they are, as above; a checkpoint that had none gets back the ones it had."""
    return callbacks
