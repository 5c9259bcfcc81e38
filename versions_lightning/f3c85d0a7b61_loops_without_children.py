"""loops without children

Lightning 2.0.0 has fewer loops: those of optimizers belong to the loop over an epoch, without one over the parts of a
batch between them, and evaluation and prediction have no loop over data loaders. An epoch has one optimizer, thus no
position among optimizers. The state of Apex is dropped, which Lightning does not know any more.

Revision ID: f3c85d0a7b61
Revises: d47a19e6b08c
Create Date: 2026-11-30 00:00:00+00:00
"""

from packaging.version import Version

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "f3c85d0a7b61"
down_revision = "d47a19e6b08c"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "pytorch-lightning": "2.0.0"})

operations = [
    op.DropItem("amp_scaling_state", optional=True),
    op.At(
        [["loops", "fit_loop"]],
        [
            op.DropItem(
                ["epoch_loop.batch_loop.optimizer_loop.optim_progress", "optimizer_position"], optional=True, default=0
            ),
            op.MoveItem(
                ["epoch_loop.batch_loop.optimizer_loop.state_dict"],
                ["epoch_loop.automatic_optimization.state_dict"],
                optional=True,
            ),
            op.MoveItem(
                ["epoch_loop.batch_loop.optimizer_loop.optim_progress"],
                ["epoch_loop.automatic_optimization.optim_progress"],
                optional=True,
            ),
            op.MoveItem(
                ["epoch_loop.batch_loop.manual_loop.state_dict"],
                ["epoch_loop.manual_optimization.state_dict"],
                optional=True,
            ),
            op.MoveItem(
                ["epoch_loop.batch_loop.manual_loop.optim_step_progress"],
                ["epoch_loop.manual_optimization.optim_step_progress"],
                optional=True,
            ),
        ],
        optional=True,
    ),
    op.Derive("flattened", "nested"),
    op.Derive("versioned", "last_before"),
]

BATCH_LOOP = ["loops", "fit_loop", "epoch_loop.batch_loop.state_dict"]
KEPT = ["loops", "fit_loop", "epoch_loop.state_dict", "old_batch_loop_state_dict"]
"""Where the state of a batch loop of somebody's own is kept."""
WITHOUT_LOADERS = ("validate_loop", "test_loop", "predict_loop")
INNER = "epoch_loop."
READY = {"ready": 0, "completed": 0}


def flattened(ckpt: CkptType) -> list[op.Operation]:
    """Take away the loops that are no more, and give their content to those around them."""
    done: list[op.Operation] = []
    if items.get(ckpt, BATCH_LOOP):
        done.append(op.MoveItem(BATCH_LOOP, KEPT))
    else:
        done.append(op.DropItem(BATCH_LOOP, optional=True))
    for loop in WITHOUT_LOADERS:
        names = items.keys(ckpt, ["loops", loop])
        done.append(op.DropItem(["loops", loop, "dataloader_progress"], optional=True))
        for name in (each for each in names if each.startswith(INNER)):
            new = name[len(INNER) :]
            done += [op.DropItem(["loops", loop, new])] if new in names else []
            done.append(op.MoveItem(["loops", loop, name], ["loops", loop, new]))
    return done


def nested(ckpt: CkptType) -> list[op.Operation]:
    """Give a checkpoint that a later release saved the loops of 1.9."""
    done: list[op.Operation] = []
    if items.get(ckpt, KEPT) is not None:
        done.append(op.MoveItem(KEPT, BATCH_LOOP))
    else:
        done.append(op.SetItem(BATCH_LOOP, {}, overwrite=False, optional=True))
    for loop in WITHOUT_LOADERS:
        names = items.keys(ckpt, ["loops", loop])
        done += [op.MoveItem(["loops", loop, name], ["loops", loop, INNER + name]) for name in names]
        own = {"state_dict": {}, "dataloader_progress": {"total": READY, "current": READY}}
        done += [op.SetItem(["loops", loop, name], value) for name, value in own.items() if names]
    return done


def versioned(ckpt: CkptType) -> list[op.Operation]:
    """Write the release into an older checkpoint, as Lightning does, so that it does not upgrade this one again."""
    version = ckpt.get("pytorch-lightning_version")
    if version is not None and Version(version) >= Version("2.0.0"):
        return []
    first = [] if version is None else [op.SetItem("legacy_pytorch-lightning_version", version, overwrite=False)]
    return [*first, op.SetItem("pytorch-lightning_version", "2.0.0")]


def last_before(ckpt: CkptType) -> list[op.Operation]:
    """Write the last release with these loops into a checkpoint that a later one saved."""
    return [op.SetItem("pytorch-lightning_version", "1.9.5")]
