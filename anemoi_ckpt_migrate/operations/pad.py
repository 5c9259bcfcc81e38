"""Operations that enlarge a dimension of parameters, and shrink it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, integer_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.dimension_places import place, without
from anemoi_ckpt_migrate.operations.initializers import MEAN, fills, initialiser
from anemoi_ckpt_migrate.operations.tied_weights import Ties
from anemoi_ckpt_migrate.state.dtypes import DTYPES, is_floating, takes
from anemoi_ckpt_migrate.state.name_patterns import literals

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


@operation
class Pad(Operation):
    """Enlarge a dimension of parameters: rows for new words, columns for new inputs.

    The moments of the new elements are zero, as if they had never had a gradient.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    size : int
        How many rows, columns, ... to add.
    dim : int
        The dimension.
    at : int, optional
        The index of the first new row, column, ...; without it, they come at the end.
    fill : number
        The value of the new elements.
    init : str or sequence, optional
        Instead of `fill`: ``"mean"``, the mean of the old values along the dimension, as of the rows of an embedding;
        or an `init` of `Add`, as ``["normal_", {"std": 0.02}]``, which fills the new part as a tensor of its own. The
        random numbers depend on the name of the parameter only; tied parameters stay tied.
    still : bool
        Whether optimizers like Adam leave the new elements unchanged, so that training continues as it would have
        without them. Their second moments are infinite, and each step is divided by the square root of these. An
        optimizer without such moments, or one that starts from scratch, trains them.
    """

    makes = True
    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    fill: float = 0
    still: bool = False
    init: Any = None

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "size", self.size, 1)
        integer_of(self, "dim", self.dim)
        if self.at is not None:
            integer_of(self, "at", self.at, 0)
        if isinstance(self.fill, bool) or not isinstance(self.fill, (int, float)):
            raise BadOperation(f"Pad: fill must be a number, not {self.fill!r:.60}")
        flag_of(self, "still", self.still)
        set_fields(self, init=initialiser("Pad", self.init, (MEAN,)))
        if self.init is not None and self.fill:
            raise BadOperation("Pad: set fill or init, not both")

    def inverse(self) -> Operation | None:
        """Return the operation that removes the new elements if they have not changed."""
        return Unpad(self.keys, self.size, self.dim, self.at, self.fill, self.init)

    def apply(self, context: ParameterContext) -> list[Any]:
        """Enlarge the parameters, and return the rollback."""
        done, names = [], context.select(self.keys)
        seeds = _seeds(context, self)
        for name in names:
            found = place(context, name, self, 0, "padded")
            if found is None or not self._takes(context, name):
                continue
            args = (*found, self.size, _content(self, seeds.get(name, name)), self.still)
            made = context.make("pad", args, [name], f"{name} cannot be padded")
            if made is not None:
                context.table.set(name, made)
                done.append(name)
        return [Unpad(literals(done), self.size, self.dim, self.at, self.fill, self.init)] if done else []

    def _takes(self, context: ParameterContext, name: str) -> bool:
        dtype = context.values.dtype(context.table[name])
        if self.init is not None and not context.optimizer:  # new moments are zero, whatever the parameter begins with
            shape = context.values.shape(context.table[name])
            if is_floating(dtype) and fills(self.init[0], len(shape)):
                return True
            context.fault(f"{self.init[0]} cannot fill {name}, which is {dtype} of the shape {list(shape)}")
            return False
        if dtype not in DTYPES or takes(dtype, self.fill):
            return True
        context.fault(f"{name} is {dtype}, which cannot represent {str(self.fill)[:40]}")
        return False


@operation
class Unpad(Operation):
    """Remove the elements that `Pad` added, if they have not changed; the fields are those of `Pad`."""

    written = False
    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    fill: float = 0
    init: Any = None

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), init=initialiser("Unpad", self.init, (MEAN,)))

    def apply(self, context: ParameterContext) -> list[Any]:
        """Remove the elements; changed ones are a fault, unless changes may be discarded."""
        names = context.select(self.keys)
        seeds = _seeds(context, self)
        for name in names:
            found = place(context, name, self, self.size, "padded")
            if found is None:
                continue
            made = without(context, name, *found, self.size)
            args = (*found, self.size, _content(self, seeds.get(name, name)), False)
            if self._is_unchanged(context, name, made, args):
                context.table.set(name, made)
        return []

    def _is_unchanged(self, context: ParameterContext, name: str, made: Any, args: tuple[Any, ...]) -> bool:
        """Return whether the added elements may be removed: `Pad` would add the same, or nothing has to be checked."""
        if context.optimizer or context.discard_changes:
            return True
        values, value, (dim, at, size, *_) = context.values, context.table[name], args
        then = values.make("pad", args, [made])
        if values.same(*(values.make("narrow", (dim, at, size), [each]) for each in (value, then))):
            return True
        what = f"{size} of dimension {dim} were added to {name} and have changed since"
        context.fault(f"{what}; --discard-changes removes them")
        return False


def _seeds(context: ParameterContext, kind: Pad | Unpad) -> dict[str, str]:
    """Return the name that seeds the random numbers of each tied parameter: the first of its group."""
    if kind.init is None or context.optimizer:
        return {}
    return {name: group[0] for name, group in Ties(context.table).names.items()}


def _content(kind: Pad | Unpad, seed: str) -> Any:
    """Return the content of the new elements, for a recipe."""
    return kind.fill if kind.init is None else (*kind.init, seed if kind.init[0] != MEAN else "")
