"""Operations applied to nothing but names, shapes and dtypes: what a plan leads to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.parameters import Copy
from anemoi_ckpt_migrate.storage.tensors.shape_rules import outcome

Form = tuple[tuple[int, ...], str]
"""A shape and a dtype."""


class Forms:
    """Shapes and dtypes as what the names of a table stand for."""

    def shape(self, value: Form) -> tuple[int, ...]:
        """Return the shape."""
        return value[0]

    def dtype(self, value: Form) -> str:
        """Return the dtype."""
        return value[1]

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Form]) -> Form:
        """Return the shape and the dtype of what is made."""
        return outcome(kind, args, [shape for shape, _ in values], [dtype for _, dtype in values])

    def same(self, one: Form, other: Form) -> bool:
        """Tell whether shape and dtype are the same."""
        return one == other

    def keep(self, value: Form) -> Form:
        """Return it."""
        return value

    def kept(self, value: Form) -> Form:
        """Return it."""
        return value


class Model:
    """A model that operations are tried on.

    Parameters
    ----------
    items : iterable of Item
        Its parameters, in order.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._copy = Copy("", Table((item.name, (item.shape, item.dtype)) for item in items), Forms())

    @property
    def names(self) -> list[str]:
        """Its names, in order."""
        return list(self._copy.table)

    @property
    def table(self) -> Table:
        """Its names, with what they stand for."""
        return self._copy.table

    def apply(self, operation: Operation) -> bool:
        """Apply an operation; return whether nothing was wrong with that."""
        operation.apply(self._copy)  # type: ignore[attr-defined]
        return not self._copy.faults

    @property
    def items(self) -> tuple[Item, ...]:
        """Its parameters, in order."""
        return tuple(Item(name, *self._copy.table[name]) for name in self._copy.table)

    @property
    def faults(self) -> list[str]:
        """What was wrong with operations."""
        return self._copy.faults

    @property
    def losses(self) -> list[str]:
        """Which values operations lost."""
        return self._copy.losses

    def is_exactly(self, items: Sequence[Item]) -> bool:
        """Tell whether names, shapes, dtypes and order are those of parameters."""
        found = [(name, form) for name, form in self._copy.table.everything()]
        return not self._copy.faults and found == [(item.name, (item.shape, item.dtype)) for item in items]


def losses(operations: Iterable[Operation], old: Sequence[Item]) -> list[str]:
    """Return which values of old parameters operations lose, one after the other."""
    model = Model(old)
    for operation in operations:
        model.apply(operation)
    return model.losses


def leads_to(operations: Iterable[Operation], old: Sequence[Item], new: Sequence[Item]) -> bool:
    """Tell whether operations, one after the other, make new parameters of old ones."""
    model = Model(old)
    return all(map(model.apply, operations)) and model.is_exactly(new)
