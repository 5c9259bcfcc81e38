"""Operations on the tree of a checkpoint as a whole, and the one that runs functions."""

from __future__ import annotations

from typing import Any, ClassVar

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, operation, set_fields


class TreeOperation(Operation):
    """An operation on the tree as a whole.

    Attributes
    ----------
    everywhere : bool
        Whether it is about what other revisions put aside too: what is changed then is a list of the tree and of that.
    """

    on_parameters = False
    everywhere: ClassVar[bool] = False

    def loss(self, tree: Any) -> str:
        """Say why nothing would undo it on a tree; empty if something does."""
        return ""

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Change a tree, and return what undoes it.

        Parameters
        ----------
        tree : object
            The checkpoint.
        kept : list of object
            What is put aside in it.
        forced : bool
            Whether what was changed since may be lost on the way back.

        Raises
        ------
        NoSuchPath
            It cannot be done; the message says why.
        """
        raise NotImplementedError


@operation
class Run(TreeOperation):
    """Run functions of the script, for what no other operation does.

    Parameters
    ----------
    migrate : function or str
        A function of the script, which takes a checkpoint and returns it.
    rollback : function or str, optional
        What undoes it.
    """

    migrate: str
    rollback: str | None = None

    def __post_init__(self) -> None:
        for what, value in (("migrate", self.migrate), ("rollback", self.rollback)):
            if value is None and what == "rollback":
                continue
            name = getattr(value, "__name__", value)
            if not isinstance(name, str) or not name.isidentifier():
                raise BadOperation(f"Run: {what} must be a function of the script, not {value!r:.60}")
            set_fields(self, **{what: name})

    @property
    def reversible(self) -> bool:
        """Whether there is a function that undoes it."""
        return self.rollback is not None

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return None if self.rollback is None else Run(self.rollback, self.migrate)

    def change(self, tree: Any, kept: list[Any], forced: bool = False) -> list[Operation]:
        """Be run by the executor, which knows the script."""
        raise NotImplementedError
