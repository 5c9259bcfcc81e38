"""What can be wrong with declarative operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anemoi_ckpt_migrate.errors.base import MigrateError, Refused, shown_path

_MOST = 20


class BadOperation(MigrateError):
    """An operation that makes no sense, wherever it is applied."""


@dataclass(frozen=True)
class OperationFault:
    """One thing that an operation cannot do on a checkpoint.

    Attributes
    ----------
    where : str
        The script, or ``<record>``.
    operation : str
        As the script spells it.
    what : str
        What is wrong.
    """

    where: str
    operation: str
    what: str

    def __str__(self) -> str:
        return f"{shown_path(self.where)}: {self.operation}: {self.what}"


class CannotApply(MigrateError):
    """Operations that cannot be applied to a checkpoint: all that is wrong, in all steps of the plan."""

    lines = True

    def __init__(self, faults: Sequence[OperationFault], hint: str = "") -> None:
        self.faults = tuple(faults)
        shown = [str(fault) for fault in faults[:_MOST]]
        if len(faults) > _MOST:
            shown.append(f"and {len(faults) - _MOST} more")
        if len(faults) == 1:
            sentence = f"{shown[0]}; nothing was changed{hint and f'; {hint}'}"
        else:
            sentence = "\n  ".join(
                [f"{len(faults)} operations cannot be applied, and nothing was changed:", *shown, *filter(None, [hint])]
            )
        super().__init__(sentence)


class CannotMake(MigrateError):
    """A tensor that torch does not make as it is told to."""

    def __init__(self, kind: str, shape: Sequence[int], dtype: str, why: str) -> None:
        super().__init__(
            f"a tensor of the shape {list(shape)} and the dtype {dtype} cannot be made ({kind}): {why}; "
            "nothing was changed"
        )


class NoWayBack(Refused):
    """A rollback that would be lost, or that the record cannot give."""

    def __init__(self, revision: str, why: str) -> None:
        self.revision, self.why = revision, why
        super().__init__(f"{revision} cannot be undone: {why}")


class NowhereToKeep(Refused):
    """A checkpoint that is a plain dict of tensors, or a pickled model, has no place for what is put aside."""

    def __init__(self) -> None:
        super().__init__(
            "something is to be put aside (keep=True, or an item that is replaced), and a plain dict of tensors or a "
            "pickled model has no place for it; leave out keep=True, or save it inside a dict"
        )


class NotProven(Refused):
    """The way back does not lead to what was there before."""

    def __init__(self, revision: str, where: str, what: str) -> None:
        self.revision, self.where, self.what = revision, where, what
        super().__init__(
            f"the rollback of {revision} is not the inverse of its migration: {where}: {what}; nothing was changed"
        )
