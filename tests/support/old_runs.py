"""Thirty checkpoints of a model that changed twice, and nothing that tells how: for tests of `adopt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

YEARS = ("2023", "2024", "2025")
STRANGERS = ("2024/rng_state.pth", "2025/wide.ckpt", "notes.bin")


def first() -> nn.ModuleDict:
    layers = {name: nn.Linear(8, 8, bias=False) for name in ("q", "k", "v")}
    return nn.ModuleDict({"encoder": nn.Linear(4, 8), **layers, "head": nn.Linear(8, 2)})


def second() -> nn.ModuleDict:
    """A new name."""
    return nn.ModuleDict({"embedding" if name == "encoder" else name: layer for name, layer in first().items()})


def third() -> nn.ModuleDict:
    """Three layers in one, and a new layer."""
    layers = second()
    fused = {"embedding": layers["embedding"], "qkv": nn.Linear(8, 24, bias=False)}
    return nn.ModuleDict({**fused, "norm": nn.LayerNorm(8), "head": layers["head"]})


MODELS = dict(zip(YEARS, (first, second, third), strict=True))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train a model for a step."""
    optimizer.zero_grad()
    sum((weight + 1).square().sum() for weight in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()


def save(path: Path, model: nn.Module, averaged: bool = False) -> Path:
    """Train a model for a step, and save it with its optimizer, and perhaps with an average of its weights."""
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    saved: dict[str, Any] = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    if averaged:
        saved["ema"] = {name: value * 0.5 for name, value in model.state_dict().items()}
    torch.save(saved, path)
    return path


def save_all(folder: Path, each: int = 10, averaged: bool = False) -> list[Path]:
    """Save checkpoints of each state in folders of their own, and return one of each state."""
    torch.manual_seed(0)
    for year, build in MODELS.items():
        for number in range(each):
            save(folder / year / f"run{number}" / "last.ckpt", build(), averaged)
    return [folder / year / "run0" / "last.ckpt" for year in YEARS]


def save_strangers(folder: Path) -> None:
    """Save the state of a random generator, a model with another head, and something else."""
    torch.save(torch.get_rng_state(), folder / STRANGERS[0])
    wide = third()
    wide["head"] = nn.Linear(8, 5)
    save(folder / STRANGERS[1], wide)
    torch.save({"notes": [1, 2, 3]}, folder / STRANGERS[2])
