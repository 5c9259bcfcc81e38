"""A project with a small model of attention, whose code changed its names, for tests of outputs and of order."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from tests.support.project import Folder

# The names before and after; both models have the same shapes everywhere, so only outputs can tell q from k.
CODE = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, first, second, dropout=0.0):
        super().__init__()
        self.names = first, second
        for name in self.names:
            setattr(self, name, nn.Linear(4, 4))
        self.dropout = nn.Dropout(dropout)
        self.top = nn.Linear(4, 2)

    def forward(self, x):
        first, second = (getattr(self, name)(x) for name in self.names)
        return self.top(self.dropout(torch.softmax(first @ second.T, -1)) @ x)


def made(ckpt, revisions, **options):
    model = Attention(*(("query", "key") if revisions else ("q", "k")), **options)
    model.load_state_dict(ckpt["state_dict"])
    return model.eval()


X = torch.linspace(-1, 1, 12).reshape(3, 4)


@torch.no_grad()
def outputs(ckpt, revisions):
    return {"logits": made(ckpt, revisions)(X), "steps": ckpt["epoch"], "more": [X.sum(), (None, {})]}


@torch.no_grad()
def current(ckpt):
    return made(ckpt, True)(X)


@torch.no_grad()
def earlier(ckpt):
    return made(ckpt, ())(X)
"""

RIGHT = ('op.RenamePrefix("q.", "query.")', 'op.RenamePrefix("k.", "key.")')
SWAPPED = ('op.RenamePrefix("q.", "key.")', 'op.RenamePrefix("k.", "query.")')


class Attentions(Folder):
    """A project with the model in ``attention.py``."""

    def code(self, more: str = "") -> None:
        """Write the code, perhaps with further functions; each time it is new to Python."""
        sys.modules.pop("attention", None)
        (self.path / "attention.py").write_text(CODE + textwrap.dedent(more))
        for cached in self.path.glob("__pycache__/attention.*"):
            cached.unlink()

    def operations(self, *operations: str, revision: str = "aaa") -> None:
        """Write a script of operations."""
        lines = "".join(f"    {operation},\n" for operation in operations)
        text = (
            f'"""rename"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n'
            f"revision = {revision!r}\ndown_revision = None\n"
            f'metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})\noperations = [\n{lines}]\n'
        )
        (self.path / "versions" / f"{revision}_rename.py").write_text(text)

    def save(self, name: str = "old.ckpt", seed: int = 0) -> Path:
        """Save a checkpoint of the model before its names changed."""
        import torch

        found: dict[str, type[torch.nn.Module]] = {}
        exec(CODE, found)
        torch.manual_seed(seed)
        torch.save({"state_dict": found["Attention"]("q", "k").state_dict(), "epoch": 3}, self.path / name)
        return self.path / name
