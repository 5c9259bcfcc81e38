"""Remove backups of a checkpoint that its record proves to be such."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import (
    BackupsStay,
    CannotRead,
    CannotWrite,
    DamagedRecord,
    DamagedStash,
    MigrateError,
    NewerRecord,
    NotACheckpoint,
    Refused,
    UsageError,
)
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, open_to_write
from anemoi_ckpt_migrate.storage.backups import (
    Backup,
    find_backups,
    find_half_removed,
    freed,
    open_backup,
    remove_backup,
)
from anemoi_ckpt_migrate.storage.lock import locked
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, replace
from anemoi_ckpt_migrate.util.size_text import bytes_of
from anemoi_ckpt_migrate.util.text import sized
from anemoi_ckpt_migrate.util.time_text import parse_time

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import LogEntry
    from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath

_UNUSABLE = (CannotRead, NotACheckpoint, DamagedRecord, DamagedStash, NewerRecord)


@dataclass(frozen=True)
class CleanedBackup:
    """A file or folder with the name of a backup.

    Attributes
    ----------
    path : str
        Its path.
    size : int
        Its bytes.
    frees : int
        The bytes that its removal alone frees: none of a file that has another name too.
    modified : float
        When it was last changed, in seconds since the epoch.
    made : str or None
        When it became a backup, in UTC, by the record; None if the record does not prove it.
    proven : bool
        Whether the record proves that a command made it.
    chosen : bool
        Whether it is to be removed.
    removed : bool
        Whether it was removed.
    reason : str
        Why it stays; empty if it does not.
    """

    path: str
    size: int
    frees: int
    modified: float
    made: str | None = None
    proven: bool = False
    chosen: bool = False
    removed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Cleaned:
    """The result of `clean`.

    Attributes
    ----------
    checkpoint : str
        The checkpoint.
    backups : tuple of CleanedBackup
        All that have the name of a backup, in the order of their numbers.
    frees : int
        The bytes that the removal of the chosen ones frees, or did free.
    dry_run : bool
        Whether nothing was to be removed.
    """

    checkpoint: str
    backups: tuple[CleanedBackup, ...]
    frees: int
    dry_run: bool

    @property
    def changes(self) -> bool:
        """Whether a backup was removed."""
        return any(backup.removed for backup in self.backups)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {**asdict(self), "backups": [asdict(backup) for backup in self.backups]}


@dataclass(frozen=True)
class _Conditions:
    """The conditions that a backup has to meet, all of them, to be removed."""

    before: datetime.datetime | None
    size: int | None
    keep: int | None

    def unmet(self, backup: Backup, made: datetime.datetime, newer: int) -> str:
        """Return a condition that a backup does not meet; empty if it meets all.

        Parameters
        ----------
        backup : Backup
            The backup.
        made : datetime.datetime
            When it became one.
        newer : int
            How many proven backups are newer.
        """
        if self.before is not None and made >= self.before:
            return f"it was made after {_shown(self.before)}"
        if self.size is not None and backup.size <= self.size:
            return f"it is not larger than {sized(self.size)}"
        if self.keep is not None and newer < self.keep:
            return "it is the newest" if self.keep == 1 else f"it is one of the {self.keep} newest"
        return ""


@dataclass(frozen=True)
class _Proof:
    """The proof that something is a backup: the entry of the log that tells of it. Or the reason why it is none."""

    at: int = -1
    made: datetime.datetime | None = None
    reason: str = ""


def clean(
    checkpoint: StrPath,
    *,
    older_than: str | datetime.timedelta | datetime.datetime | None = None,
    larger_than: int | str | None = None,
    keep: int | None = None,
    remove: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Cleaned:
    """Remove backups of a checkpoint, or tell which ones would be removed.

    Only a backup that the record of the checkpoint proves is ever removed, and only if it meets all given conditions,
    of which there has to be one. If the checkpoint is missing, damaged or cannot be read, all backups stay.

    Parameters
    ----------
    checkpoint : path
        The file or folder.
    older_than : str, timedelta or datetime, optional
        Backups that were made before: an age (``30d``, ``12h``, ``2w``), or a date or a moment in ISO 8601.
    larger_than : int or str, optional
        Backups of more bytes: a number, or a text such as ``10GB``.
    keep : int, optional
        All backups but so many, the newest ones that the record proves.
    remove : bool
        Remove them. By default, nothing is changed.
    verify : bool
        First check the CRC of every entry of the checkpoint.
    progress : callable, optional
        Called from time to time with the number of bytes that were checked.

    Raises
    ------
    UsageError
        There is no condition, or one cannot be read.
    BackupsStay
        The checkpoint is missing, damaged or cannot be read.
    Refused
        It is in a store, or one file of a set.
    MigrateError
        Another run is at work on it, or the system refused.

    Examples
    --------
    >>> for backup in clean("last.ckpt", older_than="30d", keep=1).backups:  # doctest: +SKIP
    ...     print(backup.path, backup.chosen, backup.reason)
    """
    conditions = _conditions(older_than, larger_than, keep)
    options = WriteOptions(dry_run=not remove, verify=verify, progress=progress)
    with _opened(checkpoint, options) as (place, log):
        try:
            with locked(place) if remove else contextlib.nullcontext():
                return _cleaned(checkpoint, place, log, conditions, remove)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            where = os.fsdecode(error.filename or place.parent)
            raise CannotWrite(
                f"its backups could not be {'removed' if remove else 'searched'} ({where}: {reason}); run the command "
                "again once that is fixed"
            ).about(checkpoint) from error


def _conditions(
    older_than: str | datetime.timedelta | datetime.datetime | None, larger_than: int | str | None, keep: int | None
) -> _Conditions:
    if older_than is None and larger_than is None and keep is None:
        raise UsageError("tell which backups may go: give --older-than AGE, --larger-than SIZE or --keep N")
    before = None if older_than is None else _moment(older_than)
    size = bytes_of(larger_than) if isinstance(larger_than, str) else larger_than
    if larger_than is not None and size is None:
        raise UsageError(f"{larger_than!r:.40} is no size; give one such as 10GB or 512MiB")
    if keep is not None and keep < 0:
        raise UsageError(f"{keep} is no number of backups to keep; give 0 or more")
    return _Conditions(before, size, keep)


def _moment(older_than: str | datetime.timedelta | datetime.datetime) -> datetime.datetime:
    """Return the moment before which a backup has to be made."""
    utc = datetime.timezone.utc
    try:
        if isinstance(older_than, datetime.timedelta):
            return datetime.datetime.now(utc) - older_than
        if isinstance(older_than, str):
            return datetime.datetime.fromtimestamp(parse_time(older_than), utc)
        return older_than.astimezone(utc)
    except (ValueError, OverflowError, OSError) as error:  # outside of the calendar
        raise UsageError(
            f"{older_than!r:.40} is too far from now; give an age such as 12h or 30d, or a date"
        ) from error


@contextlib.contextmanager
def _opened(checkpoint: StrPath, options: WriteOptions) -> Iterator[tuple[Path, tuple[LogEntry, ...]]]:
    """Open a checkpoint, and yield the file or folder of which it has backups, and its log."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_to_write(checkpoint, options))
            record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
        except _UNUSABLE as error:
            raise BackupsStay(error.sentence).about(checkpoint) from error
        if file.replaces is None:
            way = "use tools of the store, such as its rules for the life of objects"
            raise Refused(f"backups in a store are not removed; {way}").about(checkpoint)
        yield file.replaces, () if record is None else record.log


def _cleaned(
    checkpoint: StrPath, place: Path, log: tuple[LogEntry, ...], conditions: _Conditions, remove: bool
) -> Cleaned:
    rests = find_half_removed(place, [entry.backup for entry in log if entry.backup is not None])
    found = find_backups(place)
    proofs = [_proof(backup, log) for backup in found]
    told = [replace(_told(rest), proven=True, chosen=True) for rest in rests]
    told += [_judged(backup, proof, proofs, conditions) for backup, proof in zip(found, proofs, strict=True)]
    both = [*rests, *found]
    if remove:
        told = [_removed(place, backup, each) if each.chosen else each for backup, each in zip(both, told, strict=True)]
    frees = freed([file for backup, each in zip(both, told, strict=True) if each.chosen for file in backup.files])
    return Cleaned(os.fspath(checkpoint), tuple(told), frees, not remove)


def _proof(backup: Backup, log: Sequence[LogEntry]) -> _Proof:
    """Look for the entry of the log that tells of a backup, and compare it with the record of the backup itself."""
    if backup.facts is None:
        return _Proof(reason="it is neither a file nor a folder")
    at = next((at for at in reversed(range(len(log))) if log[at].backup == backup.facts), None)
    if at is None:
        return _Proof(reason="the record of the checkpoint does not prove that a command made it")
    try:
        made = datetime.datetime.fromisoformat(log[at].time).astimezone(datetime.timezone.utc)
    except (ValueError, OverflowError):
        return _Proof(reason="the record of the checkpoint does not tell when it was made")
    try:
        with open_backup(backup.path) as file:
            record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
    except MigrateError as error:
        return _Proof(reason=f"it cannot be read as a checkpoint ({error.sentence})")
    own = () if record is None else record.log
    if len(own) > at or own != tuple(log[: len(own)]):
        return _Proof(reason="its own record is not an earlier one of the checkpoint")
    return _Proof(at, made)


def _judged(backup: Backup, proof: _Proof, proofs: Sequence[_Proof], conditions: _Conditions) -> CleanedBackup:
    """Decide about a backup."""
    if proof.made is None:
        return replace(_told(backup), reason=proof.reason)
    newer = sum(each.at > proof.at for each in proofs)
    reason = conditions.unmet(backup, proof.made, newer)
    return replace(_told(backup), made=_shown(proof.made), proven=True, chosen=not reason, reason=reason)


def _told(backup: Backup) -> CleanedBackup:
    modified = backup.own.st_mtime if backup.facts is None else backup.facts.modified / 1e9
    return CleanedBackup(os.fspath(backup.path), backup.size, freed(backup.files), modified)


def _removed(place: Path, backup: Backup, told: CleanedBackup) -> CleanedBackup:
    """Remove a backup."""
    if remove_backup(place, backup):
        return replace(told, removed=True)
    return replace(told, chosen=False, reason="another program changed it in the meantime")


def _shown(when: datetime.datetime) -> str:
    return when.isoformat(timespec="seconds")
