"""Shared by tests: folders with many files of many kinds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from anemoi_ckpt_migrate.batch.job import JobResult
from anemoi_ckpt_migrate.batch.select import Selection
from anemoi_ckpt_migrate.storage.find_checkpoints import Walk


def model(path: Path, old: bool = False) -> Path:
    """Write a checkpoint with the parameters of `RENAME`; in the format before torch 1.6 if it is old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": {"x.weight": torch.ones(2)}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def saved(path: Path, content: Any) -> Path:
    """Write something else with torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def written(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(folder: Path, walk: Walk | None = None) -> list[list[str]]:
    """Return the groups below a folder, as relative paths."""
    return [[entry.relative for entry in group] for group in (walk or Walk()).below(str(folder))]


def chosen(*paths: object, **options: Any) -> list[str]:
    """Return the paths that a selection yields."""
    return [each.path for group in Selection(tuple(map(str, paths)), **options).groups() for each in group]


def statuses(results: Iterable[JobResult], start: Path | str = "") -> dict[str, str]:
    """Return the status of each checkpoint, by its path below a folder."""
    return {os.path.relpath(each.checkpoint, start) if start else each.checkpoint: each.status for each in results}


@contextmanager
def not_root() -> Iterator[None]:
    """Give up the rights of root meanwhile, for whom permissions do not count."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(own)
