"""Errors about declarative operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anemoi_ckpt_migrate.errors.base import MigrateError, Refused, shown_path

_MOST = 20


class BadOperation(MigrateError):
    """The operation makes no sense on any checkpoint."""


class OperationFault(NamedTuple):
    """One reason why an operation cannot be applied to a checkpoint.

    Attributes
    ----------
    where : str
        The script, or ``<record>``.
    operation : str
        The operation, as in the script.
    what : str
        The reason.
    """

    where: str
    operation: str
    what: str

    def __str__(self) -> str:
        return f"{shown_path(self.where)}: {self.operation}: {self.what}"


class CannotApply(MigrateError):
    """Operations cannot be applied to the checkpoint; the message lists all faults, in all steps of the plan."""

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
    """Torch cannot make a tensor."""

    def __init__(self, kind: str, shape: Sequence[int], dtype: str, why: str) -> None:
        super().__init__(
            f"torch cannot make a tensor of shape {list(shape)} and dtype {dtype} ({kind}): {why}; nothing was changed"
        )


class NoWayBack(Refused):
    """There is no rollback: it would be lost, or the record has none."""

    def __init__(self, revision: str, why: str) -> None:
        self.revision, self.why = revision, why
        super().__init__(f"{revision} cannot be undone: {why}")


class NowhereToKeep(Refused):
    """The checkpoint is a bare state dict or a pickled model, with no place for stashed values."""

    def __init__(self) -> None:
        super().__init__(
            "the old values (keep=True, or a replaced item) need a place in the checkpoint, and a bare state dict or a "
            "pickled model has none; save it inside a dict, or leave out keep=True"
        )


class TooMuchToKeep(Refused):
    """Old values are larger than the record of the file may be.

    Parameters
    ----------
    size : int
        The bytes of the largest of them.
    name : str
        Its name.
    others : int
        The bytes of old values that the record holds already.
    most : int
        The most that it may hold.
    """

    def __init__(self, size: int, name: str, others: int, most: int) -> None:
        self.size, self.name, self.others, self.most = size, name, others, most
        has = f" and holds {others:,} already" if others else ""
        super().__init__(
            f"{name} ({size:,} bytes) cannot be kept for the downgrade (keep=True): the record of a safetensors file "
            f"takes {most:,} bytes of tensors in all{has}; write keep=False, or migrate a file of torch.save with the "
            "same tensors"
        )


class NotProven(Refused):
    """The rollback does not restore the previous state."""

    def __init__(self, revision: str, where: str, what: str) -> None:
        self.revision, self.where, self.what = revision, where, what
        super().__init__(
            f"the rollback of {revision} is not the inverse of its migration: {where}: {what}; nothing was changed"
        )


class OutputsDiffer(Refused):
    """The upgraded checkpoint gives other outputs.

    Parameters
    ----------
    function : str
        The function that computed them.
    other : str
        The other outputs, in words: ``before``, or ``in FILE``.
    what : str
        The difference.
    """

    def __init__(self, function: str, other: str, what: str) -> None:
        self.function, self.what = function, what
        super().__init__(f"the outputs of {function} differ from those {other}: {what}; nothing was changed")
