"""Writes the checkpoint of one release of Lightning: run by a Python that has this release, not by the tests.

    pip install torch "torchmetrics<1" "numpy<2" "setuptools<81" tensorboard tensorboardX pyDeprecate future
    pip install --no-deps pytorch-lightning==1.5.10
    python tests/lightning_releases/write.py FOLDER
    tar cJf tests/lightning_releases/releases.tar.xz --sort=name --owner=0 --group=0 -C FOLDER .

The packages are those of releases 1.5 to 1.9; earlier ones need torchmetrics 0.5.1, 1.8 lightning-lite, and later ones
lightning-fabric of the same number. With ``PL_FAULT_TOLERANT_TRAINING=1``, releases 1.4 to 1.9 write
``VERSION-fault-tolerant.ckpt``, otherwise each writes ``VERSION.ckpt``. The model has one weight, trained for two epochs.
What keeps old releases from an import under a present-day torch, and has nothing to do with checkpoints, is put in place.
"""

from __future__ import annotations

import argparse
import collections
import collections.abc
import inspect
import math
import os
import shutil
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
import tqdm.auto  # noqa: F401  (Lightning uses it without an import)

warnings.simplefilter("ignore")
for name in ("Callable", "Iterable", "Mapping", "MutableMapping", "Sequence"):
    setattr(collections, name, getattr(collections.abc, name))
if not hasattr(torch, "_six"):
    six = types.ModuleType("torch._six")
    six.string_classes, six.container_abcs, six.inf = (str, bytes), collections.abc, math.inf
    sys.modules["torch._six"] = torch._six = six
torch.utils.data.Sampler.__init__ = lambda self, data_source=None: None
torch.optim.lr_scheduler._LRScheduler = torch.optim.lr_scheduler.LRScheduler

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402

SAVED = "/tmp/lightning"  # the checkpoints hold it, so it is the same everywhere
VERSION = tuple(int(part) for part in pl.__version__.split(".")[:2])


class Line(pl.LightningModule):
    """One weight, fitted to a line."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        if VERSION >= (0, 8):
            self.save_hyperparameters()
        else:
            self.hparams = argparse.Namespace(lr=lr)
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def forward(self, inputs: Any) -> Any:
        return self.layer(inputs)

    def loss(self, batch: Any) -> Any:
        return ((self(batch[0]) - 2 * batch[0]) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch)}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if VERSION >= (0, 10):
            self.log("loss", self.loss(batch))
            return None
        return {"loss": self.loss(batch)}

    if VERSION < (0, 10):

        def validation_epoch_end(self, outputs: Any) -> Any:
            return {"loss": torch.stack([each["loss"] for each in outputs]).mean()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def options(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options that this release has."""
    return {name: value for name, value in chosen.items() if name in inspect.signature(pl.Trainer.__init__).parameters}


def main(folder: Path) -> None:
    shutil.rmtree(SAVED, ignore_errors=True)
    place = {"dirpath": SAVED, "filename": "best"} if VERSION >= (1, 0) else {"filepath": f"{SAVED}/best"}
    saver = ModelCheckpoint(**place, monitor="loss", mode="min")
    quiet = {"progress_bar_refresh_rate": 0, "weights_summary": None} if VERSION < (1, 7) else {}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False} if VERSION >= (1, 7) else {}
    stop = EarlyStopping(monitor="loss", patience=3)
    shared = {"max_epochs": 2, "logger": False, "num_sanity_val_steps": 0, **quiet}
    if VERSION >= (1, 7):
        shared["accelerator"] = "cpu"
    own: dict[str, Any] = {"callbacks": [saver, stop]}
    if VERSION < (1, 1):
        own = {"checkpoint_callback": saver, "callbacks": [stop]}
    if VERSION < (0, 10):
        own = {"checkpoint_callback": saver, "early_stop_callback": stop}
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor([[1.0], [0.5], [0.25]])))
    trainer = pl.Trainer(**options(shared | own))
    trainer.fit(Line(), data, data)
    kind = "-fault-tolerant" if os.environ.get("PL_FAULT_TOLERANT_TRAINING") else ""
    trainer.save_checkpoint(str(folder / f"{pl.__version__}{kind}.ckpt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
