"""`Derive`: a function of the script chooses the operations for each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, Runner, operation
from anemoi_ckpt_migrate.operations.tree_operation import Run, functions


@operation
class Derive(Run):
    """Apply the operations that a function of the script returns for this checkpoint.

    The function takes the checkpoint, which it must not change, and returns a list of operations. None of them may run
    functions. They are applied as if the script contained them, and their rollback is data.

    Parameters
    ----------
    migrate : function or str
        A function of the script.
    rollback : function or str
        A function that returns the operations of the rollback. It runs for checkpoints that were stamped, to which the
        operations were never applied. The list may contain results of `inverse`.
    """

    def __post_init__(self) -> None:
        if self.rollback is None:
            raise BadOperation("Derive needs rollback, so that a stamped checkpoint can be downgraded too")
        super().__post_init__()

    def inverse(self) -> Operation | None:
        """Return the inverse: the functions exchanged."""
        return None if self.rollback is None else Derive(self.rollback, self.migrate)

    def perform(self, runner: Runner) -> list[Operation]:
        """Apply the derived operations."""
        return runner.derive(self)

    def derived(self, tree: Any, ask: Callable[[str, Any], list[Any]]) -> list[Operation]:
        """Return the operations for a checkpoint.

        Parameters
        ----------
        tree : object
            The checkpoint.
        ask : callable
            Takes the name of a function of the script and the checkpoint, and returns the list that the function makes.

        Raises
        ------
        BadOperation
            The list contains something else, or an operation that runs functions.
        """
        found = ask(self.migrate, tree)
        for each in found:
            if not isinstance(each, Operation) or functions([each]):
                raise BadOperation(f"Derive: {self.migrate} returned {each!r:.60}, which is not allowed there")
            for leaf in each.leaves():
                leaf.check_written()
        return found
