"""Checkpoint files as trees."""

from anemoi_ckpt_migrate.checkpoints.dumping import Pickled
from anemoi_ckpt_migrate.checkpoints.facts import Facts
from anemoi_ckpt_migrate.checkpoints.growing import recover
from anemoi_ckpt_migrate.checkpoints.opening import open_checkpoint
from anemoi_ckpt_migrate.checkpoints.publish import Written
from anemoi_ckpt_migrate.checkpoints.store import Checkpoint

__all__ = ["Checkpoint", "Facts", "Pickled", "Written", "open_checkpoint", "recover"]
