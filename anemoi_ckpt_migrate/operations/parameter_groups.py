"""Operations that declare the parameters of an optimizer, and one for operations that differ between copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    Runner,
    integer_of,
    integers_of,
    names_of,
    operation,
    read,
    set_fields,
)
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.state.optimizer_slots import Slots

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


@operation
class ParameterGroups(Operation):
    """Declare which parameters an optimizer has, and their order, if these cannot be found in the checkpoint.

    It changes nothing. It uses the names that parameters have at its position in the list of operations, and applies
    to all later operations.

    Parameters
    ----------
    groups : sequence of sequence of str
        For each group of the optimizer, names or patterns in its order. A pattern selects only possible parameters:
        floating-point and complex tensors, except the buffers of batch norms. A name that several patterns select
        belongs to the first: ``[["*.weight"], ["*"]]``.
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    exclude : sequence of str
        Names or patterns of tensors that no group has, although a pattern selects them: your own buffers, frozen
        parameters.
    own_order : sequence of int
        Indices of groups that have their own order, although their current parameters happen to be in the order of the
        state dict. Only records contain it, for groups to which a downgrade restores parameters.
    foreign : sequence of str
        Names for parameters of the optimizer that the state dict does not have, such as the weights of a loss. Each
        stands in `groups` at its position, and is carried along: ``[["*", "loss.weight"]], foreign=["loss.weight"]``.
    """

    on_parameters = False
    noted = ("own_order",)
    groups: tuple[tuple[str, ...], ...]
    optimizer: int = 0
    exclude: tuple[str, ...] = ()
    own_order: tuple[int, ...] = ()
    foreign: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        integer_of(self, "optimizer", self.optimizer, 0)
        if not isinstance(self.groups, (tuple, list)) or any(isinstance(group, str) for group in self.groups):
            raise BadOperation("ParameterGroups: groups must be a list of lists of names, one for each group")
        set_fields(self, groups=tuple(names_of(self, "groups", group, 0) for group in self.groups))
        set_fields(self, exclude=names_of(self, "exclude", self.exclude, 0))
        set_fields(self, own_order=integers_of(self, "own_order", self.own_order))
        set_fields(self, foreign=names_of(self, "foreign", self.foreign, 0))
        listed = [name for group in self.groups for name in group]
        for name in self.foreign:
            if pattern(name).open:
                raise BadOperation(f"ParameterGroups: foreign must list names, and {name} is a pattern")
            if listed.count(name) != 1:
                raise BadOperation(f"ParameterGroups: groups must list {name}, which is foreign, once")

    def perform(self, runner: Runner) -> list[Operation]:
        """Use the declaration for the operations that follow."""
        return runner.declare_groups(self)

    def inverse(self) -> Operation | None:
        """Return None: the names are different on the downgrade."""
        return None


@operation
class OptimizerPrefix(Operation):
    """Set the prefix that names have in the state dict but not in an optimizer that stores names."""

    written = False
    prefix: str

    def __post_init__(self) -> None:
        set_fields(self, prefix=str(self.prefix))

    def apply(self, context: ParameterContext) -> list[Any]:
        """Set the prefix of an optimizer; other copies stay as they are."""
        if isinstance(context.values, Slots):
            context.values.set_prefix(self.prefix)
        return []


@operation
class PerCopy(Operation):
    """Apply operations to the state dict, and others to some copies; used in records if rollbacks differ."""

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

    def per_copy(self) -> tuple[Sequence[Operation], Mapping[str, Sequence[Operation]]]:
        """Return the operations for the state dict, and the different ones for copies, by path."""
        return self.operations, self.copies
