"""Operations that change the shape of parameters, or the order of what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from anemoi_ckpt_migrate.state.parameters import Copy


class _Turning(Operation):
    """What changes parameters one by one."""

    keys: tuple[str, ...]
    makes = True

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return what is done, given a shape.

        Raises
        ------
        ValueError
            It cannot be done; the message says why.
        """
        raise NotImplementedError

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return what undoes it for parameters that had a shape."""
        raise NotImplementedError

    def apply(self, copy: Copy) -> list[Operation]:
        """Change all that the keys select; return what undoes it."""
        done: dict[tuple[int, ...], list[str]] = {}
        for name in copy.select(self.keys):
            shape = self._change(copy, name)
            if shape is not None:
                done.setdefault(shape, []).append(name)
        if len(done) == 1 and len(next(iter(done.values()))) > 1:
            shape, names = next(iter(done.items()))
            if set(copy.select(self.keys)) == set(names):
                return [self.back(self.keys, shape)]
        undo = {self.back(literals(names), shape): None for shape, names in done.items()}
        return list(undo)

    def _change(self, copy: Copy, name: str) -> tuple[int, ...] | None:
        doing = f"{type(self).__name__} of {name} cannot be"
        shape = copy.shape(name, doing)
        if shape is None:
            return None
        try:
            steps = self.steps(shape)
        except ValueError as error:
            copy.fault(f"{doing}: {error}")
            return None
        before = copy.table[name]
        for kind, *args in steps:
            made = copy.make(kind, tuple(args), [name], doing)
            if made is None:
                copy.table.set(name, before)
                return None
            copy.table.set(name, made)
        return shape


def _dims(dim: int, shape: Sequence[int]) -> int:
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"its shape {list(shape)} has no dimension {dim}")
    return dim % len(shape)


@operation
class Transpose(_Turning):
    """Exchange two dimensions.

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
        """Return it: done twice, nothing has changed."""
        return self

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the order of the dimensions."""
        order = list(range(len(shape)))
        one, other = _dims(self.dim0, shape), _dims(self.dim1, shape)
        order[one], order[other] = order[other], order[one]
        return [("permute", tuple(order))]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return it, for these names."""
        return Transpose(tuple(names), self.dim0, self.dim1)


@operation
class Permute(_Turning):
    """Bring the dimensions into another order.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    dims : sequence of int
        For each dimension, which one it was.
    """

    keys: tuple[str, ...]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), dims=integers_of(self, "dims", self.dims))
        if sorted(self.dims) != list(range(len(self.dims))):
            raise BadOperation(f"Permute: {list(self.dims)} is no order of {len(self.dims)} dimensions")

    def inverse(self) -> Operation | None:
        """Return what brings them back."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the order of the dimensions."""
        if len(shape) != len(self.dims):
            raise ValueError(f"its shape {list(shape)} does not have {len(self.dims)} dimensions")
        return [("permute", self.dims)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return what brings them back."""
        return Permute(tuple(names), tuple(self.dims.index(dim) for dim in range(len(self.dims))))


@operation
class Reshape(_Turning):
    """Give parameters another shape, with the elements in the order that they have.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    shape : sequence of int
        The shape; one size may be -1, for what is left.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), shape=integers_of(self, "shape", self.shape, -1))
        if self.shape.count(-1) > 1:
            raise BadOperation("Reshape: only one size may be -1")

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the shape."""
        return [("reshape", self.shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return what gives them the shape that they had."""
        return Reshape(tuple(names), shape)


@operation
class Interleave(_Turning):
    """Lay equal parts of a dimension into each other: what was part by part becomes the first of each, the second...

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    parts : int
        How many parts there are: 3 for q, k and v one behind the other.
    dim : int
        The dimension.
    block : int
        How many elements stay together: the size of a head, for one that takes turns head by head.
    inverted : bool
        The other way around: what is interleaved becomes parts again.
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
        """Return it the other way around."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the shapes in between."""
        dim = _dims(self.dim, shape)
        count, left = divmod(shape[dim], self.parts * self.block)
        if left:
            raise ValueError(f"{shape[dim]} are no {self.parts} parts of blocks of {self.block}")
        turns = (count, self.parts) if self.inverted else (self.parts, count)
        apart = (*shape[:dim], *turns, self.block, *shape[dim + 1 :])
        order = list(range(len(apart)))
        order[dim], order[dim + 1] = dim + 1, dim
        return [("reshape", apart), ("permute", tuple(order)), ("reshape", shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return it the other way around, for these names."""
        return Interleave(tuple(names), self.parts, self.dim, self.block, not self.inverted)


@operation
class PermuteForRope(_Turning):
    """Reorder the rows of query and key projections from rotary embeddings of neighbours to those of halves.

    In each head, rows 0, 1, 2, 3, ... become 0, 2, 4, ..., 1, 3, 5, ...: what conversion scripts of Llama's weights do.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns; dimension 0 holds the heads one behind the other.
    heads : int
        How many heads there are: for keys, that may be fewer than for queries.
    inverted : bool
        The other way around.
    """

    keys: tuple[str, ...]
    heads: int
    inverted: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "heads", self.heads, 1)
        flag_of(self, "inverted", self.inverted)

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return self.back(self.keys, ())

    def steps(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the shapes in between."""
        _dims(0, shape)
        half, left = divmod(shape[0], 2 * self.heads)
        if left:
            raise ValueError(f"{shape[0]} rows are no {self.heads} heads of an even size")
        turns = (2, half) if self.inverted else (half, 2)
        apart = (self.heads, *turns, *shape[1:])
        order = (0, 2, 1, *range(3, len(apart)))
        return [("reshape", apart), ("permute", order), ("reshape", shape)]

    def back(self, names: Sequence[str], shape: tuple[int, ...]) -> Operation:
        """Return it the other way around, for these names."""
        return PermuteForRope(tuple(names), self.heads, not self.inverted)
