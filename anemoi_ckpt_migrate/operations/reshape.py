"""Operations that change the shape of parameters, or the order of their elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    flag_of,
    integer_of,
    integers_of,
    names_of,
    operation,
    set_fields,
)
from anemoi_ckpt_migrate.state.name_patterns import literals

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


class _Turning(Operation):
    """Base class of operations that change parameters one by one."""

    keys: tuple[str, ...]
    makes = True

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the recipes to apply, in order, given a shape.

        Raises
        ------
        ValueError
            The operation does not fit the shape; the message says why.
        """
        raise NotImplementedError

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the inverse for parameters that had this shape before."""
        raise NotImplementedError

    def apply(self, context: ParameterContext) -> list[Operation]:
        """Change the parameters that the keys select, and return the rollback."""
        done: dict[tuple[int, ...], list[str]] = {}
        for name in context.select(self.keys):
            shape = self._change(context, name)
            if shape is not None:
                done.setdefault(shape, []).append(name)
        if len(done) == 1 and len(next(iter(done.values()))) > 1:
            shape, names = next(iter(done.items()))
            if set(context.select(self.keys)) == set(names):
                return [self.back(self.keys, shape)]
        undo = {self.back(literals(names), shape): None for shape, names in done.items()}
        return list(undo)

    def _change(self, context: ParameterContext, name: str) -> tuple[int, ...] | None:
        doing = f"{type(self).__name__} of {name} cannot be"
        shape = context.shape(name, doing)
        if shape is None:
            return None
        try:
            steps = self.steps(shape)
        except ValueError as error:
            context.fault(f"{doing}: {error}")
            return None
        before = context.table[name]
        for kind, *args in steps:
            made = context.make(kind, tuple(args), [name], doing)
            if made is None:
                context.table.set(name, before)
                return None
            context.table.set(name, made)
        return shape


def _dims(dim: int, shape: Sequence[int]) -> int:
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"its shape {list(shape)} has no dimension {dim}")
    return dim % len(shape)


@operation
class Transpose(_Turning):
    """Exchange two dimensions of parameters.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    dim0, dim1 : int
        The dimensions.
    """

    keys: tuple[str, ...]
    dim0: int = 0
    dim1: int = 1

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "dim0", self.dim0)
        integer_of(self, "dim1", self.dim1)

    def inverse(self) -> Operation | None:
        """Return the operation itself: it is its own inverse."""
        return self

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the permutation of the dimensions."""
        order = list(range(len(shape)))
        one, other = _dims(self.dim0, shape), _dims(self.dim1, shape)
        order[one], order[other] = order[other], order[one]
        return [("permute", tuple(order))]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the same operation for these names."""
        return Transpose(tuple(names), self.dim0, self.dim1)


@operation
class Permute(_Turning):
    """Permute the dimensions of parameters.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    dims : sequence of int
        For each new dimension, the index of the old one.
    """

    keys: tuple[str, ...]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), dims=integers_of(self, "dims", self.dims))
        if sorted(self.dims) != list(range(len(self.dims))):
            raise BadOperation(f"Permute: {list(self.dims)} is not an order of {len(self.dims)} dimensions")

    def inverse(self) -> Operation | None:
        """Return the inverse permutation."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the permutation of the dimensions."""
        if len(shape) != len(self.dims):
            raise ValueError(f"its shape {list(shape)} does not have {len(self.dims)} dimensions")
        return [("permute", self.dims)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the inverse permutation."""
        return Permute(tuple(names), tuple(self.dims.index(dim) for dim in range(len(self.dims))))


@operation
class Reshape(_Turning):
    """Change the shape of parameters; the order of their elements stays.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    shape : sequence of int
        The new shape; one size may be -1 and is computed from the others.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), shape=integers_of(self, "shape", self.shape, -1))
        if self.shape.count(-1) > 1:
            raise BadOperation("Reshape: only one size may be -1")

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the recipe with the new shape."""
        return [("reshape", self.shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the operation that restores the old shape."""
        return Reshape(tuple(names), shape)


@operation
class Interleave(_Turning):
    """Interleave equal parts of a dimension: the first block of each part, then the second of each, and so on.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    parts : int
        The number of parts: 3 for q, k and v one after the other.
    dim : int
        The dimension.
    block : int
        How many elements stay together: the size of a head, to alternate head by head.
    inverted : bool
        Whether to separate interleaved parts instead.
    """

    keys: tuple[str, ...]
    parts: int
    dim: int = 0
    block: int = 1
    inverted: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "parts", self.parts, 1)
        integer_of(self, "dim", self.dim)
        integer_of(self, "block", self.block, 1)
        flag_of(self, "inverted", self.inverted)

    def inverse(self) -> Operation | None:
        """Return the inverse: `inverted` negated."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the recipes: reshape, permute, reshape back."""
        dim = _dims(self.dim, shape)
        count, left = divmod(shape[dim], self.parts * self.block)
        if left:
            raise ValueError(f"{shape[dim]} cannot be divided into {self.parts} parts of blocks of {self.block}")
        turns = (count, self.parts) if self.inverted else (self.parts, count)
        apart = (*shape[:dim], *turns, self.block, *shape[dim + 1 :])
        order = list(range(len(apart)))
        order[dim], order[dim + 1] = dim + 1, dim
        return [("reshape", apart), ("permute", tuple(order)), ("reshape", shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the inverse for these names."""
        return Interleave(tuple(names), self.parts, self.dim, self.block, not self.inverted)


@operation
class PermuteForRope(_Turning):
    """Reorder the rows of query and key projections, from rotary embeddings of neighbours to those of halves.

    In each head, rows 0, 1, 2, 3, ... become 0, 2, 4, ..., 1, 3, 5, ..., as in conversion scripts for Llama's weights.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns; dimension 0 contains the heads one after the other.
    heads : int
        The number of heads; keys may have fewer than queries.
    inverted : bool
        Whether to reorder from halves to neighbours instead.
    """

    keys: tuple[str, ...]
    heads: int
    inverted: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "heads", self.heads, 1)
        flag_of(self, "inverted", self.inverted)

    def inverse(self) -> Operation | None:
        """Return the inverse: `inverted` negated."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the recipes: reshape, permute, reshape back."""
        _dims(0, shape)
        half, left = divmod(shape[0], 2 * self.heads)
        if left:
            raise ValueError(f"{shape[0]} rows cannot be divided into {self.heads} heads of an even size")
        turns = (2, half) if self.inverted else (half, 2)
        apart = (self.heads, *turns, *shape[1:])
        order = (0, 2, 1, *range(3, len(apart)))
        return [("reshape", apart), ("permute", order), ("reshape", shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return the inverse for these names."""
        return PermuteForRope(tuple(names), self.heads, not self.inverted)
