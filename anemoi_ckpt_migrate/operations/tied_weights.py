"""Tied parameters, which share memory and one optimizer state, and the operation that ties them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, names_of, operation, set_fields
from anemoi_ckpt_migrate.state.tensor_values import memory_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.ordered_names import Table
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


class Ties:
    """The tied parameters of a table.

    Parameters
    ----------
    table : mapping of str to tensor
        The parameters.

    Attributes
    ----------
    names : dict of str to list of str
        For each tied name, all names that share its memory.
    """

    def __init__(self, table: Table | Mapping[str, Any]) -> None:
        groups: dict[Any, list[str]] = {}
        for name in table:
            memory = memory_of(table[name])
            if memory is not None:
                groups.setdefault(memory, []).append(name)
        self._memory = {name: memory for memory, group in groups.items() for name in group}
        self.names = {name: group for group in groups.values() if len(group) > 1 for name in group}

    def broken(self, operation: Operation, table: Table) -> str | None:
        """Return a message if an operation changed only some of several tied parameters; otherwise None."""
        for first, group in self.names.items():
            if not operation.makes or group[0] != first:
                continue
            stay = [name for name in group if name in table and memory_of(table[name]) == self._memory.get(name)]
            if stay and len(stay) < len(group):
                other = next(name for name in group if name not in stay)
                return (
                    f"{other} shares its memory with {stay[0]}, and the optimizer has one state for both; "
                    "change both or neither"
                )
        return None

    def apart(self, table: Table) -> list[list[str]]:
        """Return the groups of tied names that are no longer tied, or have lost their first name."""
        groups = [group for first, group in self.names.items() if group[0] == first]
        return [group for group in groups if len({_memory(table, name) for name in group}) > 1 or group[0] not in table]


@operation
class Tie(Operation):
    """Tie parameters again that were tied once; parameters with different values stay separate.

    Parameters
    ----------
    groups : sequence of list of str
        Each group of tied names.
    """

    written = False
    groups: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        groups = tuple(names_of(self, "groups", group) for group in self.groups)
        every = [name for group in groups for name in group]
        if len(set(every)) < len(every):  # so that each name is compared only once
            raise BadOperation("Tie: groups name a parameter twice")
        set_fields(self, groups=groups)

    def apply(self, context: ParameterContext) -> list[Any]:
        """Tie each group."""
        for group in () if context.optimizer else self.groups:
            self._tie(context, [name for name in group if name in context.table])
        return []

    def _tie(self, context: ParameterContext, names: Sequence[str]) -> None:
        for name in names[1:]:
            first, value = context.table[names[0]], context.table[name]
            if memory_of(first) != memory_of(value) and context.values.same(first, value):
                context.table.set(name, first)


def _memory(table: Table, name: str) -> Any:
    return memory_of(table[name]) if name in table else None
