"""Operations on the tree of a checkpoint as a whole, what they work with, and the one that runs functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import KINDS, Operation, operation, set_fields
from anemoi_ckpt_migrate.state.archive_json import Attached


@dataclass
class Means:
    """What operations on the tree work with, beside the tree.

    Attributes
    ----------
    checkpoint : object
        All of the tree, for those that are given a part of it.
    attached : Attached
        What lies beside the pickle.
    stash : list of object
        What the revision puts aside.
    run : callable
        Runs a function of the script, of a name, on a tree, and returns what becomes of it.
    forced : bool
        Whether what was changed since may be lost on the way back.
    losses : list of str
        Why nothing undoes what was done, if nothing does.
    """

    checkpoint: Any
    attached: Attached
    stash: list[Any]
    run: Callable[..., Any]
    forced: bool = False
    losses: list[str] = field(default_factory=list)


class TreeOperation(Operation):
    """An operation on the tree as a whole.

    Attributes
    ----------
    everywhere : bool
        Whether it is about what revisions put aside too: what is changed then is a list of the tree and of that.
    """

    on_parameters = False
    everywhere: ClassVar[bool] = False

    def loss(self, tree: Any) -> str:
        """Say why nothing would undo it on a tree; empty if something does."""
        return ""

    def carry_out(self, tree: Any, means: Means) -> tuple[Any, list[Operation]]:
        """Change a tree, or a part of it; return what becomes of it, and what undoes that.

        Parameters
        ----------
        tree : object
            The checkpoint, or what stands for it.
        means : Means
            What there is to work with.

        Raises
        ------
        NoSuchPath
            It cannot be done; the message says why.
        """
        means.losses += filter(None, [self.loss(tree)])
        return self.on(tree, means)

    def on(self, tree: Any, means: Means) -> tuple[Any, list[Operation]]:
        """Do so; as `carry_out`, for which kinds of operations differ here."""
        return tree, self.change(tree, means.stash, means.forced)

    def change(self, tree: Any, stash: list[Any], forced: bool = False) -> list[Operation]:
        """Change a tree in place, and return what undoes it: what most kinds do.

        Parameters
        ----------
        tree : object
            The checkpoint.
        stash : list of object
            What is put aside in it.
        forced : bool
            Whether what was changed since may be lost on the way back.
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

    def loss(self, tree: Any) -> str:
        """Say so if it has no rollback."""
        return "" if self.reversible else f"{self.migrate} has no rollback"

    def on(self, tree: Any, means: Means) -> tuple[Any, list[Operation]]:
        """Run the function."""
        return means.run(self.migrate, tree), [back for back in [self.inverse()] if back is not None]


def takes_functions(kind: str | None) -> bool:
    """Tell whether operations of a kind, by its name, are given functions of a script."""
    return issubclass(KINDS.get(kind or "", Operation), Run)


def functions(operations: Iterable[Operation]) -> list[Run]:
    """Return those that run functions of a script, wherever they stand."""
    return [leaf for each in operations for leaf in each.leaves() if isinstance(leaf, Run)]
