"""progress of loops

Lightning 1.6.0 saves the progress of its loops, and resumes from that; before, the checkpoint had `global_step` and
`epoch` alone, but for fault-tolerant training. Loops of releases 1.4 and 1.5 lack some of the counts.

Revision ID: a84e07c5d219
Revises: 6b1d2f80c3e5
Create Date: 2026-11-30 00:00:00+00:00
"""

import copy
from typing import Any

from packaging.version import Version

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "a84e07c5d219"
down_revision = "6b1d2f80c3e5"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "pytorch-lightning": "1.6.0"})

operations = [
    op.Derive("with_progress", "as_it_is"),
    op.Derive("versioned", "as_it_is"),
]

READY = {"ready": 0, "completed": 0}
STARTED = {"ready": 0, "completed": 0, "started": 0}
PROCESSED = {"ready": 0, "completed": 0, "started": 0, "processed": 0}
BATCHES = {"total": PROCESSED, "current": PROCESSED, "is_last_batch": False}
AUTOMATIC = "epoch_loop.batch_loop.optimizer_loop.optim_progress"
MANUAL = "epoch_loop.batch_loop.manual_loop.optim_step_progress"
NOTHING_DONE = {
    "state_dict": {},
    "epoch_progress": {"total": PROCESSED, "current": PROCESSED},
    "epoch_loop.state_dict": {"_batches_that_stepped": 0},
    "epoch_loop.batch_progress": BATCHES,
    "epoch_loop.scheduler_progress": {"total": READY, "current": READY},
    "epoch_loop.batch_loop.state_dict": {},
    "epoch_loop.batch_loop.optimizer_loop.state_dict": {},
    AUTOMATIC: {
        "optimizer": {
            "step": {"total": READY, "current": READY},
            "zero_grad": {"total": STARTED, "current": STARTED},
        },
        "optimizer_position": 0,
    },
    "epoch_loop.batch_loop.manual_loop.state_dict": {},
    MANUAL: {"total": READY, "current": READY},
    "epoch_loop.val_loop.state_dict": {},
    "epoch_loop.val_loop.dataloader_progress": {"total": READY, "current": READY},
    "epoch_loop.val_loop.epoch_loop.state_dict": {},
    "epoch_loop.val_loop.epoch_loop.batch_progress": BATCHES,
}
"""The loop of a training that has not begun, as 1.6.0 saves it."""


def with_progress(ckpt: CkptType) -> list[op.Operation]:
    """Set the counts to the steps and epochs of the checkpoint."""
    if "fit_loop" in items.keys(ckpt, "loops") and not versioned(ckpt):
        return []
    if "global_step" not in ckpt or "epoch" not in ckpt:  # somebody kept the weights alone
        return []
    fit_loop = ["loops", "fit_loop"]
    counts = [
        op.SetItem([*fit_loop, AUTOMATIC, "optimizer", "step", "total", "completed"], ckpt["global_step"]),
        op.SetItem([*fit_loop, MANUAL, "total", "completed"], ckpt["global_step"]),
        op.SetItem([*fit_loop, "epoch_progress", "current", "completed"], ckpt["epoch"]),
    ]
    if "fit_loop" not in items.keys(ckpt, "loops"):
        begun = [op.SetItem(fit_loop, copy.deepcopy(NOTHING_DONE))]
    else:
        begun = lacking(ckpt, fit_loop, NOTHING_DONE)
    return [op.SetItem("loops", {}, overwrite=False), *begun, *counts]


def lacking(ckpt: CkptType, path: list[str], whole: dict[str, Any]) -> list[op.Operation]:
    """Set what a loop lacks, at any depth."""
    found, there = [], items.keys(ckpt, path)
    for key, value in whole.items():
        if key not in there:
            found.append(op.SetItem([*path, key], copy.deepcopy(value)))
        elif isinstance(value, dict):
            found += lacking(ckpt, [*path, key], value)
    return found


def versioned(ckpt: CkptType) -> list[op.Operation]:
    """Write the release into an older checkpoint, as Lightning does, so that it does not upgrade this one again."""
    version = ckpt.get("pytorch-lightning_version")
    if version is not None and Version(version) >= Version("1.6.0"):
        return []
    first = [] if version is None else [op.SetItem("legacy_pytorch-lightning_version", version, overwrite=False)]
    return [*first, op.SetItem("pytorch-lightning_version", "1.6.0")]


def as_it_is(ckpt: CkptType) -> list[op.Operation]:
    """Change nothing: releases before 1.6.0 resume from `global_step` and `epoch`, which are still there."""
    return []
