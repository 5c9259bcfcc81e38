"""Exchange a folder whole or not at all: build the new one beside the old one, sync it, then exchange their names.

A journal beside the folder is durable before the new folder is made, and removed once all is done. It gives the hidden
name of the new folder and the inode of the old one. So the next run can complete an interrupted exchange or undo it:
if the old folder has the hidden name, the exchange took place, and the old folder gets its backup name; any other
folder of that name is an unfinished new one, and is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ForeignJournal, Refused
from anemoi_ckpt_migrate.storage.atomic_replace import (
    backup_names,
    changed_meanwhile,
    keep_modes,
    sync_folder,
    unwritable,
)
from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range, write_at
from anemoi_ckpt_migrate.storage.in_place import journal_of, opened_journal
from anemoi_ckpt_migrate.storage.lock import NO_LINKS, beside, create, is_beside, locked
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

_FORMAT = 1
_LONGEST = 4000  # bytes of a journal
# Linux, include/uapi/linux/fs.h: flags of renameat2. AT_FDCWD is in include/uapi/linux/fcntl.h.
_NO_REPLACE, _EXCHANGE, _CURRENT_FOLDER = 1, 2, -100
_PARKED = ".old"
_NOT_HERE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class FolderState:
    """A folder when it was opened.

    Attributes
    ----------
    own : os.stat_result
        The folder.
    entries : dict of str to os.stat_result
        All that it holds, by name. Links are not followed.
    """

    own: os.stat_result
    entries: dict[str, os.stat_result]

    @classmethod
    def of(cls, folder: Path) -> FolderState:
        """Look at a folder."""
        with os.scandir(folder) as found:
            entries = {each.name: each.stat(follow_symlinks=False) for each in found}
        return cls(os.stat(folder), dict(sorted(entries.items())))

    def has_changed(self, folder: Path) -> bool:
        """Return whether a path now leads to another folder, or a file in it was changed, made or removed."""
        now = FolderState.of(folder)
        return (
            not os.path.samestat(now.own, self.own)
            or now.entries.keys() != self.entries.keys()
            or any(changed_meanwhile(now.entries[name], each) for name, each in self.entries.items() if _is_file(each))
        )


class NewFolder:
    """A folder that is built beside the one that it replaces.

    Attributes
    ----------
    path : Path
        The new folder.
    """

    def __init__(self, path: Path, target: Path, before: FolderState | None) -> None:
        self.path, self._target, self._before = path, target, before

    @contextlib.contextmanager
    def create(self, name: str, like: int | None = None) -> Iterator[int]:
        """Make a file in the folder, and yield its descriptor; the file is durable afterwards.

        Parameters
        ----------
        name : str
            The name of the file.
        like : int, optional
            The descriptor of a file whose permissions it gets.
        """
        descriptor = create(self.path / name, 0o644 if like is None else 0o600)
        try:
            if like is not None:
                keep_modes(like, descriptor)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def create_in(self, folder: str, name: str) -> Iterator[int]:
        """Make a file in a new folder in this one, and yield its descriptor; the file is durable afterwards."""
        os.mkdir(self.path / folder, 0o755)
        with self.create(f"{folder}/{name}") as descriptor:
            yield descriptor

    def take(self, source: Path, name: str, shared: bool, progress: Progress | None = None) -> None:
        """Take a file into the folder as it is, perhaps under another name.

        Parameters
        ----------
        source : Path
            The file; a link counts as the file that it leads to.
        name : str
            The new name.
        shared : bool
            Whether both folders may name one file (a hard link). Else the blocks are shared, or copied.
        progress : callable, optional
            Called with the number of bytes copied, from time to time.
        """
        if shared and _link(Path(os.path.realpath(source)), self.path / name):
            return
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with self.create(name, descriptor) as new:
                copy_range(descriptor, new, 0, os.fstat(descriptor).st_size, 0, progress)
        finally:
            os.close(descriptor)

    def take_rest(self, folder: Path, without: Collection[str], shared: bool) -> None:
        """Take all else that a folder holds: files, links as they are, and folders, whose files both will name.

        Raises
        ------
        Refused
            It holds something else.
        """
        for name in sorted(set(os.listdir(folder)) - set(without)):
            place = folder / name
            if place.is_symlink():
                os.symlink(os.readlink(place), self.path / name)
            elif place.is_dir():
                shutil.copytree(place, self.path / name, symlinks=True, copy_function=_link_or_copy)
            elif place.is_file():
                self.take(place, name, shared)
            else:
                raise Refused(f"{name} in it is neither a file nor a folder; move it away")

    def publish(self, backup: bool) -> Path | None:
        """Sync the folder, and give it its name.

        Parameters
        ----------
        backup : bool
            Keep the old folder under a backup name.

        Returns
        -------
        Path or None
            The backup.

        Raises
        ------
        CannotWrite
            The old folder has changed since it was read, or something now exists at the target.
        OSError
            The system refused; the folder is the old one.
        """
        for folder, _, _ in os.walk(self.path):
            sync_folder(Path(folder))
        if self._before is None:
            self._publish_new()
            return None
        if self._before.has_changed(self._target):
            raise CannotWrite("another program changed the folder in the meantime; run the command again")
        _write_journal(self._target, _Journal(self.path.name, self._before.own.st_ino, backup))
        _exchange(self.path, self._target)
        try:
            sync_folder(self._target.parent)
            return _complete(self._target).backup
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            way = "`ckpt-migrate recover` completes the rest once that is fixed"
            raise CannotWrite(
                f"the new folder is in place, but the old one was not put away ({reason}): {way}"
            ) from error

    def _publish_new(self) -> None:
        if not _takes(self.path, self._target):
            raise CannotWrite(f"{self._target} exists already; remove it or write elsewhere")
        sync_folder(self._target.parent)


def check_elsewhere(target: Path) -> None:
    """Refuse to exchange a folder that the current one is, or lies in.

    Raises
    ------
    Refused
        It would be a part of the backup afterwards.
    """
    if Path(os.path.realpath(os.curdir)).is_relative_to(target):
        raise Refused(
            "the current folder is in it, and would be a part of the backup afterwards: a new folder takes its "
            f"place; run the command from another one, with {shlex.quote(os.fspath(target))}"
        )


@contextlib.contextmanager
def kept_in_place(target: Path) -> Iterator[Completed]:
    """Let nobody else write a folder; an interrupted exchange is completed before, and its end is yielded.

    Parameters
    ----------
    target : Path
        The folder; not a link.

    Raises
    ------
    Busy
        Another run is writing the same folder.
    CannotWrite
        The system refused.
    """
    try:
        with locked(target):
            yield _complete(target)
    except OSError as error:
        raise unwritable(error, target) from error


@contextlib.contextmanager
def new_folder(target: Path, before: FolderState | None) -> Iterator[NewFolder]:
    """Yield a new folder beside `target`, and remove it again unless it was published.

    Parameters
    ----------
    target : Path
        The final path of the folder; not a link.
    before : FolderState or None
        The folder at `target` when reading began, which is to be replaced. None if nothing may exist there.

    Raises
    ------
    Busy
        Another run is writing the same folder.
    ForeignJournal
        A file has the name of the journal.
    CannotWrite
        The disk refuses; everything is unchanged.
    """
    with kept_in_place(target):
        path = beside(target)
        _write_journal(target, _Journal(path.name, None if before is None else before.own.st_ino, True))
        try:
            os.mkdir(path, 0o755 if before is None else 0o700)
            if before is not None:
                _keep_folder_modes(target, path)
            yield NewFolder(path, target, before)
        finally:
            with contextlib.suppress(OSError):  # the next run removes a leftover
                _complete(target)


@dataclass(frozen=True)
class Completed:
    """The end of an exchange.

    Attributes
    ----------
    removed : int
        The number of bytes in the files of the folder that was removed.
    backup : Path or None
        The name of the old folder, if the exchange took place and a backup was asked for.
    exchanged : bool
        Whether the exchange took place.
    """

    removed: int = 0
    backup: Path | None = None
    exchanged: bool = False


def has_journal(target: Path) -> bool:
    """Return whether the exchange of a folder was interrupted."""
    return _read_journal(target) is not None


def recover(target: Path) -> Completed:
    """Complete the interrupted exchange of a folder, or undo it.

    Parameters
    ----------
    target : Path
        The folder; not a link.

    Raises
    ------
    Busy
        The run is still at work.
    CannotWrite
        The system refused.
    """
    with kept_in_place(target) as completed:
        return completed


def _complete(target: Path) -> Completed:
    """Put away the folder with the hidden name: the old one, or an unfinished new one. Only under the lock."""
    left = _read_journal(target)
    if left is None:
        return Completed()
    hidden, parked = target.with_name(left.name), target.with_name(f"{left.name}{_PARKED}")
    if parked.exists():  # without an exchange of the system: the old folder has lost its name already
        if not os.path.lexists(target):
            os.rename(hidden, target)
        os.rename(parked, hidden)
        sync_folder(target.parent)
    found = Completed()
    if os.path.lexists(hidden):
        exchanged = os.lstat(hidden).st_ino == left.inode
        if exchanged and left.backup:
            found = Completed(0, next(kept for kept in backup_names(target) if _takes(hidden, kept)), True)
        else:
            found = Completed(_size(hidden), None, exchanged)
            shutil.rmtree(hidden)
        sync_folder(target.parent)
    os.unlink(journal_of(target))
    sync_folder(target.parent)
    return found


def _takes(hidden: Path, kept: Path) -> bool:
    """Give a folder a name; return False if the name is taken."""
    try:
        rename_anew(hidden, kept)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


def _exchange(hidden: Path, target: Path) -> None:
    """Exchange the names of two folders; where the system cannot, there is a moment without a folder."""
    try:
        _rename(hidden, target, _EXCHANGE)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise CannotWrite(
                "it is a mount point, which no other folder can replace; write elsewhere with --output"
            ) from error
        if error.errno not in _NOT_HERE:
            raise
        parked = target.with_name(f"{hidden.name}{_PARKED}")
        os.rename(target, parked)
        os.rename(hidden, target)
        os.rename(parked, hidden)


def rename_anew(source: Path, target: Path) -> None:
    """Rename a folder or a file to a free name.

    Raises
    ------
    FileExistsError
        The name is taken.
    """
    try:
        _rename(source, target, _NO_REPLACE)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
        os.rename(source, target)


def _rename(source: Path, target: Path, flags: int) -> None:
    """Call Linux's ``renameat2``, which Python lacks."""
    function = _renameat2()
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(_CURRENT_FOLDER, os.fsencode(source), _CURRENT_FOLDER, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(source), None, os.fspath(target))


@functools.cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


@dataclass(frozen=True)
class _Journal:
    """What a run is about to do: the hidden name of the new folder, the inode of the old one, whether it is kept."""

    name: str
    inode: int | None
    backup: bool

    def to_json(self) -> bytes:
        return json.dumps({"format": _FORMAT, "folder": asdict(self)}).encode()

    @classmethod
    def from_json(cls, content: bytes, target: Path) -> _Journal | None:
        """Parse a journal of a folder; None for anything else, and for a name that is none of ours."""
        try:
            data = json.loads(content)
            found = cls(**data["folder"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        typed = type(found.name) is str and type(found.inode) in (int, type(None)) and type(found.backup) is bool
        return found if data.get("format") == _FORMAT and typed and is_beside(found.name, target) else None


def _write_journal(target: Path, journal: _Journal) -> None:
    """Write the journal, or replace our own. Another file of that name stays."""
    if _read_journal(target) is None and os.path.lexists(journal_of(target)):
        raise ForeignJournal(os.fspath(journal_of(target)))
    written = beside(target)
    descriptor = create(written, 0o644)
    try:
        write_at(descriptor, journal.to_json(), 0)
        os.fsync(descriptor)
        os.replace(written, journal_of(target))
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(written)
    sync_folder(target.parent)


def _read_journal(target: Path) -> _Journal | None:
    with opened_journal(journal_of(target)) as descriptor:
        return None if descriptor is None else _Journal.from_json(os.read(descriptor, _LONGEST), target)


def _keep_folder_modes(source: Path, target: Path) -> None:
    opened = [os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for each in (source, target)]
    try:
        keep_modes(*opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; return False where the file system has none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


def _link_or_copy(source: str, target: str) -> None:
    if not _link(Path(source), Path(target)):
        shutil.copy2(source, target)


def _size(folder: Path) -> int:
    """Return the number of bytes of the files in a folder."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)
