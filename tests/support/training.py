"""Shared by tests: training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import Folder

torch = pytest.importorskip("torch")


def forget_scripts(project: Folder) -> None:
    for script in (project.path / "versions").iterdir():
        if script.is_file():
            script.unlink()


def log_of(project: Folder, checkpoint: Path) -> list[str]:
    log = project.ok("current", checkpoint, "--json").lines[0]["log"]
    return [f"{entry['command']} {entry['target']} {','.join(entry['to'])}".strip() for entry in log]
