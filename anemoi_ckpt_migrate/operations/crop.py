"""Operations that shorten a dimension of parameters, and restore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, integer_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.dimension_places import place, without
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util.text import first_repeated

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


@operation
class Crop(Operation):
    """Shorten a dimension of parameters: rows of words that are gone, columns of inputs that are gone.

    The moments of the optimizers are cut in the same way.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    size : int
        How many rows, columns, ... to remove.
    dim : int
        The dimension.
    at : int, optional
        The index of the first one to remove; without it, the last ones are removed.
    keep : bool
        Stash the removed elements in the checkpoint, with their moments, for the downgrade. Without it, they are lost.

    Examples
    --------
    >>> from anemoi_ckpt_migrate import op
    >>> op.Crop("wte.weight", 47)  # the last 47 words
    Crop("wte.weight", 47)
    """

    makes = True
    remedy = "keep=True"
    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "size", self.size, 1)
        integer_of(self, "dim", self.dim)
        if self.at is not None:
            integer_of(self, "at", self.at, 0)
        flag_of(self, "keep", self.keep)

    @property
    def reversible(self) -> bool:
        """Whether the removed elements are stashed."""
        return self.keep

    def apply(self, context: ParameterContext) -> list[Any]:
        """Shorten the parameters, and return the rollback."""
        items = []
        for name in context.select(self.keys):
            found = place(context, name, self, self.size, "cropped")
            if found is None:
                continue
            if self.keep:
                gone = context.values.make("narrow", (*found, self.size), [context.table[name]])
                items.append((name, context.stash(gone)))
            else:
                context.lose(f"{self.size} of dimension {found[0]} of {name} are removed")
            context.table.set(name, without(context, name, *found, self.size))
        return [RestoreCropped(tuple(items), self.dim, self.at)] if items else []


@operation
class RestoreCropped(Operation):
    """Put back the elements that `Crop` stashed, where it removed them; the other elements keep their values."""

    makes = True
    written = False
    restores_stash = True
    items: tuple[tuple[str, int], ...]
    dim: int = 0
    at: int | None = None

    def __post_init__(self) -> None:
        items = tuple((name, number) for name, number in self.items)
        if (twice := first_repeated([name for name, _ in items])) is not None:  # each name is enlarged only once
            raise BadOperation(f"RestoreCropped: items names {twice} twice")
        set_fields(self, items=items)

    def apply(self, context: ParameterContext) -> list[Any]:
        """Put the elements back."""
        for name, number in self.items:
            if name not in context.table:
                context.missing(name)
                continue
            try:
                part = context.stashed(number)
                if part is not None:
                    made = context.values.insert(context.table[name], part, self.dim, self.at)
                    context.table.set(name, made)
            except Mismatch as error:
                context.fault(f"the elements removed from {name} cannot be restored: {error}")
        return []
