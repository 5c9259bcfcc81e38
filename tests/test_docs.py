"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Folder, names

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the sources are not here")
def test_the_script_of_the_readme(project: Folder) -> None:
    script, call = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    project.script("91be07d2c4aa", None)
    (project.path / "versions" / "3f2a9c1b7d10_rename_x_to_y.py").write_text(script)
    checkpoint = project.copy()
    before = names(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert names(checkpoint) == [name.replace("x.", "y.") for name in before]
    project.ok("downgrade", "base", checkpoint)
    assert names(checkpoint) == before
    (project.path / "runs").mkdir()
    project.copy(to="runs/last.ckpt")
    found: dict[str, object] = {}
    exec(call, found)
    assert found["result"].end == ("3f2a9c1b7d10",)  # type: ignore[attr-defined]
