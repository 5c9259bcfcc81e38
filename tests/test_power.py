"""The power goes at any moment: what fsync has not confirmed may be there, or not, or in part.

The calls of a real run are watched, and a disk is kept beside that knows what was confirmed. For each moment, the folder
is laid out as it may look after the power is back, in several ways, and must hold the old file or the new one.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.checkpoints import copying, growing
from tests.conftest import RENAME, Folder, names

Names = dict[str, int]  # what files of the folder are called: inodes


@dataclass
class Disk:
    """What a folder holds now, and what of it is confirmed."""

    folder: Path
    content: dict[int, bytes] = field(default_factory=dict)
    safe_content: dict[int, bytes] = field(default_factory=dict)
    safe_names: Names = field(default_factory=dict)
    # Changes of names since the folder was last synced: a crash keeps the first so many of them, as a journal does,
    # or any of them.
    changes: list[Names] = field(default_factory=list)
    moments: list[tuple[str, list[tuple[Names, dict[int, bytes]]]]] = field(default_factory=list)

    def look(self) -> Names:
        """Read the folder as it is."""
        found = {}
        for path in self.folder.iterdir():
            if path.is_file():
                inode = path.stat().st_ino
                found[path.name] = inode
                self.content[inode] = path.read_bytes()
        return found

    def confirm_all(self) -> None:
        """Begin: everything is on the disk."""
        self.safe_names = self.look()
        self.safe_content = dict(self.content)

    def after(self, call: str, descriptor: int | None) -> None:
        """Note what a call did, and how the folder may look if the power goes now."""
        now = self.look()
        if now != (self.changes[-1] if self.changes else self.safe_names):
            self.changes.append(now)
        if call == "fsync" and descriptor is not None:
            inode = os.fstat(descriptor).st_ino
            if inode == self.folder.stat().st_ino:
                self.safe_names, self.changes = now, []
            else:
                self.safe_content[inode] = self.content[inode]
        self.moments.append((call, list(self.states())))

    def states(self) -> Iterator[tuple[Names, dict[int, bytes]]]:
        """Give the ways in which the folder may come back."""
        for kept in range(len(self.changes) + 1):
            known = self.changes[kept - 1] if kept else self.safe_names
            for chance in ("nothing", "all", "some"):
                yield known, {inode: self.survivor(inode, chance) for inode in known.values()}

    def survivor(self, inode: int, chance: str) -> bytes:
        """Return what a file holds again: what was confirmed, all that was written, or pieces of it."""
        safe, now = self.safe_content.get(inode, b""), self.content[inode]
        if chance != "some":
            return safe if chance == "nothing" else now
        randomly = random.Random(len(self.moments))
        length = randomly.choice([len(safe), len(now), randomly.randint(*sorted((len(safe), len(now))))])
        pieces = bytearray((safe + bytes(length))[:length])
        for start in range(0, length, 512):
            if randomly.random() < 0.5:
                pieces[start : start + 512] = now[start : start + 512]
        return bytes(pieces[:length]).ljust(length, b"\0")


def watch(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    """Have the disk look after each call that changes something."""
    # Blocks are not shared: ioctl is not watched.
    patch.setattr(copying, "WAYS", copying.WAYS[1:])
    for name in ("pwrite", "copy_file_range", "fsync", "link", "replace", "unlink", "ftruncate", "open"):
        patch.setattr(os, name, watched(disk, name, getattr(os, name)))


def watched(disk: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        if name != "open" or args[1] & os.O_CREAT:
            disk.after(name, args[0] if name == "fsync" else None)
        return result

    return call


def lay_out(folder: Path, names_kept: Names, content: dict[int, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, inode in names_kept.items():
        (folder / name).write_bytes(content[inode])


@pytest.mark.parametrize("way", ["upgrade", "upgrade in place", "downgrade in place", "compact", "elsewhere"])
def test_the_power_goes(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    project.script("a1", None, **RENAME)
    runs = project.path / "runs"
    runs.mkdir()
    checkpoint = project.copy(to="runs/last.ckpt")
    words = {
        "upgrade": ["upgrade", "head"],
        "upgrade in place": ["upgrade", "head", "--in-place"],
        "downgrade in place": ["downgrade", "base", "--in-place"],
        "compact": ["compact"],
        "elsewhere": ["upgrade", "head", "-o", runs / "new.ckpt"],
    }[way]
    if way in ("downgrade in place", "compact"):
        project.ok("upgrade", "head", "--in-place", checkpoint)
    old = checkpoint.read_bytes()
    disk = Disk(runs)
    disk.confirm_all()
    with monkeypatch.context() as patch:
        watch(disk, patch)
        project.ok(*words, checkpoint)
    target = runs / "new.ckpt" if way == "elsewhere" else checkpoint
    new = target.read_bytes()
    assert len(disk.moments) > 8
    final_names, final_content = disk.moments[-1][1][0]
    assert final_content[final_names[target.name]] == new  # done means durable, before the lock goes
    seen = set()
    unique = {
        (tuple(sorted(kept.items())), tuple(sorted(content.items()))): (kept, content)
        for kept, content in itertools.chain.from_iterable(states for _, states in disk.moments)
    }
    for kept, content in unique.values():
        lay_out(runs, kept, content)
        assert checkpoint.read_bytes() == old or way != "elsewhere"
        project.ok("inspect", checkpoint)  # reading works at once
        if growing.journal_of(checkpoint).exists():
            project.ok("recover", checkpoint)
        if target.exists() or way != "elsewhere":
            found = target.read_bytes()
            assert found in (old, new), way
            seen.add(found == new)
        for backup in runs.glob("*.bak*"):
            assert backup.read_bytes() == old
        project.ok("upgrade", "head", checkpoint)
        assert "y.weight" in names(checkpoint)
        project.ok("downgrade", "base", checkpoint)  # which writes in any case, and tidies up
        assert [path.name for path in runs.glob(".last*")] == []
    assert seen == ({True} if way == "elsewhere" else {True, False})
