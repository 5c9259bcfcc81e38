"""Apply operations to names, shapes and dtypes without tensors, to see the result of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.state.name_patterns import Pattern
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.parameter_context import ParameterContext
from anemoi_ckpt_migrate.state.parameters import ParameterSet
from anemoi_ckpt_migrate.storage.tensors.shape_rules import outcome, place_between

Form = tuple[tuple[int, ...], str]
"""A shape and a dtype."""


class Forms:
    """Access to shapes and dtypes that take the place of tensors in a table."""

    def shape(self, value: Form) -> tuple[int, ...]:
        """Return the shape."""
        return value[0]

    def dtype(self, value: Form) -> str:
        """Return the dtype."""
        return value[1]

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Form]) -> Form:
        """Return the shape and the dtype of the result."""
        return outcome(kind, args, [shape for shape, _ in values], [dtype for _, dtype in values])

    def insert(self, value: Form, part: Form, dim: int, at: int | None) -> Form:
        """Return the shape and the dtype of a tensor with a part between its entries."""
        dim, at = place_between(value[0], part[0], dim, at)
        return outcome("pad", (dim, at, part[0][dim]), [value[0]], [value[1]])

    def same(self, one: Form, other: Form) -> bool:
        """Return whether shape and dtype are equal."""
        return one == other

    def keep(self, value: Form) -> Form:
        """Return it."""
        return value

    def kept(self, value: Form) -> Form:
        """Return it."""
        return value


class Model:
    """A model without tensors, to try operations on.

    Parameters
    ----------
    items : iterable of Item
        Its parameters, in order.

    Attributes
    ----------
    faults : list of str
        The faults found in the operations applied.
    losses : list of str
        The values that operations lost.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._parameters = ParameterSet("", Table((item.name, (item.shape, item.dtype)) for item in items), Forms())
        self.faults: list[str] = []
        self.losses: list[str] = []
        self._missing: list[Pattern] = []

    @property
    def names(self) -> list[str]:
        """Its names, in order."""
        return list(self._parameters.table)

    @property
    def table(self) -> Table:
        """The shape and dtype of each name."""
        return self._parameters.table

    def apply(self, operation: Operation) -> bool:
        """Apply an operation; return whether the model has no faults."""
        context = ParameterContext(self._parameters, missing=self._missing, undoes=False)
        outcome = context.outcome(operation.apply(context))
        self.faults += outcome.faults
        self.losses += outcome.losses
        self._missing += outcome.missing
        return not self.faults

    @property
    def items(self) -> tuple[Item, ...]:
        """Its parameters, in order."""
        everything = self._parameters.table.everything()
        return tuple(Item(name, shape, dtype) for name, (shape, dtype) in everything if name is not None)

    def is_exactly(self, items: Sequence[Item]) -> bool:
        """Return whether names, shapes, dtypes and order equal those of the given parameters."""
        found = [(name, form) for name, form in self._parameters.table.everything()]
        return not self.faults and found == [(item.name, (item.shape, item.dtype)) for item in items]


def losses(operations: Iterable[Operation], old: Sequence[Item]) -> list[str]:
    """Return the values that operations, applied in order, lose."""
    model = Model(old)
    for operation in operations:
        model.apply(operation)
    return model.losses


def leads_to(operations: Iterable[Operation], old: Sequence[Item], new: Sequence[Item]) -> bool:
    """Return whether operations, applied in order, turn old parameters into new ones."""
    model = Model(old)
    return all(map(model.apply, operations)) and model.is_exactly(new)
