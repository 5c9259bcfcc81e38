"""The copy of the record at the end of a torch file: `current` reads it; whoever writes compares it with the record."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.commands import read_record
from anemoi_ckpt_migrate.storage import open_file, read_copy
from tests.support.project import RENAME, Folder

ENTRY = "ckpt_migrate/record_copy.json"


@pytest.fixture
def moved(project: Folder) -> Path:
    """a1 - a2        the checkpoint is at a2"""
    project.script("a1", None, **RENAME, name="rename x to y")
    project.script("a2", "a1", name="nothing")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    return checkpoint


def edited(path: Path, edit: Any) -> None:
    """Change entries of an archive, as a program that knows nothing of copies would: by a new archive."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in edit(entries).items():
            new.writestr(name, content)


def lying(path: Path) -> None:
    """Let the copy tell that the checkpoint is at a1."""

    def edit(entries: dict[str, bytes]) -> dict[str, bytes]:
        name = next(name for name in entries if name.endswith(ENTRY))
        copy = json.loads(entries[name])
        copy["record"] |= {"heads": ["a1"], "lineage": copy["record"]["lineage"][:1]}
        structure = next(name for name in entries if name.endswith("/data.pkl"))
        rest = {key: content for key, content in entries.items() if key not in (name, structure)}
        return {**rest, structure: entries[structure], name: json.dumps(copy).encode()}

    edited(path, edit)


WRITES = [
    "upgrade head",
    "upgrade head --in-place",
    "downgrade -1",
    "downgrade -1 --in-place",
    "stamp a1",
    "sync",
    "compact",
]


@pytest.mark.parametrize("line", WRITES)
def test_every_command_that_writes_writes_it(
    project: Folder, moved: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script("a3", "a2", name="one more")
    project.ok(*line.split(), moved)
    quick = project.ok("current", "--json", moved)
    assert read_copy(moved) is not None
    monkeypatch.setattr(read_record, "read_copy", lambda path: None)
    assert project.ok("current", "--json", moved).out == quick.out


def test_current_does_not_read_the_structure(project: Folder, moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_file, "open_checkpoint", None)
    assert project.ok("current", moved).out == f"{moved}: a2  nothing (head)\n"


def test_training_loses_it(project: Folder, moved: Path) -> None:
    """torch writes the tree alone; the record is read from there."""
    torch = pytest.importorskip("torch")
    torch.save(torch.load(moved, weights_only=False), moved)
    assert read_copy(moved) is None
    assert project.ok("current", moved).out == f"{moved}: a2  nothing (head)\n"


def test_another_structure(project: Folder, moved: Path) -> None:
    """Somebody replaced the structure, and not the copy: the copy does not count."""
    other = project.copy(to="other.ckpt")
    with zipfile.ZipFile(other) as found:
        structure = found.read(next(name for name in found.namelist() if name.endswith("/data.pkl")))
    edited(
        moved,
        lambda entries: {name: structure if name.endswith("/data.pkl") else each for name, each in entries.items()},
    )
    assert read_copy(moved) is None
    assert project.ok("current", moved).out == f"{moved}: base, without a record (not at head)\n"


@pytest.mark.parametrize("line", ["upgrade head", "downgrade -1", "stamp a1", "sync", "upgrade head --in-place"])
def test_a_copy_that_lies(project: Folder, moved: Path, line: str) -> None:
    project.script("a3", "a2", name="one more")
    lying(moved)
    before = moved.read_bytes()
    assert project.ok("current", moved).out == f"{moved}: a1  rename x to y (not at head)\n"
    ran = project.run(*line.split(), moved)
    assert (ran.code, moved.read_bytes()) == (1, before)
    assert ran.err.startswith(f"ckpt-migrate: error: {moved}: the copy of its record, which `current` shows, tells")


def test_the_way_out(project: Folder, moved: Path) -> None:
    lying(moved)
    way = project.run("stamp", "a1", moved).err.split("`")[3].split()
    assert way == ["ckpt-migrate", "compact", str(moved)]
    project.ok(*way[1:])
    assert project.ok("current", moved).out == f"{moved}: a2  nothing (head)\n"
    project.ok("downgrade", "base", moved)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"structure": 1}', b"[" * 100_000])
def test_a_copy_that_is_none(project: Folder, moved: Path, content: bytes) -> None:
    edited(moved, lambda entries: {name: content if name.endswith(ENTRY) else each for name, each in entries.items()})
    assert project.ok("current", moved).out == f"{moved}: a2  nothing (head)\n"
    project.ok("downgrade", "-1", moved)


def test_a_damaged_end(project: Folder, moved: Path) -> None:
    """The copy is damaged: `current` reads the tree, `inspect --verify` tells."""
    whole = moved.read_bytes()
    at = whole.rindex(b'{"structure"')
    moved.write_bytes(whole[: at + 30] + b"?" + whole[at + 31 :])
    assert project.ok("current", moved).out == f"{moved}: a2  nothing (head)\n"


def test_a_large_file_takes_a_few_reads(project: Folder, moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 2,000 tensors: the end of the file is read, and its first bytes."""
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {f"x{number}.weight": torch.ones(1) for number in range(2000)}}, moved)
    project.ok("stamp", "a1", moved)
    from anemoi_ckpt_migrate.storage import zip_archive

    read = []
    real = zip_archive.Window.readinto
    monkeypatch.setattr(
        zip_archive.Window, "readinto", lambda self, buffer: read.append(len(buffer)) or real(self, buffer)
    )
    project.ok("current", moved)
    assert sum(read) < 100_000 < moved.stat().st_size
