"""The operation that says which parameters an optimizer has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    integer_of,
    integers_of,
    names_of,
    operation,
    read,
    set_fields,
)
from anemoi_ckpt_migrate.state.optimizer_slots import Slots
from anemoi_ckpt_migrate.state.parameters import Copy


@operation
class ParameterGroups(Operation):
    """Say which parameters an optimizer has, and in which order, where the checkpoint cannot tell.

    It changes nothing. It names parameters as they are called where it stands, before the operations that follow, and
    holds from there on.

    Parameters
    ----------
    groups : sequence of sequence of str
        For each group of the optimizer, names or patterns in its order. A pattern selects what may be a parameter: a
        floating-point or complex tensor that is no buffer of a batch norm. What a pattern selects that an earlier one
        selected too is left out: ``[["*.weight"], ["*"]]``.
    optimizer : int
        Which optimizer, if there are several, from 0.
    exclude : sequence of str
        Names or patterns of what none of the groups has, though a pattern selects it: buffers of your own, frozen
        parameters.
    own_order : sequence of int
        Groups that have an order of their own, though what is in them happens to stand in that of the state dict: what
        a record says where something comes back into such a group.
    """

    on_parameters = False
    noted = ("own_order",)
    groups: tuple[tuple[str, ...], ...]
    optimizer: int = 0
    exclude: tuple[str, ...] = ()
    own_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        integer_of(self, "optimizer", self.optimizer, 0)
        if not isinstance(self.groups, (tuple, list)) or any(isinstance(group, str) for group in self.groups):
            raise BadOperation("ParameterGroups: groups must be a list with a list of names for each group")
        set_fields(self, groups=tuple(names_of(self, "groups", group, 0) for group in self.groups))
        set_fields(self, exclude=names_of(self, "exclude", self.exclude, 0))
        set_fields(self, own_order=integers_of(self, "own_order", self.own_order))

    def inverse(self) -> Operation | None:
        """Return nothing: names are others then."""
        return None


@operation
class OptimizerPrefix(Operation):
    """Have an optimizer call its parameters what stands behind something in the state dict."""

    written = False
    prefix: str

    def __post_init__(self) -> None:
        set_fields(self, prefix=str(self.prefix))

    def apply(self, copy: Copy) -> list[Any]:
        """Have it call them so, as it did before its names followed others."""
        if isinstance(copy.values, Slots):
            copy.values.lead = self.prefix
        return []


@operation
class PerCopy(Operation):
    """Do something to the state dict, and something else to its copies: what a record holds where they differ."""

    written = False
    operations: tuple[Operation, ...]
    copies: Any

    def __post_init__(self) -> None:
        set_fields(
            self,
            operations=tuple(map(read, self.operations)),
            copies={path: tuple(map(read, own)) for path, own in self.copies.items()},
        )

    def __hash__(self) -> int:
        return hash(self.operations)


def by_place(operation: Operation) -> tuple[Sequence[Operation], Mapping[str, Sequence[Operation]]]:
    """Return what an operation does to the state dict, and what it does instead to copies of it, by their path."""
    return (operation.operations, operation.copies) if isinstance(operation, PerCopy) else ((operation,), {})
