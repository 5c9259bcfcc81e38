"""Operations that make a dimension of parameters larger, and smaller again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, integer_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.initializers import MEAN, fills, initialiser
from anemoi_ckpt_migrate.operations.tied_weights import Ties
from anemoi_ckpt_migrate.state.dtypes import DTYPES, is_floating, takes
from anemoi_ckpt_migrate.state.name_patterns import literals
from anemoi_ckpt_migrate.state.parameters import Copy


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
    init : str or sequence, optional
        Instead of `fill`: ``"mean"``, the mean of what is there along the dimension, as of the rows of an embedding; or
        what `Add` takes, as ``["normal_", {"std": 0.02}]``, which fills what is new as a tensor of its own. Random
        numbers depend on the name of the parameter and on nothing else; tied parameters stay tied.
    still : bool
        Whether optimizers like Adam are to leave what is new as it is, so that training goes on as it would have
        without it: its second moments are infinite, by whose root each step is divided. An optimizer without such
        moments, or one that starts anew, trains it.
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
            raise BadOperation("Pad: say fill or init, not both")

    def inverse(self) -> Operation | None:
        """Return what takes it away, if it is still as it was made."""
        return Unpad(self.keys, self.size, self.dim, self.at, self.fill, self.init)

    def apply(self, copy: Copy) -> list[Any]:
        """Make them larger; return what undoes it."""
        done, names = [], copy.select(self.keys)
        seeds = _seeds(copy, self)
        for name in names:
            place = _place(copy, name, self, 0)
            if place is None or not self._takes(copy, name):
                continue
            args = (*place, self.size, _content(self, seeds.get(name, name)), self.still)
            made = copy.make("pad", args, [name], f"{name} cannot be made larger")
            if made is not None:
                copy.table.set(name, made)
                done.append(name)
        return [Unpad(literals(done), self.size, self.dim, self.at, self.fill, self.init)] if done else []

    def _takes(self, copy: Copy, name: str) -> bool:
        dtype = copy.values.dtype(copy.table[name])
        if self.init is not None:
            shape = copy.values.shape(copy.table[name])
            if is_floating(dtype) and fills(self.init[0], len(shape)):
                return True
            copy.fault(f"{name} is {dtype} of the shape {list(shape)}, for which {self.init[0]} makes nothing")
            return False
        if dtype not in DTYPES or takes(dtype, self.fill):
            return True
        copy.fault(f"{name} is {dtype}, which does not have the number {str(self.fill)[:40]}")
        return False


@operation
class Unpad(Operation):
    """Take away by what a dimension was made larger, if it is still as it was then; the fields are those of `Pad`."""

    written = False
    keys: tuple[str, ...]
    size: int
    dim: int = 0
    at: int | None = None
    fill: float = 0
    init: Any = None

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys), init=initialiser("Unpad", self.init, (MEAN,)))

    def apply(self, copy: Copy) -> list[Any]:
        """Take it away."""
        names = copy.select(self.keys)
        seeds = _seeds(copy, self)
        for name in names:
            place = _place(copy, name, self, self.size)
            made = None if place is None else self._without(copy, name, *place)
            if place is None or made is None:
                continue
            if self._is_unchanged(copy, name, made, (*place, self.size, _content(self, seeds.get(name, name)), False)):
                copy.table.set(name, made)
        return []

    def _is_unchanged(self, copy: Copy, name: str, made: Any, args: tuple[Any, ...]) -> bool:
        """Tell whether what was added is what would be added now."""
        if copy.optimizer or copy.forced:
            return True
        values, value, (dim, at, size, *_) = copy.values, copy.table[name], args
        then = values.make("pad", args, [made])
        if values.same(*(values.make("narrow", (dim, at, size), [each]) for each in (value, then))):
            return True
        what = f"{size} of dimension {dim} were added to {name}, and have changed since, which would be lost"
        copy.fault(f"{what}; --discard-changes removes them")
        return False

    def _without(self, copy: Copy, name: str, dim: int, at: int) -> Any:
        values, value = copy.values, copy.table[name]
        whole = values.shape(value)[dim]
        stash = [(0, at), (at + self.size, whole - at - self.size)]
        stash = [each for each in stash if each[1]] or stash[:1]
        parts = [values.make("narrow", (dim, *each), [value]) for each in stash]
        return parts[0] if len(parts) == 1 else values.make("cat", (dim,), parts)


def _seeds(copy: Copy, kind: Pad | Unpad) -> dict[str, str]:
    """Return the names that random numbers depend on where that is not the own one: tied parameters get the same."""
    if kind.init is None or copy.optimizer:
        return {}
    return {name: group[0] for name, group in Ties(copy.table).names.items()}


def _content(kind: Pad | Unpad, seed: str) -> Any:
    """Return what the elements of what is new are, for a recipe."""
    return kind.fill if kind.init is None else (*kind.init, seed if kind.init[0] != MEAN else "")


def _place(copy: Copy, name: str, kind: Pad | Unpad, gone: int) -> tuple[int, int] | None:
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
