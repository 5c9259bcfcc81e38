"""A project with a model, for tests of the manifest: its code is written, and real checkpoints of it are saved."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.support.project import Folder

FIRST = {"embed": "nn.Linear(3, 4)", "norm": "nn.LayerNorm(4)", "head": "nn.Linear(4, 2)"}
"""A model of three layers, one after the other."""


class Models(Folder):
    """A project that configures models."""

    def configure(self, **factories: str) -> None:
        lines = "".join(f'{name} = "{text}"\n' for name, text in factories.items())
        (self.path / "ckpt-migrate.toml").write_text(f'package = "pkg"\n[models]\n{lines}')

    def code(self, layers: dict[str, str], module: str = "net", arguments: str = "") -> None:
        """Write the code of a model; each time it is new to Python."""
        sys.modules.pop(module, None)
        lines = "".join(f"        {name}={layer},\n" for name, layer in layers.items())
        made = f"nn.ModuleDict(dict(\n{lines}    ))"
        text = f"from torch import nn\n\ndef build({arguments}):\n    return {made}\n"
        path = self.path / f"{module}.py"
        path.write_text(text)
        for cached in path.parent.glob(f"__pycache__/{module}.*"):
            cached.unlink()

    def save(self, name: str, module: str = "net", **hyper_parameters: int) -> Path:
        """Train the model for a step, and save a checkpoint."""
        import torch

        code = runpy.run_path(str(self.path / f"{module}.py"))
        torch.manual_seed(0)
        model = code["build"](*([hyper_parameters] if hyper_parameters else []))
        optimizer = torch.optim.AdamW(model.parameters())
        sum(weight.square().sum() for weight in model.parameters()).backward()
        optimizer.step()
        states = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
        torch.save({**states, "hyper_parameters": hyper_parameters}, self.path / name)
        return self.path / name

    def operations(self, revision: str, parent: str | None, *operations: str, name: str = "") -> None:
        """Write a script of operations."""
        lines = "".join(f"    {operation},\n" for operation in operations)
        text = (
            f'"""{name or f"change {revision}"}"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n'
            f"revision = {revision!r}\ndown_revision = {parent!r}\n"
            f'metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})\noperations = [\n{lines}]\n'
        )
        (self.path / "versions" / f"{revision}_change.py").write_text(text)


def begun(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """Begin a project in a folder, which is the current one from then on, with a model called net."""
    monkeypatch.chdir(path)
    (path / "versions").mkdir()
    found = Models(path, capsys)
    found.configure(net="net:build")
    return found
