"""The power goes at any moment: what fsync has not confirmed may be there, or not, or in part.

The calls of a real run are watched, and a disk is kept beside that knows what was confirmed. For each moment, the folder
is laid out as it may look after the power is back, in several ways, and must hold the old file or the new one.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.storage import copy_range, in_place, open_checkpoint
from tests.support.project import RENAME, Folder, names

Names = dict[str, int]  # what files of the folder are called: inodes


@dataclass
class Disk:
    """What a folder holds now, and what of it is confirmed."""

    folder: Path
    content: dict[int, bytes] = field(default_factory=dict)
    safe_content: dict[int, bytes] = field(default_factory=dict)
    longest: dict[int, bytes] = field(default_factory=dict)  # since it was confirmed: what is cut may come back
    previous: dict[int, bytes] = field(default_factory=dict)  # the same: what is written over may come back
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
                inode, before = path.stat().st_ino, self.content.get(path.stat().st_ino)
                found[path.name] = inode
                self.content[inode] = path.read_bytes()
                if before is not None and before != self.content[inode]:
                    self.previous[inode] = before
                self.longest[inode] = max(self.longest.get(inode, b""), self.content[inode], key=len)
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
                self.safe_content[inode] = self.longest[inode] = self.previous[inode] = self.content[inode]
        self.moments.append((call, list(self.states())))

    def states(self) -> Iterator[tuple[Names, dict[int, bytes]]]:
        """Give the ways in which the folder may come back."""
        for kept in range(len(self.changes) + 1):
            known = self.changes[kept - 1] if kept else self.safe_names
            for chance in ("nothing", "all", "some", "longest", "previous"):
                yield known, {inode: self.survivor(inode, chance) for inode in known.values()}

    def survivor(self, inode: int, chance: str) -> bytes:
        """Return what a file holds again: what was confirmed, all that was written, pieces of it, or what was cut or written over."""
        safe, now = self.safe_content.get(inode, b""), self.content[inode]
        if chance != "some":
            previous = self.previous.get(inode, now)
            return {"nothing": safe, "all": now, "longest": self.longest[inode], "previous": previous}[chance]
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
    patch.setattr(copy_range, "WAYS", copy_range.WAYS[1:])
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


WAYS = (
    "upgrade",
    "upgrade without hard links",
    "upgrade in place",
    "upgrade in place that fails",
    "downgrade in place",
    "compact",
    "elsewhere",
    "recover",
)


@dataclass
class Run:
    """A run that was watched.

    Attributes
    ----------
    disk : Disk
        How the folder may look, at any moment.
    checkpoint, target : Path
        The file that is read, and the one that is written.
    old, new : bytes
        What the target is to be: before and after.
    """

    disk: Disk
    checkpoint: Path
    target: Path
    old: bytes
    new: bytes


def watched_run(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str, without_sync: int | None = None) -> Run:
    """Run a command, and watch; `without_sync` is the number of an fsync that is left out."""
    runs = project.path / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    checkpoint = project.copy(to="runs/last.ckpt")
    words = {
        "downgrade in place": ["downgrade", "base", "--in-place"],
        "compact": ["compact"],
        "elsewhere": ["upgrade", "head", "-o", runs / "new.ckpt"],
        "recover": ["recover"],
    }.get(way, ["upgrade", "head", *(["--in-place"] if "in place" in way else [])])
    if way in ("downgrade in place", "compact"):
        project.ok("upgrade", "head", "--in-place", checkpoint)
    old = checkpoint.read_bytes()
    if way == "recover":
        interrupted(checkpoint)
    disk = Disk(runs)
    disk.confirm_all()
    with monkeypatch.context() as patch:
        if way == "upgrade without hard links":
            patch.setattr(os, "link", refused)
        if way == "upgrade in place that fails":
            patch.setattr(os, "pwrite", failing(os.pwrite))
        watch(disk, patch)
        if without_sync is not None:
            patch.setattr(os, "fsync", leaving_out(os.fsync, without_sync))
        assert project.run(*words, checkpoint).code == (1 if way.endswith("fails") else 0)
    target = runs / "new.ckpt" if way == "elsewhere" else checkpoint
    return Run(disk, checkpoint, target, old, target.read_bytes())


def interrupted(checkpoint: Path) -> None:
    """Leave a file as a run in place does that is killed: longer than it was, and a journal beside it."""
    with open_checkpoint(checkpoint) as opened:
        in_place.journal_of(checkpoint).write_bytes(opened._mark().to_json())
    with checkpoint.open("ab") as file:
        file.write(bytes(range(256)) * 300)


def refused(*args: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def failing(real: Callable[..., Any], wanted: int = 4) -> Callable[..., Any]:
    """Have a call fail, but the first ones."""
    calls = itertools.count(1)
    return lambda *args: real(*args) if next(calls) < wanted else refused()


def leaving_out(real: Callable[..., Any], left_out: int) -> Callable[..., Any]:
    """Have one call do nothing."""
    calls = itertools.count()
    return lambda *args: None if next(calls) == left_out else real(*args)


def hold(project: Folder, run: Run, goes_on: bool = False) -> set[bool]:
    """Check each way in which the folder may come back, and return whether the file was the new one, or the old one.

    With `goes_on`, also that the next runs do what they are to do.
    """
    disk, checkpoint, target = run.disk, run.checkpoint, run.target
    final_names, final_content = disk.moments[-1][1][0]
    assert final_content.get(final_names.get(target.name, -1)) == run.new  # done means durable, before the lock goes
    assert in_place.journal_of(target).name not in final_names
    seen = set()
    unique = {
        (tuple(sorted(kept.items())), tuple(sorted(content.items()))): (kept, content)
        for kept, content in itertools.chain.from_iterable(states for _, states in disk.moments)
    }
    for kept, content in unique.values():
        lay_out(disk.folder, kept, content)
        assert checkpoint.read_bytes() == run.old or target == checkpoint
        project.ok("inspect", checkpoint, "--json")  # reading works at once
        if in_place.journal_of(checkpoint).exists():
            project.ok("recover", checkpoint)
        if target.exists() or target == checkpoint:
            found = target.read_bytes()
            assert found in (run.old, run.new)
            seen.add(found == run.new)
        for backup in disk.folder.glob("*.bak*"):
            # Where there are no hard links, a copy that is under way has the name already.
            assert backup.read_bytes() == run.old or target.read_bytes() == run.old
        if goes_on:
            project.ok("upgrade", "head", checkpoint)
            assert "y.weight" in names(checkpoint)
            project.ok("downgrade", "base", checkpoint)  # which writes in any case, and tidies up
            assert [path.name for path in disk.folder.glob(".last*")] == []
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_the_power_goes(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    project.script("a1", None, **RENAME)
    run = watched_run(project, monkeypatch, way)
    assert len(run.disk.moments) > 5
    only_new = way in ("elsewhere", "recover", "upgrade in place that fails")
    assert hold(project, run, goes_on=True) == ({True} if only_new else {True, False})


@pytest.mark.parametrize("way", WAYS)
def test_every_sync_is_needed(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """With any one of them left out, there is a moment at which a power cut does harm."""
    project.script("a1", None, **RENAME)
    whole = watched_run(project, monkeypatch, way)
    syncs = sum(call == "fsync" for call, _ in whole.disk.moments)
    assert syncs >= 2
    for number in range(syncs):
        run = watched_run(project, monkeypatch, way, without_sync=number)
        with pytest.raises(AssertionError):
            hold(project, run)
            print(f"nobody notices that fsync {number} of {syncs} is missing")
