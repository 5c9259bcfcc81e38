"""A file is replaced whole or not at all: what is left behind, what is kept, and what is said if the system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, ReadOnly
from anemoi_ckpt_migrate.storage.atomic_replace import Replacement, check_writable, opened, replacement, unwritable

OLD, NEW = b"the old file, which is longer", b"the new file"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    path.write_bytes(OLD)
    path.chmod(0o640)
    return path


@contextmanager
def replacing(target: Path, output: Path | None = None) -> Iterator[Replacement]:
    """Read a file, and write another in its place, or elsewhere."""
    with opened(target) as source:
        before = os.fstat(source) if output is None else None
        with replacement(output or target, source, before) as new:
            os.pwrite(new.descriptor, NEW, 0)
            yield new


def beside(path: Path) -> dict[str, bytes]:
    """Return what else is in the folder."""
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each != path}


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, code: int, wanted: int = 1) -> None:
    """Have a call fail, the first time or a later one."""
    real, count = getattr(os, call), 0

    def fails(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == wanted:
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    monkeypatch.setattr(os, call, fails)


@pytest.mark.parametrize("backup", [True, False])
def test_the_new_file_has_the_name_and_the_permissions_of_the_old_one(target: Path, backup: bool) -> None:
    with replacing(target) as new:
        kept = new.publish(backup)
    assert target.read_bytes() == NEW
    assert target.stat().st_mode & 0o7777 == 0o640
    assert beside(target) == ({"last.ckpt.bak": OLD} if backup else {})
    assert kept == (target.with_name("last.ckpt.bak") if backup else None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(new.descriptor)


def test_until_a_file_has_its_permissions_it_is_yours_alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file, and the copy that becomes the backup where there are no hard links."""
    modes, real = [], os.fchmod

    def noting(descriptor: int, mode: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o7777)
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", noting)
    refuse(monkeypatch, "link", errno.EPERM)
    with replacing(target) as new:
        new.publish(backup=True)
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("stops", [KeyboardInterrupt, CannotWrite])
def test_what_is_not_published_is_removed(target: Path, stops: type[BaseException]) -> None:
    with pytest.raises(stops), replacing(target):
        raise stops("no")
    assert (target.read_bytes(), beside(target)) == (OLD, {})


def test_backups_are_numbered(target: Path) -> None:
    for number in ("", "1", "2"):
        target.write_bytes(number.encode())
        with replacing(target) as new:
            assert new.publish(backup=True) == target.with_name(f"last.ckpt.bak{number}")
    assert beside(target) == {f"last.ckpt.bak{number}": number.encode() for number in ("", "1", "2")}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_the_backup_is_a_copy(target: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse(monkeypatch, "link", code)
    with replacing(target) as new:
        kept = new.publish(backup=True)
    assert kept is not None
    assert (kept.read_bytes(), kept.stat().st_mode & 0o7777) == (OLD, 0o640)
    assert (target.read_bytes(), list(beside(target))) == (NEW, ["last.ckpt.bak"])


@pytest.mark.parametrize(
    ("call", "wanted"),
    [("link", 1), ("fsync", 1), ("replace", 1), ("fchmod", 1)],
)
def test_a_failure_leaves_the_old_file_alone(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, wanted: int
) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, call, errno.EIO, wanted)
        with pytest.raises(CannotWrite, match="nothing was changed"), replacing(target) as new:
            new.publish(backup=True)
    assert (target.read_bytes(), beside(target)) == (OLD, {})


@pytest.mark.parametrize(("call", "wanted"), [("fchmod", 2), ("fsync", 2), ("copy_file_range", 1)])
def test_half_a_backup_is_removed(target: Path, monkeypatch: pytest.MonkeyPatch, call: str, wanted: int) -> None:
    """There are no hard links, and the copy fails in the middle."""
    with monkeypatch.context() as patch:
        refuse(patch, "link", errno.EPERM)
        refuse(patch, call, errno.EIO, wanted)
        with pytest.raises(CannotWrite, match="nothing was changed"), replacing(target) as new:
            new.publish(backup=True)
    assert (target.read_bytes(), beside(target)) == (OLD, {})


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_folder_that_cannot_be_synced_is_told(target: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    output = target.with_name("new.ckpt") if elsewhere else None
    refuse(monkeypatch, "fsync", errno.EIO, 2)
    with pytest.raises(CannotWrite) as told, replacing(target, output) as new:
        new.publish(backup=False)
    assert "the new file is in place, but syncing its folder failed (input/output error)" in str(told.value)
    assert (output or target).read_bytes() == NEW
    monkeypatch.undo()
    if not elsewhere:
        with replacing(target) as again:
            again.publish(backup=False)


def test_elsewhere_nothing_is_replaced(target: Path) -> None:
    output = target.with_name("new.ckpt")
    with replacing(target, output) as new:
        assert new.publish(backup=True) is None
    assert beside(target) == {"new.ckpt": NEW}
    assert output.stat().st_mode & 0o7777 == 0o640
    exists = r"new\.ckpt exists already; remove it or write elsewhere"
    with pytest.raises(CannotWrite, match=exists), replacing(target, output) as new:
        output.write_bytes(b"theirs")
        new.publish(backup=True)
    assert (target.read_bytes(), beside(target)) == (OLD, {"new.ckpt": b"theirs"})


def longer(path: Path) -> None:
    path.write_bytes(OLD + b"!")


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def another(path: Path) -> None:
    theirs = path.with_name("theirs")
    theirs.write_bytes(OLD)
    os.utime(theirs, ns=(0, path.stat().st_mtime_ns))
    os.replace(theirs, path)


@pytest.mark.parametrize("change", [longer, touched, another])
def test_a_file_that_somebody_changed_is_not_replaced(target: Path, change: Callable[[Path], None]) -> None:
    """Before writing begins, or while it is under way."""
    with opened(target) as source:
        before = os.fstat(source)
        with replacement(target, source, before) as new:
            change(target)
            with pytest.raises(CannotWrite, match="another program changed the file"):
                new.publish(backup=True)
        with pytest.raises(CannotWrite, match="another program changed the file"):
            replacement(target, source, before).__enter__()
    assert (target.read_bytes()[: len(OLD)], beside(target)) == (OLD, {})


def test_a_protected_file_is_not_replaced(target: Path) -> None:
    target.chmod(0o444)
    with pytest.raises(ReadOnly), replacing(target):
        raise AssertionError("it was opened for writing")
    with replacing(target, target.with_name("new.ckpt")) as new:
        new.publish(backup=False)
    assert (target.read_bytes(), list(beside(target))) == (OLD, ["new.ckpt"])


def test_only_a_file_that_nobody_may_write_is_protected(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That counts for root too, whom the system lets write anything."""
    monkeypatch.setattr(os, "access", lambda *_: True)
    for mode in (0o644, 0o464, 0o446):
        target.chmod(mode)
        check_writable(target)
    for mode in (0o444, 0o555):
        target.chmod(mode)
        with pytest.raises(ReadOnly):
            check_writable(target)
    target.chmod(0o644)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ReadOnly):
        check_writable(target)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_attributes_that_cannot_be_given_are_left_out(target: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    for call in ("listxattr", "setxattr"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "listxattr", lambda _: ["user.origin"])
            patch.setattr(os, "getxattr", lambda *_: b"experiment 7")
            refuse(patch, call, code)
            with replacing(target) as new:
                new.publish(backup=False)
        assert target.read_bytes() == NEW


def test_attributes_for_which_there_is_no_room_are_told(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An access control list that is missing would open the file to others."""
    for call in ("listxattr", "setxattr"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "listxattr", lambda _: ["system.posix_acl_access"])
            patch.setattr(os, "getxattr", lambda *_: b"a list")
            refuse(patch, call, errno.ENOSPC)
            with pytest.raises(CannotWrite, match="no space left"), replacing(target):
                raise AssertionError("it was opened for writing")
        assert (target.read_bytes(), beside(target)) == (OLD, {})


def test_the_owner_stays_who_it_was(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may give a file away; for anybody else the new file is their own."""
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(target, 12345, 23456)
    with replacing(target) as new:
        new.publish(backup=False)
    assert (target.stat().st_uid, target.stat().st_gid) == (12345, 23456)
    refuse(monkeypatch, "fchown", errno.EPERM)
    with replacing(target) as new:
        new.publish(backup=False)
    assert (target.stat().st_uid, target.stat().st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is no such file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.symlink_to(path), r"it cannot be read \(Too many levels of symbolic links\)"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(CannotRead, match=says), opened(tmp_path / "x"):
        raise AssertionError("it was opened")


def test_names_that_no_file_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, says in (
        ("a\0b", "it is not a valid file name"),
        ("s3://bucket/x.ckpt", "it is a URL that lost a slash"),
    ):
        with pytest.raises(CannotRead, match=says), opened(Path(name)):
            raise AssertionError("it was opened")
    refuse(monkeypatch, "open", errno.EACCES)
    with pytest.raises(CannotRead, match=r"you may not read it \(permission denied\)"), opened(Path("x")):
        raise AssertionError("it was opened")


def test_a_file_that_was_read_is_closed(target: Path) -> None:
    with opened(target) as descriptor:
        assert os.pread(descriptor, 7, 0) == b"the old"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list open files")
def test_no_file_stays_open(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    for code in (errno.EPERM, errno.EIO):
        with monkeypatch.context() as patch:
            refuse(patch, "link", code)
            with contextlib.suppress(CannotWrite), replacing(target) as new:
                new.publish(backup=True)
        with contextlib.suppress(CannotRead), opened(target.parent):
            raise AssertionError("it was opened")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "(no space left on device): free some space, or write elsewhere with --output"),
        (errno.EDQUOT, "(disk quota exceeded): free some of your quota, or write elsewhere with --output"),
        (errno.EACCES, "(permission denied): allow writing to /runs, or write elsewhere with --output"),
        (errno.EROFS, "(read-only file system): write elsewhere with --output"),
        (errno.EIO, "(input/output error): run the command again once that is fixed"),
        (None, "(input/output error): run the command again once that is fixed"),
    ],
)
def test_each_failure_names_a_way_out(code: int | None, says: str) -> None:
    error = OSError() if code is None else OSError(code, "")
    sentence = unwritable(error, Path("/runs/last.ckpt")).sentence
    assert sentence == f"the new file could not be written {says}; nothing was changed"
