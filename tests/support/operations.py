"""What the tests of operations share: models, training, and scripts of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.support.project import Folder


def declare(project: Folder, revision: str, *operations: str, parents: str | None = None, top: str = "") -> Path:
    """Write a script of operations."""
    lines = "".join(f"    {operation},\n" for operation in operations)
    text = f'"""change {revision}"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n\n'
    text += f"revision = {revision!r}\ndown_revision = {parents!r}\n"
    text += f'metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})\n{top}\noperations = [\n{lines}]\n'
    path = project.path / "versions" / f"{revision}_change.py"
    path.write_text(text)
    return path


class Old(nn.Module):
    """Attention in three layers, and a norm with buffers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(torch.sigmoid(self.q(x)) * self.k(x) + self.v(x)))


class New(nn.Module):
    """The same, with one layer for the three."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.BatchNorm1d(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Matrix products part by part: in one, the arithmetic of the CPU may round otherwise.
        parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (nn.functional.linear(x, weight, bias) for weight, bias in parts)
        return self.proj(self.norm(torch.sigmoid(q) * k + v))


FUSING = ('op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")', 'op.RenamePrefix("out.", "proj.")')


def batches(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 8, generator=generator) for _ in range(count)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Sequence[torch.Tensor]) -> None:
    for x in data:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def trained(make: Callable[[nn.Module], torch.optim.Optimizer], seed: int = 0) -> tuple[Old, Any]:
    torch.manual_seed(seed)
    model = Old()
    optimizer = make(model)
    train(model, optimizer, batches(4))
    return model, optimizer


def equal(one: Any, other: Any) -> bool:
    """Compare two trees as torch loads them, bit by bit, with the order of what is ordered."""
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(
            one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8)
        )
    if isinstance(one, dict):
        same = list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
        return same and equal(getattr(one, "_metadata", None), getattr(other, "_metadata", None))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(type(one) is type(other) and one == other)


def without_record(tree: Any) -> Any:
    """Take the record out of a checkpoint that torch loaded."""
    tree.pop("ckpt_migrate", None)
    if hasattr(tree, "_metadata"):
        tree._metadata.pop("ckpt_migrate", None)
    return tree
