"""A run of Lightning on two processes, with weights spread over them: its checkpoint is a folder with ``meta.pt``."""

from __future__ import annotations

import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from tests.support.operations import New, Old, batches


class Run(lightning.LightningModule):
    """Trains one of the small models, sharded by rows."""

    def __init__(self, kind: str, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = New(width) if kind == "New" else Old(width)

    def configure_model(self) -> None:
        if not hasattr(self, "_sharded"):
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])
            self._sharded = True

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.model(batch).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, foreach=False)


def main(folder: str, kind: str, resume: str | None = None) -> None:
    """Train an ``Old`` or a ``New`` model, from the beginning or from a folder, and save it into a folder."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", save_distributed_checkpoint=True
        ),
        max_steps=3 if resume is None else 4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Run(kind), torch.utils.data.DataLoader(batches(8), batch_size=None), ckpt_path=resume)
    trainer.save_checkpoint(folder)
