"""What the command line does, from Python, with typed results."""

from __future__ import annotations

from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.errors import BarrierInTheWay, NotACheckpoint, UntrustedCode, UsageError
from tests.support.project import RENAME, Folder, digest, names


def test_the_main_job(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project.path / "model"
    laid = cm.init(root, package="networkx")
    assert [(item.path.name, item.done) for item in laid] == [
        ("ckpt-migrate.toml", "created"),
        ("versions", "created"),
        ("script.py.mako", "created"),
    ]
    made = cm.revision("rename x to y", rev_id="a1", project=root)
    assert (made.revision, Path(made.path).name, made.parents, made.warnings) == ("a1", "a1_rename_x_to_y.py", (), ())
    script = Path(made.path)
    text = script.read_text().replace("    return ckpt\n", f"    {RENAME['migrate']}\n    return ckpt\n")
    script.write_text(f"{text}\ndef rollback(ckpt):\n    {RENAME['rollback']}\n    return ckpt\n")

    checkpoint = project.copy()
    opened = cm.open_project(root)
    planned = cm.upgrade(checkpoint, "head", project=opened, dry_run=True)
    result = cm.upgrade(checkpoint, "head", project=opened)
    assert isinstance(result, cm.Result)
    assert (result.start, result.end, result.steps) == (planned.start, planned.end, planned.steps) == (
        (), ("a1",), result.steps)  # fmt: skip
    assert (result.written, result.backup) == (str(checkpoint), f"{checkpoint}.bak")
    assert "y.weight" in names(checkpoint)

    assert cm.current(checkpoint, project=opened).at_head
    assert cm.heads(project=opened) == [cm.Head("a1", "rename x to y", (), False)]
    assert [entry.applied for entry in cm.history(checkpoint, project=opened).entries] == [True]
    assert cm.show("a", project=opened).path == str(script)
    assert "def rollback" in (cm.show("a1", checkpoint=checkpoint).source or "")

    assert cm.downgrade(checkpoint, "-1", project=opened, backup=False).end == ()
    assert cm.stamp(checkpoint, "head", project=opened, output=project.path / "stamped.ckpt").end == ("a1",)
    assert "x.weight" in names(checkpoint)


def test_errors_carry_what_happened(project: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    project.script("a1", None, **RENAME)
    project.script("F", "a1", final=True, version="2.0")
    checkpoint = project.copy()
    before = digest(checkpoint)
    with pytest.raises(BarrierInTheWay) as barrier:
        cm.upgrade(checkpoint, "head")
    assert isinstance(barrier.value, cm.Refused)
    assert (barrier.value.barrier, barrier.value.reachable, barrier.value.version) == ("F", "a1", "2.0")
    assert (barrier.value.exit_code, barrier.value.checkpoint) == (3, str(checkpoint))
    with pytest.raises(UsageError):
        cm.upgrade(checkpoint, "-1")
    (project.path / "text").write_text("x")
    with pytest.raises(NotACheckpoint, match="text: it is not a checkpoint"):
        cm.upgrade(project.path / "text")
    assert digest(checkpoint) == before
    cm.upgrade(checkpoint, "barrier")
    for script in (project.path / "versions").iterdir():
        script.unlink()
    with pytest.raises(UntrustedCode):
        cm.downgrade(checkpoint, "base")
    cm.downgrade(checkpoint, "base", trust_checkpoint_code=True)
    assert capsys.readouterr() == ("", "")  # nothing prints


def test_progress_is_reported(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    copied: list[int] = []
    cm.upgrade(checkpoint, progress=copied.append)
    assert 0 < sum(copied) < checkpoint.stat().st_size


def test_everything_public_is_documented() -> None:
    for name in cm.__all__:
        if name not in ("CkptType", "__version__"):
            assert getattr(cm, name).__doc__, name
