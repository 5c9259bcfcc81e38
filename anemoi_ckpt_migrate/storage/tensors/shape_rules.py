"""Shape and dtype of tensors made from others, and the limits of each recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


class Mismatch(Exception):
    """Tensors that cannot be combined this way; the message gives the reason."""


def outcome(
    kind: str, args: Sequence[Any], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype of a new tensor.

    Parameters
    ----------
    kind : str
        ``cat`` (a dimension), ``narrow`` (a dimension, the first index, a length), ``pad`` (a dimension, the index of
        the new part, its length, a number or an initialiser, whether optimizers skip it), ``stack`` (a new dimension),
        ``select`` (a dimension, an index in it), ``permute`` (the order of the dimensions), ``reshape`` (a shape, in
        which one size may be -1), ``cast`` (a dtype), ``mu_product`` of a step (the beta and the decay of NAdam),
        ``clone``, ``fill`` and ``init`` (a shape, a dtype).
    args : sequence
        The arguments listed in parentheses.
    shapes, dtypes : sequence
        Shapes and dtypes of the sources.

    Raises
    ------
    Mismatch
        The tensor cannot be made.
    """
    if kind in ("fill", "init"):
        return tuple(args[0]), args[1]
    if len(set(dtypes)) > 1:
        raise Mismatch(f"their dtypes differ: {' and '.join(dict.fromkeys(dtypes))}")
    first, dtype = shapes[0], dtypes[0]
    if kind == "cat":
        dim = _dimension(args[0], len(first))
        return _joined(shapes, dim), dtype
    if kind == "stack":
        return _stacked(shapes, _dimension(args[0], len(first) + 1)), dtype
    if kind == "narrow":
        dim = _dimension(args[0], len(first))
        return (*first[:dim], args[2], *first[dim + 1 :]), dtype
    if kind == "pad":
        dim = _dimension(args[0], len(first))
        return (*first[:dim], first[dim] + args[2], *first[dim + 1 :]), dtype
    if kind == "select":
        dim = _dimension(args[0], len(first))
        return (*first[:dim], *first[dim + 1 :]), dtype
    if kind == "permute":
        return _permuted(first, args[0]), dtype
    if kind == "reshape":
        return reshaped(first, args[0]), dtype
    return first, (args[0] if kind == "cast" else dtype)


def place_between(shape: Sequence[int], part: Sequence[int], dim: int, at: int | None) -> tuple[int, int]:
    """Return the dimension (not negative) and the index at which a part fits between the entries of a tensor.

    Parameters
    ----------
    shape, part : sequence of int
        The shapes of the tensor and of the part.
    dim : int
        The dimension.
    at : int or None
        The index; None for the end.

    Raises
    ------
    Mismatch
        It does not fit there.
    """
    dim = _dimension(dim, len(shape))
    _joined([tuple(shape), tuple(part)], dim)
    index = shape[dim] if at is None else at
    if not 0 <= index <= shape[dim]:
        raise Mismatch(f"dimension {dim} of {list(shape)} has no index {at}")
    return dim, index


def _dimension(dim: int, count: int) -> int:
    if not -count <= dim < count:
        raise Mismatch(f"there is no dimension {dim}, only {count} dimensions")
    return dim % count


def _joined(shapes: Sequence[tuple[int, ...]], dim: int) -> tuple[int, ...]:
    rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
    if len(rest) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise Mismatch(f"their shapes do not fit along dimension {dim}: {_several(shapes)}")
    first = shapes[0]
    return (*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])


def _stacked(shapes: Sequence[tuple[int, ...]], dim: int) -> tuple[int, ...]:
    first = shapes[0]
    if len(set(shapes)) > 1:
        raise Mismatch(f"their shapes differ: {_several(shapes)}")
    return (*first[:dim], len(shapes), *first[dim:])


def _permuted(shape: tuple[int, ...], dims: Sequence[int]) -> tuple[int, ...]:
    order = [_dimension(dim, len(shape)) for dim in dims]
    if sorted(order) != list(range(len(shape))):
        raise Mismatch(f"{list(dims)} is not an order of the dimensions of {list(shape)}")
    return tuple(shape[dim] for dim in order)


def reshaped(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return a shape with its open size, -1, filled in.

    Raises
    ------
    Mismatch
        The shape needs another number of elements.
    """
    count, known = math.prod(shape), math.prod(size for size in wanted if size >= 0)
    found = tuple(wanted)
    if -1 in found and known and count % known == 0 and found.count(-1) == 1:
        found = tuple(count // known if size == -1 else size for size in found)
    if math.prod(found) != count or any(size < 0 for size in found):
        raise Mismatch(f"{list(shape)} cannot be reshaped to {list(wanted)}")
    return found


def _several(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
