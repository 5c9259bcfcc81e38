"""The Lightning callback.

Only this module imports Lightning, and it is imported only when its callback is used. Lightning comes as two packages
with the same classes; a callback of one works with a trainer of the other.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import NotUpgraded
from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.training.load_upgraded import upgraded_by
from anemoi_ckpt_migrate.training.stamper import Stamper
from anemoi_ckpt_migrate.tree.paths import KEY

try:
    if TYPE_CHECKING or ("pytorch_lightning" not in sys.modules and find_spec("lightning")):
        from lightning.fabric.plugins import CheckpointIO
        from lightning.pytorch import Callback, LightningModule, Trainer
    else:
        from lightning_fabric.plugins import CheckpointIO
        from pytorch_lightning import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("StampingCallback needs Lightning: `pip install lightning`") from error


class StampingCallback(Callback):
    """Records revisions in the checkpoints that a trainer saves, and continues the records of those it loads.

    Parameters
    ----------
    target, project, chain
        As for `Stamper`.
    upgrade : bool
        Whether checkpoints are upgraded when they are loaded, in a copy; the files stay unchanged.

    Attributes
    ----------
    stamper : Stamper
        The object that records revisions.
    upgrade : bool
        The value of the parameter.

    Raises
    ------
    MigrateError
        As for `Stamper`.
    """

    def __init__(
        self,
        target: str = "head",
        *,
        project: Project | StrPath | None = None,
        chain: str | Iterable[str] = (),
        upgrade: bool = False,
    ) -> None:
        super().__init__()
        self.stamper, self.upgrade = Stamper(target, project=project, chain=chain), upgrade
        self._files: _Files | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wrap the trainer's file access: other hooks are called only after the model has been loaded."""
        if self._files is None or trainer.strategy.checkpoint_io is not self._files:
            self._files = _Files(trainer.strategy.checkpoint_io, self.stamper, self.upgrade)
            with contextlib.suppress(TypeError):  # XLA accepts only its own plugin; there the hooks have to do
                trainer.strategy.checkpoint_io = self._files
        self._files.resuming = stage == "fit"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the revisions in the checkpoint."""
        checkpoint.update(self.stamper.stamped(checkpoint))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint that the strategy read itself, as strategies that shard models do."""
        if self._files is None or self._files.asked:
            return
        if self.upgrade and embed.read(checkpoint) is None:
            raise NotUpgraded("the trainer's strategy reads the file itself")
        if self.upgrade or self._files.resuming:
            self.stamper.resume(checkpoint)


class _Files(CheckpointIO):
    """Wraps file access: upgrades checkpoints that it reads, continues their records, and adds records when it writes.

    Attributes
    ----------
    resuming : bool
        Whether training continues from the loaded checkpoint.
    asked : bool
        Whether a checkpoint was read through this object.
    """

    def __init__(self, files: CheckpointIO, stamper: Stamper, upgrade: bool) -> None:
        self._files, self._stamper, self._upgrade = files, stamper, upgrade
        self.resuming = self.asked = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint with the record, which is missing if only weights are saved: then no hook was called."""
        stamped = checkpoint if KEY in checkpoint else self._stamper.stamped(checkpoint)
        self._files.save_checkpoint(stamped, path, *args, **kwargs)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, upgraded if that was asked for."""
        self.asked = True
        with self._readable(path) as readable:
            checkpoint: dict[str, Any] = self._files.load_checkpoint(readable, *args, **kwargs)
        if self.resuming:
            with annotate_errors(path):
                self._stamper.resume(checkpoint)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        self._files.remove_checkpoint(path)

    def teardown(self) -> None:
        """Tear down the wrapped object."""
        self._files.teardown()

    def _readable(self, path: str | Path) -> contextlib.AbstractContextManager[str | Path]:
        if not self._upgrade:
            return contextlib.nullcontext(path)
        if "://" in os.fspath(path):
            raise NotUpgraded("it is not a local file").about(path)
        return upgraded_by(self._stamper.projects, path, self._stamper.target)
