"""Makes the small checkpoints beside this file. They are committed, so that tests without torch have real ones.

python tests/data/make.py
"""

import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader

HERE = Path(__file__).parent


class Model(torch.nn.Module):
    """Two layers and a head that shares the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.tied = torch.nn.Linear(4, 4, bias=False)
        self.tied.weight = self.x.weight

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.tied(self.norm(self.x(batch)))


def trained() -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return model, optimizer


class Module(LightningModule):
    """The same model as Lightning trains it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Model()

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def train_with_lightning(path: Path) -> None:
    torch.manual_seed(1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), DataLoader(torch.randn(16, 4), batch_size=8))
    trainer.save_checkpoint(path)  # no callback, which would note where it lies


def save_for_trainer(folder: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Save the files that the Trainer of transformers saves, by their own libraries."""
    folder.mkdir(exist_ok=True)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("tied.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.LinearLR(optimizer).state_dict(), folder / "scheduler.pt")
    (folder / "config.json").write_text('{"model_type": "none"}\n')
    (folder / "trainer_state.json").write_text('{\n  "global_step": 3\n}\n')


def main() -> None:
    model, optimizer = trained()
    training = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "epoch": 3,
        "hyper_parameters": {"width": 4, "names": ("a", "b"), "tags": {"x"}},
    }
    torch.save(training, HERE / "training.ckpt")
    torch.save(model.state_dict(), HERE / "state_dict.pt")
    torch.save(dict(model.state_dict()), HERE / "plain.pt")
    torch.save(list(model.state_dict().values()), HERE / "list.pt")
    train_with_lightning(HERE / "lightning.ckpt")
    save_for_trainer(HERE / "trainer", model, optimizer)


if __name__ == "__main__":
    main()
