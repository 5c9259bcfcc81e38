"""Shared by tests: packages that are installed beside this one."""

from __future__ import annotations

import importlib
from pathlib import Path


def publish(site: Path, package: str, group: str, files: dict[str, str], value: str) -> None:
    """Lay out a package as an installer does; the entry point has the name of the package."""
    (site / package).mkdir()
    for name, text in {"__init__": "", **files}.items():
        (site / package / f"{name}.py").write_text(text)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ckpt_migrate.{group}]\n{package} = {package}{value}\n")
    importlib.invalidate_caches()  # Python may have listed the folder in the same instant
