"""The ways one tensor may have become another: permuted, reshaped, cast."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Step

_MOST_DIMS = 4
_MOST_ORDERS = 3


class Turned(NamedTuple):
    """The way one tensor became another.

    Attributes
    ----------
    steps : tuple of Step
        The changes; empty if only the name differs.
    proven : bool
        Whether content proves it.
    changed : bool
        Whether content shows that the values differ.
    certain : float
        The confidence from the shapes alone.
    """

    steps: tuple[Step, ...]
    proven: bool = False
    changed: bool = False
    certain: float = 1.0


def class_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the key of shapes that become each other by permuting dimensions or removing those of size 1."""
    return tuple(sorted(size for size in shape if size != 1))


def turned(old: Item, new: Item, contents: Contents | None = None, loose: bool = False) -> Turned | None:
    """Return the way one tensor became another; None if it cannot have.

    Parameters
    ----------
    old, new : Item
        The tensors.
    contents : Contents, optional
        Answers questions about content.
    loose : bool
        Whether an equal number of elements suffices, because the names match already.
    """
    if old.size != new.size:
        return None
    found = list(_ways(old, new, loose))
    known = old.digest is not None and new.digest is not None
    if known and old.digest == new.digest:
        return _same_bytes(old, new)
    if known and contents is not None:
        for steps in [*found, *_square(old, new)]:
            if steps and contents.same(steps[0][0], (steps[0][1],), [old.name], new.name, steps[1:]):
                return Turned(steps, proven=True)
    if not found:
        return None
    sure = 1.0 if len(found) == 1 else round(1 / len(found), 2)
    changed = known and (contents is not None or not found[0])
    return Turned(found[0], changed=changed, certain=sure if found[0] == () or not known else sure * 0.8)


def _same_bytes(old: Item, new: Item) -> Turned | None:
    if old.dtype != new.dtype:
        return None
    return Turned(() if old.shape == new.shape else (("reshape", new.shape),), proven=True)


def _square(old: Item, new: Item) -> list[tuple[Step, ...]]:
    """Return the steps for a transposed square matrix, which shapes do not reveal."""
    square = old.shape == new.shape and len(old.shape) == 2 and old.shape[0] == old.shape[1] > 1
    return [(("permute", (1, 0)),)] if square and old.dtype == new.dtype else []


def _ways(old: Item, new: Item, loose: bool) -> Iterator[tuple[Step, ...]]:
    cast: tuple[Step, ...] = (("cast", new.dtype),) if old.dtype != new.dtype else ()
    if old.shape == new.shape:
        yield cast
        return
    reshape: tuple[Step, ...] = (("reshape", new.shape),)
    squeezed = [size for size in old.shape if size != 1] == [size for size in new.shape if size != 1]
    if squeezed:
        yield reshape + cast
        return
    if len(old.shape) == len(new.shape) <= _MOST_DIMS and sorted(old.shape) == sorted(new.shape):
        orders = [
            order
            for order in permutations(range(len(old.shape)))
            if tuple(old.shape[dim] for dim in order) == new.shape
        ]
        orders.sort(key=lambda order: sum(dim != place for place, dim in enumerate(order)))
        for order in orders[:_MOST_ORDERS]:
            yield (("permute", order), *cast)
        if orders:
            return
    if loose:
        yield reshape + cast
