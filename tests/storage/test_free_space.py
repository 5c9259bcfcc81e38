"""Room for what is to be written is looked for before the first byte: as much as is made, and where it is written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anemoi_ckpt_migrate.errors import NoRoom, TooMuchAsked
from anemoi_ckpt_migrate.storage.size_limits import check_asked, check_room

torch = pytest.importorskip("torch")

from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

MADE = 400_000
IN_PLACE = [[], ["--in-place"]]


@pytest.fixture
def growing(project: Folder) -> Path:
    """A checkpoint of four megabytes, to which a script adds 400 kB."""
    declare(project, "a1", f'op.Add("z", [{MADE // 4}], "float32")')
    path = project.path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1_000_000)}}, path)
    return path


def disk(free: Callable[[Path], int]) -> Callable[[Any], Any]:
    """Return a `statvfs` that says how many bytes are free in a folder."""
    return lambda path: SimpleNamespace(f_bavail=free(Path(path)), f_frsize=1)


def refused(project: Folder, path: Path, *words: object) -> str:
    before = path.read_bytes()
    ran = project.run("upgrade", "head", *words, path)
    assert ran.code == 1
    assert path.read_bytes() == before
    return ran.err


@pytest.mark.parametrize("words", IN_PLACE)
def test_what_is_made_has_to_be_free(
    project: Folder, growing: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(lambda _: MADE))
    assert "the free space in" in refused(project, growing, *words)
    # What is copied shares its blocks with the old file.
    monkeypatch.setattr(os, "statvfs", disk(lambda _: 2 * MADE))
    project.ok("upgrade", "head", *words, growing)


def test_room_for_exactly_what_is_made_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", disk(lambda _: MADE))
    check_room(tmp_path / "a.ckpt", MADE, MADE)
    with pytest.raises(NoRoom):
        check_room(tmp_path / "a.ckpt", MADE + 1, MADE + 1)


def test_a_file_as_large_as_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (MADE, resource.RLIM_INFINITY))
    check_room(tmp_path / "a.ckpt", 0, MADE)
    with pytest.raises(NoRoom):
        check_room(tmp_path / "a.ckpt", 0, MADE + 1)


def test_the_folder_of_the_output_counts(project: Folder, growing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = project.path / "full"
    full.mkdir()
    monkeypatch.setattr(os, "statvfs", disk(lambda path: 0 if path.name == "full" else 1 << 40))
    assert f"the free space in {full}" in refused(project, growing, "-o", full / "b.ckpt")
    project.ok("upgrade", "head", "-o", project.path / "b.ckpt", growing)


def test_a_disk_that_does_not_say_is_tried(project: Folder, growing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Any) -> Any:
        raise OSError("not supported")

    monkeypatch.setattr(os, "statvfs", fails)
    project.ok("upgrade", "head", growing)


@pytest.mark.parametrize("words", IN_PLACE)
def test_the_whole_file_has_to_be_small_enough(
    project: Folder, growing: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than what is made, less than the file would be."""
    with monkeypatch.context() as limited:
        limited.setattr(resource, "getrlimit", lambda what: (10 * MADE, resource.RLIM_INFINITY))
        assert "the largest file" in refused(project, growing, *words)
    project.ok("upgrade", "head", *words, growing)


def test_a_record_may_ask_for_some_and_a_script_for_any(
    project: Folder, growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_asked(16 * 1000 + (64 << 20), 1000)
    with pytest.raises(TooMuchAsked):
        check_asked(16 * 1000 + (64 << 20) + 1, 1000)
    monkeypatch.setattr("anemoi_ckpt_migrate.storage.size_limits._ALWAYS", 0)
    monkeypatch.setattr("anemoi_ckpt_migrate.storage.size_limits._WIDER", 0)
    project.ok("upgrade", "head", growing)
