"""Bytes arrive whatever way the kernel has, from any offset to any other."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage import copy_range, open_checkpoint
from tests.support.project import digest

BYTES = os.urandom(5 * copy_range.BLOCK + 77)


@pytest.fixture(scope="module", params=["ext4 or so", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder on a file system of each kind that can be mounted here; xfs and btrfs share blocks."""
    folder = tmp_path_factory.mktemp("disk")
    if request.param == "ext4 or so":
        yield folder
        return
    image = folder / "image"
    make = shutil.which(f"mkfs.{request.param}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    with image.open("wb") as file:
        file.truncate(400 << 20)
    mount = folder / "mounted"
    mount.mkdir()
    for command in ([make, "-q", image], ["mount", "-o", "loop", image, mount]):
        if make is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"{request.param} cannot be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def copied(folder: Path, start: int, end: int, to: int) -> bytes:
    source, target = folder / "source", folder / "target"
    source.write_bytes(BYTES)
    target.write_bytes(b"")
    with source.open("rb") as reading, target.open("r+b") as writing:
        counts: list[int] = []
        copy_range.copy_range(reading.fileno(), writing.fileno(), start, end, to, counts.append)
        assert sum(counts) == end - start
    return target.read_bytes()


OFFSETS = st.integers(0, len(BYTES)) | st.integers(0, 5).map(lambda blocks: blocks * copy_range.BLOCK)


@given(start=OFFSETS, end=OFFSETS, to=OFFSETS)
def test_any_range_to_any_offset(disk: Path, start: int, end: int, to: int) -> None:
    start, end = sorted((start, end))
    found = copied(disk, start, end, to)
    assert found == (b"\0" * to + BYTES[start:end] if end > start else b"")


@pytest.mark.parametrize("first", range(len(copy_range.WAYS)))
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP])
def test_every_way_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, code: int) -> None:
    """The ways before the first are refused by the kernel; the rest is taken from there."""

    def refuse(*args: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(copy_range, "WAYS", (*[refuse] * first, *copy_range.WAYS[first:]))
    assert copied(tmp_path, 64, len(BYTES) - 3, 128)[128:] == BYTES[64:-3]


def test_a_way_that_does_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_range, "WAYS", (lambda *args: 0, *copy_range.WAYS[1:]))
    assert copied(tmp_path, 0, len(BYTES), 0) == BYTES


def test_real_errors_are_not_taken_for_a_missing_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(copy_range, "WAYS", (fail, *copy_range.WAYS[1:]))
    with pytest.raises(OSError, match="full"):
        copied(tmp_path, 0, len(BYTES), 0)


def test_a_source_that_ends_early(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="became shorter"):
        copied(tmp_path, 0, len(BYTES) + 1, 0)


def test_a_migrated_checkpoint_shares_its_blocks(disk: Path) -> None:
    """Where the file system can, a 100 MB checkpoint is rewritten without copying its payload."""
    torch = pytest.importorskip("torch")
    old, new = disk / "old.ckpt", disk / "new.ckpt"
    torch.save({f"w{i}": torch.full((2_500_000,), float(i)) for i in range(10)}, old)
    os.sync()
    free = shutil.disk_usage(disk).free
    with open_checkpoint(old) as file:
        tree = {f"{key}!": value for key, value in file.load().items()}
        file.write(file.pickled(tree), {}, new)
    os.sync()
    if disk.name == "mounted":
        assert free - shutil.disk_usage(disk).free < 10_000_000
    assert [value[-1].item() for value in torch.load(new).values()] == list(range(10))
    before = digest(old)
    old_new = disk / "again.ckpt"
    with open_checkpoint(new) as file:
        file.copy(old_new)
    assert digest(old_new) == digest(new)
    assert digest(old) == before
