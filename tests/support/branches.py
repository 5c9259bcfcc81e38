"""Shared by tests: branches."""

from __future__ import annotations

from pathlib import Path

from tests.support.project import Folder, load

NOTE = 'ckpt["epoch"] = str(ckpt["epoch"]) + "{0}"'
BACK = 'ckpt["epoch"] = ckpt["epoch"].replace("{0}", "")'


def note(project: Folder, rev: str, parents: object = None, **more: object) -> Path:
    """Write a script that notes in the checkpoint that it ran, and takes its note away again."""
    top = "\n".join(f"{name} = {value!r}" for name, value in more.items())
    return project.script(rev, parents, NOTE.format(rev), BACK.format(rev), top=top)  # type: ignore[arg-type]


def ran(project: Folder, checkpoint: Path, *words: str) -> str:
    """Run a command, and return what is noted in the checkpoint then."""
    project.ok(*words, checkpoint)
    return str(load(checkpoint)["epoch"]).lstrip("3")
