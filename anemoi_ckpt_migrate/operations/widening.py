"""Operations that make a dimension of parameters larger, and smaller again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    flag_of,
    integer_of,
    names_of,
    operation,
    set_fields,
)
from anemoi_ckpt_migrate.operations.copies import Copy
from anemoi_ckpt_migrate.operations.dtypes import DTYPES, takes
from anemoi_ckpt_migrate.operations.patterns import literals


@operation
class Pad(Operation):
    """Make a dimension of parameters larger: rows for new words, columns for new inputs.

    Moments of what is new are zero, as if it had never had a gradient.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    size : int
        How much larger.
    dim : int
        The dimension.
    at : int, optional
        The index that the first of what is new has; without it, it comes at the end.
    fill : number
        What its elements are.
    still : bool
        Whether optimizers like Adam are to leave what is new as it is, so that training goes on as it would have
        without it: its second moments are infinite, by whose root each step is divided. An optimizer without such
        moments, or one that starts anew, trains it.
    """

    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    fill: float = 0
    still: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        integer_of(self, "size", self.size, 1)
        integer_of(self, "dim", self.dim)
        if self.at is not None:
            integer_of(self, "at", self.at, 0)
        if isinstance(self.fill, bool) or not isinstance(self.fill, (int, float)):
            raise BadOperation(f"Pad: fill must be a number, not {self.fill!r:.60}")
        flag_of(self, "still", self.still)

    def inverse(self) -> Operation | None:
        """Return what takes it away, if it is still as it was made."""
        return Cut(self.keys, self.size, self.dim, self.at, self.fill)

    def apply(self, copy: Copy) -> list[Any]:
        """Make them larger; return what undoes it."""
        done = []
        for name in copy.select(self.keys):
            place = _place(copy, name, self, 0)
            if place is None or not self._takes(copy, name):
                continue
            args = (*place, self.size, self.fill, self.still)
            made = copy.make("pad", args, [name], f"{name} cannot be made larger")
            if made is not None:
                copy.table.set(name, made)
                done.append(name)
        return [Cut(literals(done), self.size, self.dim, self.at, self.fill)] if done else []

    def _takes(self, copy: Copy, name: str) -> bool:
        dtype = copy.values.dtype(copy.table[name])
        if dtype not in DTYPES or takes(dtype, self.fill):
            return True
        copy.fault(f"{name} is {dtype}, which does not have the number {str(self.fill)[:40]}")
        return False


@operation
class Cut(Operation):
    """Take away by what a dimension was made larger, if it is still as it was then; the fields are those of `Pad`."""

    written = False
    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    fill: float = 0

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))

    def apply(self, copy: Copy) -> list[Any]:
        """Take it away."""
        for name in copy.select(self.keys):
            place = _place(copy, name, self, self.size)
            if place is not None and self._is_unchanged(copy, name, *place):
                made = self._without(copy, name, *place)
                if made is not None:
                    copy.table.set(name, made)
        return []

    def _is_unchanged(self, copy: Copy, name: str, dim: int, at: int) -> bool:
        if copy.optimizer or copy.forced:
            return True
        values, value = copy.values, copy.table[name]
        shape = list(values.shape(value))
        shape[dim] = self.size
        there = values.make("narrow", (dim, at, self.size), [value])
        if values.same(there, values.make("fill", (tuple(shape), values.dtype(value), self.fill), [])):
            return True
        what = f"{self.size} of dimension {dim} were added to {name}, and have changed since, which would be lost"
        copy.fault(f"{what}; --discard-changes removes them")
        return False

    def _without(self, copy: Copy, name: str, dim: int, at: int) -> Any:
        values, value = copy.values, copy.table[name]
        whole = values.shape(value)[dim]
        kept = [(0, at), (at + self.size, whole - at - self.size)]
        kept = [each for each in kept if each[1]] or kept[:1]
        parts = [values.make("narrow", (dim, *each), [value]) for each in kept]
        return parts[0] if len(parts) == 1 else values.make("cat", (dim,), parts)


def _place(copy: Copy, name: str, kind: Pad | Cut, gone: int) -> tuple[int, int] | None:
    """Return the dimension, from the first, and where in it what is new begins; None, and a note, if nowhere."""
    shape: Sequence[int] | None = copy.shape(name, f"{name} cannot be made larger")
    if shape is None:
        return None
    if not -len(shape) <= kind.dim < len(shape):
        copy.fault(f"{name} has the shape {list(shape)}, and no dimension {kind.dim}")
        return None
    dim = kind.dim % len(shape)
    size = shape[dim] - gone
    at = size if kind.at is None else kind.at
    if not 0 <= at <= size:
        copy.fault(f"{name} has the shape {list(shape)}, and dimension {dim} nothing at {at}")
        return None
    return dim, at
