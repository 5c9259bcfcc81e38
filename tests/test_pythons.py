"""What one Python wrote, another one reads; see pythons.py, which sets the stage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.project import Folder, names


@pytest.mark.skipif("CARRIED_CHECKPOINT" not in os.environ, reason="make test-pythons brings a checkpoint")
def test_a_rollback_carried_from_another_python(project: Folder) -> None:
    checkpoint = Path(shutil.copy(os.environ["CARRIED_CHECKPOINT"], project.path))
    shown = project.ok("show", "a1", "--from", checkpoint, "--json").lines[0]
    assert shown["pickled_by"] == "cpython-3.11"
    assert project.run("downgrade", "base", checkpoint).code == 3
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert "x.weight" in names(checkpoint)
