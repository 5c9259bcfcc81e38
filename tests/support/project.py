"""Shared by tests: project."""

from __future__ import annotations

import hashlib
import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import cli
from anemoi_ckpt_migrate.storage import open_checkpoint

DATA = Path(__file__).parents[1] / "data"

RENAME = {
    "migrate": 'ckpt["state_dict"]["y.weight"] = ckpt["state_dict"].pop("x.weight")',
    "rollback": 'ckpt["state_dict"]["x.weight"] = ckpt["state_dict"].pop("y.weight")',
}


@dataclass
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Folder:
    """A project in a folder of its own, which is the current one."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys

    def run(self, *words: object) -> Ran:
        """Run a command line."""
        self._capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    def ok(self, *words: object) -> Ran:
        """Run a command line that succeeds."""
        ran = self.run(*words)
        assert ran.code == 0, ran.err
        return ran

    def script(
        self,
        revision: str,
        parents: str | Sequence[str] | None = None,
        migrate: str | None = "pass",
        rollback: str | None = "pass",
        *,
        final: bool = False,
        version: str | None = None,
        name: str = "",
        top: str = "",
    ) -> Path:
        """Write a script; `migrate` and `rollback` are what their bodies do to `ckpt`."""
        versions = {"migration": "1.0.0"} | ({"pkg": version} if version else {})
        functions = {} if final else {"migrate": migrate, "rollback": rollback}
        text = f'"""{name or f"change {revision}"}"""\nfrom anemoi_ckpt_migrate import MigrationMetadata\n{top}\n'
        text += f"revision = {revision!r}\ndown_revision = {parents!r}\n"
        text += f"metadata = MigrationMetadata(versions={versions!r}, final={final})\n"
        for function, body in functions.items():
            if body is not None:
                text += f"\ndef {function}(ckpt):\n{textwrap.indent(body, '    ')}\n    return ckpt\n"
        path = self.path / "versions" / f"{revision}_change.py"
        path.write_text(text)
        return path

    def copy(self, name: str = "training.ckpt", to: str = "") -> Path:
        """Copy one of the real checkpoints of ``tests/data`` into the project."""
        return Path(shutil.copy(DATA / name, self.path / (to or name)))


def digest(path: Path) -> str:
    """Return a digest of a file: two are equal if no byte differs."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(path: Path) -> list[str]:
    """Return the names in the state dict of a checkpoint, as torch reads them if it is here."""
    tree = load(path)
    return list(tree.get("state_dict", tree))


def load(path: Path) -> Any:
    """Load a checkpoint with plain torch if it is here, else with the store."""
    try:
        import torch
    except ImportError:
        with open_checkpoint(path) as opened:
            return opened.load()
    return torch.load(path, weights_only=True)


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.bak*"))


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.tmp"))
