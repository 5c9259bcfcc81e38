"""Base class of operations on the tree, the context that they get, and `Run`, which runs functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, Runner, operation, set_fields
from anemoi_ckpt_migrate.operations.kinds import kind_of
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.archive_json import Attached


@dataclass
class TreeContext:
    """Context of operations on the tree.

    Attributes
    ----------
    checkpoint : object
        The whole tree, for operations that get only a part of it.
    attached : Attached
        Entries of the zip beside the pickle.
    stash : list of object
        Values that the revision stashes.
    run : callable
        Takes the name of a function of the script and its arguments, runs it, and returns the result.
    discard_changes : bool
        Whether a downgrade may discard changes made since the upgrade.
    losses : list of str
        Why the revision cannot be undone; empty if it can.
    """

    checkpoint: Any
    attached: Attached
    stash: list[Any]
    run: Callable[..., Any]
    discard_changes: bool = False
    losses: list[str] = field(default_factory=list)


class TreeOperation(Operation):
    """An operation on the tree as a whole.

    Attributes
    ----------
    everywhere : bool
        Whether it changes stashed values too. It then gets a list: the tree, the stash of earlier revisions and the
        stash of this one.
    """

    on_parameters = False
    everywhere: ClassVar[bool] = False

    def perform(self, runner: Runner) -> list[Operation]:
        """Apply it to the tree."""
        return runner.apply_to_tree(self)

    def loss(self, tree: Any) -> str:
        """Return why it cannot be undone on a tree; empty if it can."""
        return ""

    def carry_out(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Change a tree, or a part of it; return the new tree and the rollback.

        Parameters
        ----------
        tree : object
            The checkpoint, or a part that is treated as one.
        context : TreeContext
            The context.

        Raises
        ------
        NoSuchPath
            The tree cannot be changed; the message says why.
        """
        context.losses += filter(None, [self.loss(tree)])
        return self.on(tree, context)

    def on(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Do the work of `carry_out`; subclasses that need the context override this."""
        return tree, self.change(tree, context.stash, context.discard_changes)

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Change a tree in place, and return the rollback; most kinds implement this method.

        Parameters
        ----------
        tree : object
            The checkpoint.
        stash : list of object
            Values that the revision stashes, or has stashed.
        discard_changes : bool
            Whether a downgrade may discard changes made since the upgrade.
        """
        raise NotImplementedError


@operation
class Run(TreeOperation):
    """Run functions of the script, for changes that no other operation makes.

    Parameters
    ----------
    migrate : function or str
        A function of the script. It takes the checkpoint and returns it.
    rollback : function or str, optional
        The function that undoes `migrate`.
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
    def runs_code(self) -> bool:
        """True."""
        return True

    @property
    def reaches_parameters(self) -> bool:
        """Whether its function may change parameters."""
        return True

    @property
    def reversible(self) -> bool:
        """Whether it has a rollback function."""
        return self.rollback is not None

    def inverse(self) -> Operation | None:
        """Return the inverse: the functions exchanged."""
        return None if self.rollback is None else Run(self.rollback, self.migrate)

    def loss(self, tree: Any) -> str:
        """Return a sentence if it has no rollback."""
        return "" if self.reversible else f"{self.migrate} has no rollback"

    def on(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Run the function."""
        return context.run(self.migrate, tree), [back for back in [self.inverse()] if back is not None]


def takes_functions(kind: str | None) -> bool:
    """Return whether the kind with this name takes functions of a script."""
    return issubclass(kind_of(kind or "") or Operation, Run)


def functions(operations: Iterable[Operation]) -> list[Run]:
    """Return the operations that run functions of a script, nested ones included."""
    return [leaf for each in operations for leaf in each.leaves() if isinstance(leaf, Run)]
