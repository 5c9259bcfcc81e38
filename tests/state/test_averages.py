"""Lightning's weight averaging and its optimizer: migrated in the middle of a run that goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning")

from torch import nn  # noqa: E402

from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")


class PerCopy(lightning.LightningModule):
    """q and k, each a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)

    def halves(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.q(x), self.k(x)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        q, k = self.halves(batch[0])
        return self.norm(q * k).square().mean() + q.abs().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Together(PerCopy):
    """One layer for both."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.norm
        self.qk, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(8)

    def halves(self, x: torch.Tensor) -> Any:
        parts = zip(self.qk.weight.chunk(2), self.qk.bias.chunk(2), strict=True)
        return [nn.functional.linear(x, weight, bias) for weight, bias in parts]


def fit(model: Any, folder: Path, epochs: int, checkpoint: Path | None = None) -> Any:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[averaging.EMAWeightAveraging()],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return trainer


def test_a_run_with_averaged_weights_goes_on(project: Folder) -> None:
    """state_dict has the average, current_model_state what is trained: both are fused, and the moments."""
    torch.manual_seed(0)
    old = project.path / "old.ckpt"
    new = project.path / "new.ckpt"
    fit(PerCopy(), project.path, 2).save_checkpoint(old)
    declare(project, "a1", 'op.Fuse(["q.{i}", "k.{i}"], "qk.{i}")')
    project.ok("upgrade", "head", old, "--output", new, "--check-rollback")
    tree = torch.load(new, weights_only=False)
    assert list(tree["state_dict"]) == list(tree["current_model_state"])
    apart, together = PerCopy(), Together()
    fit(apart, project.path, 4, old)
    fit(together, project.path, 4, new)
    assert torch.equal(together.qk.weight, torch.cat([apart.q.weight, apart.k.weight]))
    assert torch.equal(together.norm.running_mean, apart.norm.running_mean)
