"""Parameters of the very same memory, of which an optimizer knows one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.tensor_values import memory_of


class Ties:
    """What is tied in a table.

    Parameters
    ----------
    table : mapping of str to tensor
        The parameters.

    Attributes
    ----------
    names : dict of str to list of str
        Names of the same memory, by each of them.
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
        """Say what an operation took apart that an optimizer has one state for; None if nothing."""
        for first, group in self.names.items():
            if not operation.makes or group[0] != first:
                continue
            stay = [name for name in group if name in table and memory_of(table[name]) == self._memory.get(name)]
            if stay and len(stay) < len(group):
                other = next(name for name in group if name not in stay)
                return (
                    f"{other} shares its memory with {stay[0]}, and the optimizer has one state for both; "
                    "what is done to one has to be done to the other"
                )
        return None
