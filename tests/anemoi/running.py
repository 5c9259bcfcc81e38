"""Runs scripts with packages of anemoi on the path, in processes of their own: nothing of anemoi is imported by tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.anemoi import read
from tests.support.operations import equal

PYTHON, WHEELS = os.environ.get("ANEMOI_PYTHON", ""), os.environ.get("ANEMOI_RELEASES", "")
THERE = bool(PYTHON and WHEELS)


def run(script: str | Path, packages: list[str], *words: Any) -> str:
    """Run a script of this folder, or of another by its full path, and return what it prints."""
    path = os.pathsep.join(str(Path(WHEELS) / package) for package in packages)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    command = [PYTHON, str(Path(__file__).parent / script), *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def is_as_before(path: Path, before: Any) -> bool:
    """Tell whether a checkpoint that came back is what it was."""
    after = read(path)
    after.pop("kept_by_anemoi_migrations", None)
    return equal(after, before)
