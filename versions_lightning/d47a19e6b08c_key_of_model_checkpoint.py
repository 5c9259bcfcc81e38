"""key of model checkpoint

The state of a callback has a key made from the callback's options. From Lightning 1.9.0 on, that of `ModelCheckpoint`
is made without `save_on_train_epoch_end`. If two keys would become one, or if a key is a class, as before 1.5, all keys
stay as they are: Lightning finds the state by the class then.

Revision ID: d47a19e6b08c
Revises: c92f5b3e7d06
Create Date: 2026-11-30 00:00:00+00:00
"""

import re

from packaging.version import Version

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "d47a19e6b08c"
down_revision = "c92f5b3e7d06"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "pytorch-lightning": "1.9.0"})

operations = [
    op.Derive("with_short_keys", "as_it_is"),
    op.Derive("versioned", "as_it_is"),
]


def with_short_keys(ckpt: CkptType) -> list[op.Operation]:
    """Take the option out of each key."""
    keys = items.keys(ckpt, "callbacks")
    if not all(isinstance(key, str) for key in keys):
        return []
    short = {key: shortened(key) for key in keys}
    if len(set(short.values())) < len(keys):
        return []
    return [op.MoveItem(["callbacks", old], ["callbacks", new]) for old, new in short.items() if old != new]


def shortened(key: str) -> str:
    """Return a key without the option."""
    if not key.startswith("ModelCheckpoint"):
        return key
    return re.sub(r", 'save_on_train_epoch_end': (?:None|True|False)", "", key)


def versioned(ckpt: CkptType) -> list[op.Operation]:
    """Write the release into an older checkpoint, as Lightning does, so that it does not upgrade this one again."""
    version = ckpt.get("pytorch-lightning_version")
    if version is not None and Version(version) >= Version("1.9.0"):
        return []
    first = [] if version is None else [op.SetItem("legacy_pytorch-lightning_version", version, overwrite=False)]
    return [*first, op.SetItem("pytorch-lightning_version", "1.9.0")]


def as_it_is(ckpt: CkptType) -> list[op.Operation]:
    """Change nothing: the value of the option is not in a checkpoint that was saved without it."""
    return []
