"""batches that stepped

Lightning 1.6.5 counts the batches after which an optimizer stepped, for loggers and schedulers. A checkpoint without
this count had one optimizer, as far as anybody can tell: it is the number of steps.

Revision ID: c92f5b3e7d06
Revises: a84e07c5d219
Create Date: 2026-11-30 00:00:00+00:00
"""

from packaging.version import Version

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

revision = "c92f5b3e7d06"
down_revision = "a84e07c5d219"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "pytorch-lightning": "1.6.5"})

operations = [
    # Releases before 1.6.5 ignore the count.
    op.CopyItem(
        "global_step",
        ["loops", "fit_loop", "epoch_loop.state_dict", "_batches_that_stepped"],
        overwrite=False,
        optional=True,
    ),
    op.Derive("versioned", "as_it_is"),
]


def versioned(ckpt: CkptType) -> list[op.Operation]:
    """Write the release into an older checkpoint, as Lightning does, so that it does not upgrade this one again."""
    version = ckpt.get("pytorch-lightning_version")
    if version is not None and Version(version) >= Version("1.6.5"):
        return []
    first = [] if version is None else [op.SetItem("legacy_pytorch-lightning_version", version, overwrite=False)]
    return [*first, op.SetItem("pytorch-lightning_version", "1.6.5")]


def as_it_is(ckpt: CkptType) -> list[op.Operation]:
    """Change nothing, as above."""
    return []
