"""Errors about checkpoint files and their content."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from anemoi_ckpt_migrate.errors.base import MigrateError, Refused, shown_path

_MOST = 5  # differences in a sentence


class NotACheckpoint(MigrateError):
    """The file cannot be read as a checkpoint."""


class Damaged(NotACheckpoint):
    """Entries of the file are damaged: their CRCs do not match."""

    def __init__(self, records: Sequence[str]) -> None:
        self.records = tuple(records)
        more = f" and {len(records) - 3} more" if len(records) > 3 else ""
        names = f"{', '.join(records[:3])}{more} {'is' if len(records) == 1 else 'are'} damaged"
        super().__init__(f"{names}, by CRC; `ckpt-migrate inspect --verify` says which tensors that is; take a backup")


class CannotBuild(NotACheckpoint):
    """A class of a trusted module does not accept the data of the checkpoint."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"an object of a trusted module cannot be built ({what}); without the module in `trusted` it stays opaque"
        )


class CannotRead(MigrateError):
    """The file cannot be read."""


class CannotWrite(MigrateError):
    """The result could not be written; the checkpoint is unchanged."""


class NoRoom(CannotWrite):
    """There is too little space for the result; nothing was written."""

    def __init__(self, needed: int, free: int, where: str) -> None:
        self.needed, self.free = needed, free
        super().__init__(
            f"it needs {needed:,} bytes, and {where} is {free:,} bytes; write to another disk with --output, or raise "
            "the limit (nothing was written)"
        )


class TooMuchAsked(MigrateError):
    """The recorded rollbacks would make far more data than the checkpoint has."""

    def __init__(self, count: int, length: int) -> None:
        self.count, self.length = count, length
        super().__init__(
            f"its record asks for {count:,} new bytes to undo what was applied to a checkpoint of {length:,} bytes; "
            "it is damaged or hostile: inspect it, and `stamp --purge` it if you trust the tensors"
        )


class Busy(MigrateError):
    """Another run is writing the same checkpoint."""

    def __init__(self, lock: str, holder: str = "", stale: bool = False) -> None:
        self.lock, self.holder = lock, holder
        who = f"another ckpt-migrate{f' ({holder})' if holder else ''} is writing this file"
        way = f", or was killed while it did: if none is, remove {shown_path(lock)}" if stale else ""
        super().__init__(f"{who}{way}; run the command again when it is done")


class HalfWritten(MigrateError):
    """Appending to a file failed, and so did restoring it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"writing failed, and the old file could not be put back ({reason}): its bytes are all there; "
            "when the disk is well again, `ckpt-migrate recover` cuts off what follows them"
        )


class ForeignJournal(MigrateError):
    """The journal beside a file does not describe it."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        super().__init__(
            f"{shown_path(journal)} is not the journal of an interrupted run on this file as it is now; "
            "if the file was replaced since, or this is something else, remove it or move it away"
        )


class InTheWay(MigrateError):
    """A foreign file has the name of a file that has to be made beside the checkpoint."""

    def __init__(self, path: str, role: str) -> None:
        self.path, self.role = path, role
        super().__init__(
            f"{shown_path(path)} has the name of this checkpoint's {role}, but ckpt-migrate did not make it; "
            "nothing was changed: remove it or move it away"
        )


class MemberOfSet(Refused):
    """The file is a checkpoint only together with others."""

    def __init__(self, kind: str, name: str, way: str) -> None:
        self.kind, self.name, self.way = kind, name, way
        super().__init__(f"it is part of {kind} ({shown_path(name)}) and cannot be migrated alone; {way}")


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
        super().__init__(f"the file has {others} (hard links), under which it would change too; leave out --in-place")


class NotInPlace(Refused):
    """The file has a format that cannot be written in place."""

    def __init__(self, why: str, instead: str) -> None:
        self.why, self.instead = why, instead
        super().__init__(f"{why}; leave out --in-place, and {instead}")


class DamagedRecord(MigrateError):
    """The record in a checkpoint is damaged."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the migration record in the checkpoint is damaged ({what}); `ckpt-migrate stamp` writes a new one"
        )


class DamagedLedger(MigrateError):
    """The list in which another tool notes migrations is damaged."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(
            f"the list `{key}` in the checkpoint is damaged ({what}); say what the checkpoint is with "
            "`ckpt-migrate stamp TARGET CKPT`, which leaves the list alone"
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
            f"a checkpoint that is a {kind:.60} has no place for a record until it is a file: "
            "save it inside of a dict, or `ckpt-migrate stamp` the file afterwards"
        )


class NotUpgraded(Refused):
    """The checkpoint cannot be upgraded while it is loaded."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the checkpoint cannot be upgraded as it is loaded ({why}); `ckpt-migrate upgrade` it first, as a file"
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
        anew = "`ckpt-migrate manifest --update` writes it anew"
        way = "take it from version control, or remove it" if earlier else anew
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
        way = f"`ckpt-migrate stamp auto {shlex.quote(checkpoint)}` finds where it stands"
        way += "; --no-check-model takes it as it is"
        super().__init__(
            f"it holds no record, so it would be at base, and it is not what the model {model} is there "
            f"({_several(differences)}): {way}{_sizes(sizes)}"
        )


class NotOnePlace(Refused):
    """The parameters of the checkpoint fit several revisions, or none."""

    lines = True

    def __init__(self, sentence: str, places: Sequence[str]) -> None:
        self.places = tuple(places)
        super().__init__("\n    ".join([sentence, *places]))


class NotAsExpected(Refused):
    """The result would not match the manifest or the project's model."""

    def __init__(self, model: str, revision: str, differences: Sequence[str], sizes: bool = False) -> None:
        self.model, self.revision, self.differences = model, revision, tuple(differences)
        way = "mend the scripts or the manifest; --no-check-model writes it all the same"
        super().__init__(
            f"it would not be what the model {model} is at {revision} ({_several(differences)}): {way}{_sizes(sizes)}"
        )


def _sizes(only: bool) -> str:
    told = "; if sizes depend on hyper-parameters, the function that makes the model has to take `hyper_parameters`"
    return told if only else ""


def _several(sentences: Sequence[str]) -> str:
    more = f", and {len(sentences) - _MOST} more" if len(sentences) > _MOST else ""
    return ", ".join(sentences[:_MOST]) + more
