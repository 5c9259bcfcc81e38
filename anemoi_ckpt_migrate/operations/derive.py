"""The operation that has a function say which operations there are to be, where names alone do not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, operation
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions


@operation
class Derive(Run):
    """Have a function of the script say which operations are to be applied to this checkpoint.

    The function takes the checkpoint, which it leaves as it is, and returns a list of operations, none of which runs
    functions. They are applied as if they stood in the script; what undoes them is data.

    Parameters
    ----------
    migrate : function or str
        A function of the script.
    rollback : function or str
        One that says which operations undo them, for a checkpoint to which they were never applied: a stamped one.
        What `inverse` of an operation returns may be among them.
    """

    def __post_init__(self) -> None:
        if self.rollback is None:
            raise BadOperation("Derive needs rollback: what was stamped is to find its way back too")
        super().__post_init__()

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return None if self.rollback is None else Derive(self.rollback, self.migrate)

    def derived(self, tree: Any, ask: Callable[[str, Any], list[Any]]) -> list[Operation]:
        """Return the operations for a checkpoint.

        Parameters
        ----------
        tree : object
            The checkpoint.
        ask : callable
            Runs a function of the script, of a name, on the checkpoint, and returns the list that it makes.

        Raises
        ------
        BadOperation
            There is something else in it.
        """
        found = ask(self.migrate, tree)
        for each in found:
            if not isinstance(each, Operation) or functions([each]):
                raise BadOperation(f"Derive: {self.migrate} returned {each!r:.60}, which cannot stand there")
            for leaf in each.leaves():
                leaf.check_written()
        return found
