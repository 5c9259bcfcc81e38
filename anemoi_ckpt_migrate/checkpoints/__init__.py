"""Checkpoint files as trees."""

from anemoi_ckpt_migrate.checkpoints.dumping import Pickled
from anemoi_ckpt_migrate.checkpoints.facts import Facts
from anemoi_ckpt_migrate.checkpoints.growing import recover
from anemoi_ckpt_migrate.checkpoints.opening import open_checkpoint
from anemoi_ckpt_migrate.checkpoints.publish import Written, opened
from anemoi_ckpt_migrate.checkpoints.sets import check_whole, membership
from anemoi_ckpt_migrate.checkpoints.store import Checkpoint

__all__ = [
    "Checkpoint",
    "Facts",
    "Pickled",
    "Written",
    "check_whole",
    "membership",
    "open_checkpoint",
    "opened",
    "recover",
]
