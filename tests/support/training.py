"""Shared by tests: training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import RENAME, Folder

torch = pytest.importorskip("torch")

from tests.support.operations import declare  # noqa: E402


@pytest.fixture
def named(project: Folder) -> Folder:
    """a renames x to y, by a function; b renames y to z, by an operation."""
    project.script("a", None, **RENAME)
    declare(project, "b", 'op.Rename("y.weight", "z.weight")', parents="a")
    return project


def forget_scripts(project: Folder) -> None:
    for script in (project.path / "versions").iterdir():
        if script.is_file():
            script.unlink()


def log_of(project: Folder, checkpoint: Path) -> list[str]:
    log = project.ok("current", checkpoint, "--json").lines[0]["log"]
    return [f"{entry['command']} {entry['target']} {','.join(entry['to'])}".strip() for entry in log]
