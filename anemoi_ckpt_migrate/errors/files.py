"""Errors about checkpoint files and their content."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from anemoi_ckpt_migrate.errors.base import USAGE, MigrateError, Refused, UsageError, shown_path

_MOST = 5  # differences in a sentence


class NotACheckpoint(MigrateError):
    """The file cannot be read as a checkpoint."""


class ForeignFile(NotACheckpoint):
    """The file is of another format, by its first bytes or its content."""


class UnknownContent(NotACheckpoint):
    """The file is empty, or of no format that is known: nothing in it tells that it should be a checkpoint."""


class Unrelated(Refused):
    """Nothing tells that the checkpoint belongs to the project."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"{why}, so it was left alone; to migrate it, name it itself, or give --include with its name")


class HasRecord(Refused):
    """The checkpoint has a record already, so its revision need not be found."""

    def __init__(self, heads: Sequence[str]) -> None:
        self.heads = tuple(heads)
        super().__init__(f"it has a record and is at {', '.join(heads)}: --purge discards the record first")


class NoneFound(MigrateError):
    """There is no checkpoint where you said."""

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"no checkpoint was found in {where}; if that is no error, give --allow-empty")


class Damaged(NotACheckpoint):
    """Entries of the file are damaged: their CRCs do not match."""

    def __init__(self, records: Sequence[str]) -> None:
        self.records = tuple(records)
        more = f" and {len(records) - 3} more" if len(records) > 3 else ""
        names = f"{', '.join(records[:3])}{more} {'is' if len(records) == 1 else 'are'} damaged"
        super().__init__(f"{names} (wrong checksum); `ckpt-migrate inspect --verify` names the tensors; use a backup")


class CannotBuild(NotACheckpoint):
    """A class of a trusted module does not accept the data of the checkpoint."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"cannot build an object of a trusted module ({what}); to keep it opaque, remove the module from `trusted`"
        )


class NoCheckpointInFolder(MigrateError):
    """The path is that of a folder that is no checkpoint, or the URL is that of such a prefix."""

    exit_code = USAGE

    def __init__(self, in_store: bool = False) -> None:
        super().__init__(
            "it is a prefix, not a checkpoint; name each checkpoint below it, as --recursive searches local folders "
            "only"
            if in_store
            else "it is a directory, not a checkpoint; give --recursive for all checkpoints below it"
        )


class CannotRead(MigrateError):
    """The file cannot be read."""


class NotAReport(UsageError):
    """The file is no report, or none that this version can read."""


class DamagedReport(MigrateError):
    """A line of a report is damaged."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"line {number} of the report is damaged; remove the line, or restore the file")


class NoStoreLibrary(CannotRead):
    """The library for the store of a URL is not installed."""

    def __init__(self, scheme: str, library: str) -> None:
        self.scheme, self.library = scheme, library
        super().__init__(
            f"{scheme}:// needs {library or 'a library'}, which cannot be imported; run "
            "`pip install 'ckpt-migrate[remote]'`"
        )


class CannotWrite(MigrateError):
    """The result could not be written; the checkpoint is unchanged.

    Attributes
    ----------
    disk_is_full : bool
        Whether the disk has no room, so that other checkpoints will fail too.
    """

    disk_is_full = False


class DiskFull(CannotWrite):
    """The disk, or your quota of it, is full; the checkpoint is unchanged."""

    disk_is_full = True


class NoRoom(CannotWrite):
    """There is too little space for the result, or the process may not write so much; nothing was written."""

    def __init__(self, needed: int, free: int, where: str, disk_is_full: bool = True) -> None:
        self.needed, self.free, self.disk_is_full = needed, free, disk_is_full
        super().__init__(
            f"the result needs {needed:,} bytes, but {where} is {free:,} bytes; write to another disk with "
            "--output, or raise the limit (nothing was written)"
        )


class TooMuchAsked(MigrateError):
    """The recorded rollbacks would make far more data than the checkpoint has."""

    def __init__(self, count: int, length: int) -> None:
        self.count, self.length = count, length
        super().__init__(
            f"the rollbacks in its record would make {count:,} new bytes for a checkpoint of {length:,} bytes; "
            "the record is damaged or hostile: inspect the file, and `stamp --purge` it if you trust the tensors"
        )


class Busy(MigrateError):
    """Another run is writing the same checkpoint."""

    def __init__(self, lock: str, holder: str = "", stale: bool = False) -> None:
        self.lock, self.holder = lock, holder
        who = f"another ckpt-migrate{f' ({holder})' if holder else ''} is writing this file"
        way = f", or was killed while writing it: if no other runs, remove {shown_path(lock)}; then"
        super().__init__(f"{who}{way if stale else '; wait until it has ended, and'} run the command again")


class HalfWritten(MigrateError):
    """Writing into a file failed, and so did restoring it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"writing failed, and so did restoring the old file ({reason}), of which all bytes are there; "
            "once the disk works again, `ckpt-migrate recover` makes the file whole"
        )


class ForeignJournal(MigrateError):
    """The journal beside a file does not describe it."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        super().__init__(
            f"{shown_path(journal)} is not the journal of an interrupted run on this file as it is now; "
            "if the file has been replaced since, remove the journal or move it away"
        )


class InTheWay(MigrateError):
    """A foreign file has the name of a file that has to be made beside the checkpoint."""

    def __init__(self, path: str, role: str) -> None:
        self.path, self.role = path, role
        super().__init__(
            f"{shown_path(path)} has the name of this checkpoint's {role}, but ckpt-migrate did not write it; "
            "nothing was changed: remove it or move it away"
        )


class MemberOfSet(Refused):
    """The file is a checkpoint only together with others."""

    def __init__(self, kind: str, name: str, way: str) -> None:
        self.kind, self.name, self.way = kind, name, way
        super().__init__(f"it is part of {kind} ({shown_path(name)}), which can only be migrated as a whole; {way}")


class SeveralArchives(Refused):
    """The file consists of several zip archives, of which only the last one is visible."""

    def __init__(self, way: str) -> None:
        self.way = way
        super().__init__(
            "it holds several archives, one after the other, as the files of a distributed checkpoint "
            f"(torch.distributed.checkpoint) do; {way}"
        )


class ReadOnly(Refused):
    """The file is write-protected."""

    def __init__(self) -> None:
        super().__init__("it is read-only; allow writing with `chmod u+w`, or write elsewhere with --output")


class HasOtherNames(Refused):
    """The file has other names (hard links), and writing in place would change it under these too."""

    def __init__(self, names: int) -> None:
        self.names = names
        others = "another name" if names == 1 else f"{names} other names"
        super().__init__(f"the file has {others} (hard links), which --in-place would change too; leave it out")


class NotInPlace(Refused):
    """The file has a format that cannot be written in place."""

    def __init__(self, why: str, instead: str) -> None:
        self.why, self.instead = why, instead
        super().__init__(f"{why}; leave out --in-place, and {instead}")


class BackupsStay(MigrateError):
    """The checkpoint cannot be used, so none of its backups is removed."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"{why}; its backups stay, since one of them may be the only good copy")


class DamagedRecord(MigrateError):
    """The record in a checkpoint is damaged."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the migration record in the checkpoint is damaged ({what}); `ckpt-migrate stamp` writes a new one"
        )


class RecordCopyDiffers(MigrateError):
    """The copy of a record tells something else than the record."""

    def __init__(self, path: object) -> None:
        super().__init__(
            "the copy of its record, which `current` shows, tells something else than the record in the checkpoint, so "
            f"someone changed one of them; `ckpt-migrate compact {path}` makes a new copy from the record"
        )


class DamagedStash(MigrateError):
    """A value that a record keeps for a downgrade is missing or damaged."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"a value that its record keeps for a downgrade is missing or damaged ({what}); restore it from a "
            "backup, or discard the record with `ckpt-migrate stamp --purge REV`"
        )


class DamagedLedger(MigrateError):
    """The list in which another tool notes migrations is damaged."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(
            f"the list `{key}` in the checkpoint is damaged ({what}); record its revision with "
            "`ckpt-migrate stamp TARGET CKPT`, which does not touch the list"
        )


class NewerRecord(MigrateError):
    """The record was written by a newer version of this tool."""

    def __init__(self, found: object, known: int) -> None:
        shown = found if isinstance(found, int) and abs(found) < 1 << 32 else "of another kind"
        super().__init__(f"the migration record has format {shown}, this version reads {known}: upgrade ckpt-migrate")


class NoPlaceForRecord(Refused):
    """A checkpoint in memory has no place for a record."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(
            f"a {kind:.60} in memory has no place for a record: "
            "save it inside a dict, or `ckpt-migrate stamp` the file after saving"
        )


class NotUpgraded(Refused):
    """The checkpoint cannot be upgraded while it is loaded."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"a loaded checkpoint cannot be upgraded ({why}); run `ckpt-migrate upgrade` on the file first"
        )


class Unpicklable(MigrateError):
    """The tree holds a value that cannot be written to a file."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where} cannot be saved ({what}); nothing was changed")


class DamagedManifest(MigrateError):
    """A manifest is damaged; if `earlier` is set, it is that of earlier revisions, which cannot be rebuilt."""

    def __init__(self, manifest: str, what: str, earlier: bool = False) -> None:
        self.manifest, self.what, self.earlier = manifest, what, earlier
        anew = "`ckpt-migrate manifest --update` writes a new one"
        way = "restore it from version control, or remove it" if earlier else anew
        super().__init__(f"the manifest {shown_path(manifest)} cannot be used ({what}); {way}")


class NewerManifest(MigrateError):
    """The manifest was written by a newer version of this package."""

    def __init__(self, manifest: str, number: int, known: int) -> None:
        self.manifest, self.number, self.known = manifest, number, known
        super().__init__(
            f"the manifest {shown_path(manifest)} has format {number}, this version reads {known}: upgrade ckpt-migrate"
        )


class NotAtBase(Refused):
    """The checkpoint has no record, and its parameters are not those of base."""

    def __init__(self, model: str, differences: Sequence[str], checkpoint: str, sizes: bool = False) -> None:
        self.model, self.differences = model, tuple(differences)
        way = f"`ckpt-migrate stamp auto {shlex.quote(checkpoint)}` finds its revision"
        way += "; --no-check-model skips this comparison"
        super().__init__(
            f"it has no record, so it should be at base, but it does not match the model {model} there "
            f"({_several(differences)}): {way}{_sizes(sizes)}"
        )


class NotOnePlace(Refused):
    """The parameters of the checkpoint fit several revisions, or none."""

    lines = True

    def __init__(self, sentence: str, places: Sequence[str]) -> None:
        self.places = tuple(places)
        super().__init__("\n    ".join([sentence, *places]))


class NothingInCommon(NotOnePlace):
    """A checkpoint has no parameter of a known model."""


class NotAsExpected(Refused):
    """The result would not match the manifest or the project's model."""

    def __init__(self, model: str, revision: str, differences: Sequence[str], sizes: bool = False) -> None:
        self.model, self.revision, self.differences = model, revision, tuple(differences)
        way = "fix the scripts or the manifest, or skip this comparison with --no-check-model"
        super().__init__(
            f"the result would not match the model {model} at {revision} ({_several(differences)}): {way}"
            f"{_sizes(sizes)}"
        )


class OtherOrder(Refused):
    """An optimizer would give the moments of parameters to others, because the model has another order.

    Parameters
    ----------
    model, revision : str
        The model, and the revision at which the result would be.
    what : str
        The first difference.
    operations : sequence of str
        The operations, as in a script, that bring the parameters into the order of the model.
    """

    lines = True

    def __init__(self, model: str, revision: str, what: str, operations: Sequence[str]) -> None:
        self.model, self.revision, self.operations = model, revision, tuple(operations)
        super().__init__(
            "\n    ".join(
                [
                    f"the parameters of the result would be in another order than those of the model {model} at "
                    f"{revision}: {what}; this operation, in a script on the way, puts both in order "
                    "(--no-check-model skips this comparison):",
                    *operations,
                ]
            )
        )


def _sizes(only: bool) -> str:
    told = "; if sizes depend on hyper-parameters, let the function that makes the model take `hyper_parameters`"
    return told if only else ""


def _several(sentences: Sequence[str]) -> str:
    more = f", and {len(sentences) - _MOST} more" if len(sentences) > _MOST else ""
    return ", ".join(sentences[:_MOST]) + more
