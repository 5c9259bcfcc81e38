"""Shared by tests: diff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Folder

torch = pytest.importorskip("torch")


def pair(project: Folder, old: Any, new: Any) -> tuple[Path, Path]:
    paths = project.path / "old.pt", project.path / "new.pt"
    for path, states in zip(paths, (old, new), strict=True):
        torch.save({"state_dict": states}, path)
    return paths
