"""Shared by tests: chains."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from tests.support.project import Folder


def script(revision: str, parent: str | None, old: str, new: str) -> str:
    return f'''"""{old} to {new}"""
from anemoi_ckpt_migrate import MigrationMetadata, op

revision = {revision!r}
down_revision = {parent!r}
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})
operations = [op.MoveItem({old!r}, {new!r})]
'''


def tree(path: Path) -> Any:
    from anemoi_ckpt_migrate.storage import open_checkpoint

    with open_checkpoint(path) as file:
        found = file.load()
    found.pop("ckpt_migrate", None)
    return found


def make(project: Folder, content: Any = None) -> Path:
    """Write a checkpoint without torch: a zip with a pickle is all that one without tensors is."""
    import zipfile

    path = project.path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(content or {"a": 1, "x": 2, "p": 3}, 2))
        archive.writestr("x/version", b"3\n")
    return path
