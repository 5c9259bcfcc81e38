"""What can go wrong, as exceptions that carry fields and say one clear sentence.

Every exception here knows the exit code of the command line; nothing else does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

ERROR, USAGE, REFUSED = 1, 2, 3


def shown_path(path: str) -> str:
    """Return a path as messages show it: relative where that is shorter."""
    return path if path.startswith("<") else min(path, os.path.relpath(path), key=len)


class MigrateError(Exception):
    """Something is wrong that the user can put right.

    Attributes
    ----------
    exit_code : int
        What the command line exits with.
    sentence : str
        What happened and the way out.
    checkpoint : str or None
        The file it is about.
    """

    exit_code = ERROR

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.checkpoint: str | None = None

    def about(self, checkpoint: str | os.PathLike[str]) -> MigrateError:
        """Say which checkpoint the error is about, and return the error."""
        self.checkpoint = self.checkpoint or os.fspath(checkpoint)
        return self

    def __str__(self) -> str:
        return f"{self.checkpoint}: {self.sentence}" if self.checkpoint else self.sentence


class UsageError(MigrateError):
    """The command line, or the arguments of a function, make no sense."""

    exit_code = USAGE


class Refused(MigrateError):
    """Nothing is broken, but it must not be done."""

    exit_code = REFUSED


class NotACheckpoint(MigrateError):
    """A file that cannot be read as a checkpoint."""


class Damaged(NotACheckpoint):
    """Records whose content is not what was written."""

    def __init__(self, records: Sequence[str]) -> None:
        self.records = tuple(records)
        more = f" and {len(records) - 3} more" if len(records) > 3 else ""
        names = f"{', '.join(records[:3])}{more} {'is' if len(records) == 1 else 'are'} damaged"
        super().__init__(f"{names}, by CRC; `ckpt-migrate inspect --verify` says which tensors that is; take a backup")


class CannotBuild(NotACheckpoint):
    """A class of a trusted module did not take what the checkpoint has for it."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"an object of a trusted module cannot be built ({what}); without the module in `trusted` it stays opaque"
        )


class CannotRead(MigrateError):
    """A file that the system does not let us read."""


class CannotWrite(MigrateError):
    """The result could not be written; the checkpoint is as it was."""


class Busy(MigrateError):
    """Another run is writing the same checkpoint."""

    def __init__(self, lock: str, holder: str = "", stale: bool = False) -> None:
        self.lock, self.holder = lock, holder
        who = f"another ckpt-migrate{f' ({holder})' if holder else ''} is writing this file"
        way = f", or was killed while it did: if none is, remove {shown_path(lock)}" if stale else ""
        super().__init__(f"{who}{way}; run the command again when it is done")


class HalfWritten(MigrateError):
    """Writing at the end of a file failed, and so did putting it back."""

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
            f"the journal {shown_path(journal)} tells of an interrupted run, but not on this file as it is now; "
            "if the file was replaced since, remove the journal"
        )


class ReadOnly(Refused):
    """The file is protected from being changed."""

    def __init__(self) -> None:
        super().__init__("it is read-only; allow writing with `chmod u+w`, or write elsewhere with --output")


class HasOtherNames(Refused):
    """Writing in place would change the file under its other names too."""

    def __init__(self, names: int) -> None:
        self.names = names
        others = "another name" if names == 1 else f"{names} other names"
        super().__init__(f"the file has {others} (hard links), under which it would change too; leave out --in-place")


class NotInPlace(Refused):
    """The file is of a format that cannot grow."""

    def __init__(self) -> None:
        super().__init__(
            "it was saved by torch before 1.6, in a format that cannot grow; "
            "leave out --in-place, and a zip file takes its place"
        )


class ConfigurationError(MigrateError):
    """The project's configuration is wrong."""


class NoConfiguration(ConfigurationError):
    """There is no project here."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with a script.

    Attributes
    ----------
    path : str
        The script.
    line : int
        Line in it, from 1.
    message : str
        What is wrong.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{shown_path(self.path)}:{self.line}: {self.message}"


class FaultyScripts(MigrateError):
    """Scripts that cannot be used, all of them at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        many = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        super().__init__("\n  ".join([f"{many} in the migration scripts:", *map(str, self.faults)]))


class UnknownTarget(MigrateError):
    """A target that no revision answers to."""

    def __init__(self, target: str, near: Sequence[str] = ()) -> None:
        self.target, self.near = target, tuple(near)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ckpt-migrate history` lists what there is"
        super().__init__(f"no revision is called {target!r}; {hint}")


class AmbiguousTarget(MigrateError):
    """A partial id that fits several revisions."""

    def __init__(self, target: str, candidates: Sequence[str]) -> None:
        self.target, self.candidates = target, tuple(candidates)
        super().__init__(f"{target!r} is ambiguous: it may be {', '.join(candidates)}; write more of the id")


class SeveralHeads(MigrateError):
    """`head` where there are several."""

    def __init__(self, heads: Sequence[str]) -> None:
        self.heads = tuple(heads)
        super().__init__(
            f"there are {len(heads)} heads: {', '.join(heads)}; name one of them, or write `heads` for all"
        )


class NotThatMany(MigrateError):
    """`+N` or `-N` beyond the end."""

    def __init__(self, target: str, available: int, instead: str) -> None:
        self.target, self.available = target, available
        steps = {0: "no step is", 1: "only 1 step is"}.get(available, f"only {available} steps are")
        super().__init__(f"{target} asks for too much: {steps} left that way; write `{instead}` to go all the way")


class NotApplied(MigrateError):
    """A downgrade to a revision that the checkpoint does not have."""

    def __init__(self, revision: str, heads: Sequence[str]) -> None:
        self.revision, self.heads = revision, tuple(heads)
        at = f"is at {', '.join(heads)}" if heads else "is at base"
        super().__init__(
            f"{revision} is not among the revisions that the checkpoint has (it {at}); upgrade to it instead"
        )


class UnknownRecorded(MigrateError):
    """The checkpoint records revisions that no script knows."""

    def __init__(self, revisions: Sequence[str], known: Sequence[str]) -> None:
        self.revisions, self.known = tuple(revisions), tuple(known)
        back = f"`ckpt-migrate downgrade {known[0] if known else 'base'} CKPT --trust-checkpoint-code`"
        super().__init__(
            f"the checkpoint has {', '.join(revisions)}, which no script here knows; use the code that wrote it, "
            f"take it back with {back}, or correct the record with `ckpt-migrate stamp`"
        )


class HistoryConflict(MigrateError):
    """The record and the scripts tell different stories."""

    def __init__(self, missing: Sequence[str], child: str) -> None:
        self.missing, self.child = tuple(missing), child
        super().__init__(
            f"the checkpoint has {child} but not {', '.join(missing)}, which the scripts place before it; downgrade "
            f"below {child} first, or `ckpt-migrate stamp {child}` if the change is in the file already"
        )


class DamagedRecord(MigrateError):
    """The record in a checkpoint is not what this tool wrote."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the migration record in the checkpoint is damaged ({what}); `ckpt-migrate stamp` writes a new one"
        )


class NewerRecord(MigrateError):
    """The record was written by a newer version of this tool."""

    def __init__(self, found: object, known: int) -> None:
        shown = found if isinstance(found, int) and abs(found) < 1 << 32 else "of another kind"
        super().__init__(f"the migration record has format {shown}, this version reads {known}: upgrade ckpt-migrate")


class BarrierInTheWay(Refused):
    """A final revision lies between the checkpoint and the target."""

    def __init__(
        self, barrier: str, name: str, direction: str, reachable: str, package: str | None, version: str | None
    ):
        self.barrier, self.name, self.direction = barrier, name, direction
        self.reachable, self.package, self.version = reachable, package, version
        if direction == "upgrade":
            first = (
                f"; {package} {version} is the first version that can no longer use this checkpoint" if version else ""
            )
            way = f"the last revision it can reach is {reachable} (`upgrade barrier` goes there){first}"
        else:
            first = f"; {package} before {version} cannot use it" if version else ""
            way = f"it can be taken down to {reachable} (`downgrade barrier`) and no further{first}"
        super().__init__(f"barrier {barrier} ({name}) is in the way: {way}")


class Irreversible(Refused):
    """Steps of a downgrade that nothing undoes."""

    def __init__(self, revisions: Sequence[str], steps: int) -> None:
        self.revisions, self.steps = tuple(revisions), steps
        what = "has no rollback" if len(revisions) == 1 else "have no rollback"
        way = f"`downgrade -{steps}` undoes what can be undone, or " if steps else ""
        super().__init__(f"{', '.join(revisions)} {what}; {way}take a backup from before it was applied")


class UntrustedCode(Refused):
    """The way back is code that the checkpoint carries, and nobody said that it may run."""

    def __init__(self, revisions: Sequence[str], checkpoint: str) -> None:
        self.revisions = tuple(revisions)
        shows = f"`ckpt-migrate show {revisions[0]} --from {checkpoint}`"
        super().__init__(
            f"no script here knows {', '.join(revisions)}, and the rollback that the checkpoint carries runs only with "
            f"--trust-checkpoint-code; look at it first with {shows}"
        )


class Unpicklable(MigrateError):
    """The tree holds something that cannot be written to a file."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where} cannot be saved ({what}); nothing was changed")


class MigrationFailed(MigrateError):
    """A migration or rollback raised, or gave back something impossible."""

    def __init__(self, where: str, line: int | None, what: str) -> None:
        self.where, self.line, self.what = where, line, what
        place = f"{shown_path(where)}:{line}" if line else shown_path(where)
        super().__init__(f"{place}: {what}; nothing was changed")
