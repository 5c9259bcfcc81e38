"""Errors about revisions: their scripts, targets, plans, and failures when they run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from anemoi_ckpt_migrate.errors.base import MigrateError, Refused, shown_path

_MOST = 10  # names in a sentence


class Fault(NamedTuple):
    """One fault of a script.

    Attributes
    ----------
    path : str
        The script.
    line : int
        The line, counted from 1.
    message : str
        The fault.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{shown_path(self.path)}:{self.line}: {self.message}"


class FaultyScripts(MigrateError):
    """Scripts cannot be used; the message lists all faults."""

    lines = True

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        many = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__("\n  ".join([f"{many} in the migration scripts:", *map(str, self.faults)]))


class UnknownTarget(MigrateError):
    """No revision matches the target."""

    def __init__(self, target: str, near: Sequence[str] = (), where: str = "history") -> None:
        self.target, self.near = target, tuple(near)
        shown = [name if name.isidentifier() else repr(name) for name in near]
        hint = f"did you mean {' or '.join(shown)}?" if near else f"`ckpt-migrate {where}` lists all of them"
        super().__init__(f"no revision is called {target!r}; {hint}")


class AmbiguousTarget(MigrateError):
    """A partial id or a name fits several revisions."""

    def __init__(self, target: str, candidates: Sequence[str]) -> None:
        self.target, self.candidates = target, tuple(candidates)
        more = f" and {len(candidates) - _MOST} more" if len(candidates) > _MOST else ""
        names = f"{', '.join(candidates[:_MOST])}{more}"
        super().__init__(f"{target!r} is ambiguous: it fits {names}; write more of the id")


class NotOnBranch(MigrateError):
    """``LABEL@REV`` names a revision that is not on the branch."""

    def __init__(self, revision: str, branch: str) -> None:
        self.revision, self.branch = revision, branch
        super().__init__(
            f"{revision} is neither on the branch {branch} nor below it; write {revision} alone, or {branch}@heads"
        )


class NoRelease(MigrateError):
    """The target is a version specifier, but no script notes a version of the package."""

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(
            f"no script notes a version of {package} in its metadata, so a target cannot name one; "
            "write a revision instead"
        )


class SeveralHeads(MigrateError):
    """The target is `head`, but there are several heads."""

    def __init__(
        self, heads: Sequence[str], names: Sequence[str] = (), everything: str | None = "heads", joined: str = ""
    ) -> None:
        self.heads, self.names, self.joined = tuple(heads), tuple(names or heads), joined
        more = f" and {len(heads) - _MOST} more" if len(heads) > _MOST else ""
        instead = ", ".join(f"`{name}`" for name in self.names[:_MOST])
        last = f", or `{everything}` for all of them" if everything else ""
        super().__init__(
            f"there are {len(heads)} heads: {', '.join(heads[:_MOST])}{more}; write {instead}{last} "
            f"(`ckpt-migrate merge {joined}NAME` joins them)"
        )


class NotThatMany(MigrateError):
    """`+N` or `-N` goes beyond the end of the history."""

    def __init__(self, target: str, available: int, instead: str | None = None) -> None:
        self.target, self.available = target, available
        steps = {0: "no revision is", 1: "only 1 revision is"}.get(available, f"only {available} revisions are")
        way = f"; write `{instead}` to go all the way" if instead else ""
        super().__init__(f"{target} goes too far: {steps} left in that direction{way}")


class SplitByTarget(Refused):
    """The target of a downgrade lies inside a squashed revision, which the checkpoint got as one step."""

    def __init__(self, target: str, squashed: str, below: str) -> None:
        self.target, self.squashed = target, squashed
        super().__init__(
            f"{target} is part of {squashed}, which the checkpoint got as one step; write {squashed} or {below} instead"
        )


class NotApplied(MigrateError):
    """The target of a downgrade is a revision that the checkpoint does not have."""

    def __init__(self, revision: str, heads: Sequence[str]) -> None:
        self.revision, self.heads = revision, tuple(heads)
        at = f"is at {', '.join(heads)}" if heads else "is at base"
        super().__init__(f"the checkpoint does not have {revision} (it {at}); use `upgrade` instead")


class UnknownRecorded(MigrateError):
    """The checkpoint records revisions that no script has; `runs` tells whether undoing them runs its code."""

    def __init__(self, revisions: Sequence[str], steps: int, names: Sequence[str] = (), runs: bool = True) -> None:
        self.revisions, self.steps = tuple(revisions), steps
        back = f"`ckpt-migrate downgrade -{steps} CKPT{' --trust-checkpoint-code' if runs else ''}`"
        elsewhere = names or [""] * len(revisions)
        titled = [f"{rev} ({name})" if name else rev for rev, name in zip(revisions, elsewhere, strict=True)]
        super().__init__(
            f"the checkpoint has {', '.join(titled)}, which no script here knows; use the project that wrote it, "
            f"undo with {back}, or write a new record with `ckpt-migrate stamp --purge TARGET CKPT`"
        )


class NotAtTarget(Refused):
    """Training would continue from a checkpoint that is at other revisions than the code."""

    def __init__(self, missing: Sequence[str], beyond: Sequence[str], target: str, chain: str = "") -> None:
        self.missing, self.beyond, self.target, self.chain = tuple(missing), tuple(beyond), target, chain
        revisions = missing or beyond
        more = f" and {len(revisions) - _MOST} more" if len(revisions) > _MOST else ""
        names = f"{', '.join(revisions[:_MOST])}{more}"
        what = f"lacks {names}, which your code has" if missing else f"has {names}, which your code lacks"
        command = f"ckpt-migrate --chain {shlex.quote(chain)}" if chain else "ckpt-migrate"
        way = "upgrade" if missing else "downgrade"
        place = f"{shlex.quote(target)} CKPT"
        super().__init__(
            f"the checkpoint {what}; before you resume, run `{command} {way} {place}` or, if your code wrote the file, "
            f"`{command} stamp {place}`"
        )


class HistoryConflict(MigrateError):
    """The record and the scripts contradict each other."""

    def __init__(self, missing: Sequence[str], child: str, heads: Sequence[str], late: bool = False) -> None:
        self.missing, self.child, self.heads, self.late = tuple(missing), child, tuple(heads), late
        what = f"got {child} before" if late else f"has {child} but not"
        super().__init__(
            f"the checkpoint {what} {', '.join(missing)}, which comes before it in the scripts; downgrade below "
            f"{child}, or run `ckpt-migrate stamp {','.join(heads)} CKPT` if the content of the file is right"
        )


class LedgerConflict(MigrateError):
    """The list of another tool in the checkpoint contradicts the scripts or the record."""

    def __init__(self, found: Sequence[str], expected: Sequence[str], key: str, recorded: bool = False) -> None:
        self.found, self.expected = tuple(found), tuple(expected)
        teller = "the record" if recorded else "the scripts"
        super().__init__(
            f"the checkpoint's list `{key}` ({_listed(found)}) contradicts {teller} ({_listed(expected)}): "
            "another tool changed it; use the file from before that, or write a new record with "
            "`ckpt-migrate stamp --purge TARGET CKPT`"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MOST], f"and {len(names) - _MOST} more"] if len(names) > _MOST else names) or "empty"


class OtherToolFailed(MigrateError):
    """The code that reads and updates the list of another tool is faulty."""

    def __init__(self, tool: str, module: str, what: str) -> None:
        super().__init__(
            f"the code for the migrations of {tool} {what:.200}: report this to the maintainers of {module}"
        )


class BarrierInTheWay(Refused):
    """A barrier lies between the checkpoint and the target."""

    def __init__(
        self, barrier: str, name: str, direction: str, reachable: str, package: str | None, version: str | None
    ):
        self.barrier, self.name, self.direction = barrier, name, direction
        self.reachable, self.package, self.version = reachable, package, version
        if direction == "upgrade":
            first = (
                f"; {package} {version} is the first version that can no longer use this checkpoint" if version else ""
            )
            way = f"the checkpoint can be upgraded as far as {reachable} (`upgrade barrier`){first}"
        else:
            first = f"; {package} before {version} cannot use it" if version else ""
            way = f"the checkpoint can be downgraded as far as {reachable} (`downgrade barrier`){first}"
        super().__init__(f"barrier {barrier} ({name}) is in the way: {way}")


class Irreversible(Refused):
    """Steps of a downgrade have no rollback."""

    def __init__(self, revisions: Sequence[str], steps: int) -> None:
        self.revisions, self.steps = tuple(revisions), steps
        what = "has no rollback" if len(revisions) == 1 else "have no rollback"
        way = f"run `downgrade -{steps}` to undo the revisions after it, or " if steps else ""
        super().__init__(f"{', '.join(revisions)} {what}; {way}use a backup from before it was applied")


class UntrustedCode(Refused):
    """The rollback is code that the checkpoint carries, and the user did not allow it to run."""

    def __init__(self, revisions: Sequence[str], checkpoint: str, why: str, readable: bool = True) -> None:
        self.revisions = tuple(revisions)
        shows = f"read it first with `ckpt-migrate show {revisions[0]} --from {shlex.quote(checkpoint)}`"
        super().__init__(
            f"{why}, and the rollback that the checkpoint carries runs only with "
            f"--trust-checkpoint-code; {shows if readable else 'it is a pickle, which cannot be read first'}"
        )


class DangerousNames(Refused):
    """The pickle would newly name functions that can run code when it is loaded."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        shown = ", ".join(f"{name:.80}" for name in names[:_MOST])
        super().__init__(
            f"the file would newly name {shown}{more}, which can run any code when the file is loaded, "
            "and no operation of a script spells that name out; --trust-checkpoint-code allows it"
        )


class MigrationFailed(MigrateError):
    """A migration or rollback raised an error, or returned an unusable value."""

    def __init__(self, where: str, line: int | None, what: str) -> None:
        self.where, self.line, self.what = where, line, what
        place = f"{shown_path(where)}:{line}" if line else shown_path(where)
        super().__init__(f"{place}: {what}; nothing was changed")


class RecogniseFailed(MigrationFailed):
    """The project's `recognise` raised an error on the checkpoint."""
