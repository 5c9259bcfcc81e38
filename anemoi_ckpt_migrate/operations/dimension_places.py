"""A stretch of entries along one dimension of parameters: rows, columns, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


class Stretch(Protocol):
    """An operation on `size` entries of a dimension, from an index on; without one, at the end."""

    @property
    def size(self) -> int:
        """How many entries."""

    @property
    def dim(self) -> int:
        """The dimension."""

    @property
    def at(self) -> int | None:
        """The index of the first entry."""


def place(context: ParameterContext, name: str, kind: Stretch, gone: int, doing: str) -> tuple[int, int] | None:
    """Return the dimension (not negative) and the index of the first entry; None after reporting a fault.

    Parameters
    ----------
    context : ParameterContext
        The copy of the parameters.
    name : str
        The parameter.
    kind : Stretch
        The operation.
    gone : int
        How many entries the operation removes.
    doing : str
        What cannot be done to a value without a shape, for the message.
    """
    shape: Sequence[int] | None = context.shape(name, f"{name} cannot be {doing}")
    if shape is None:
        return None
    if not -len(shape) <= kind.dim < len(shape):
        context.fault(f"{name} has the shape {list(shape)}, but no dimension {kind.dim}")
        return None
    dim = kind.dim % len(shape)
    size = shape[dim] - gone
    if size < 0:
        context.fault(f"{name} has the shape {list(shape)}, so dimension {dim} has no {gone} entries to remove")
        return None
    at = size if kind.at is None else kind.at
    if not 0 <= at <= size:
        last = f"{at} to {at + gone - 1}" if gone > 1 else at
        context.fault(f"{name} has the shape {list(shape)}, so dimension {dim} has no index {last}")
        return None
    return dim, at


def without(context: ParameterContext, name: str, dim: int, at: int, size: int) -> Any:
    """Return a parameter without some entries of a dimension."""
    values, value = context.values, context.table[name]
    whole = values.shape(value)[dim]
    kept = [(0, at), (at + size, whole - at - size)]
    kept = [each for each in kept if each[1]] or kept[:1]
    parts = [values.make("narrow", (dim, *each), [value]) for each in kept]
    return parts[0] if len(parts) == 1 else values.make("cat", (dim,), parts)
