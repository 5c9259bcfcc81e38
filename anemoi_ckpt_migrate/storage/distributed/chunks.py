"""The algebra of chunks: tensors that are joined or cut move their chunks, and no byte is read.

A chunk is a box in a tensor: its first index and its size in each dimension. What is said here holds for any number of
dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

_MOST_CUT = 16  # dimensions along which a tensor is cut


class Box(Protocol):
    """A part of a tensor."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Its first index in each dimension."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape."""

    def _replace(self, *, offsets: tuple[int, ...]) -> Box:
        """Return it at another place."""


AnyBox = TypeVar("AnyBox", bound=Box)


def covers(shape: Sequence[int], boxes: Collection[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Return whether boxes, each with its offsets and sizes, fill a tensor: without a gap, each element once.

    Each box turns over its corners. If those of the whole are left, each element lies in an odd number of boxes; and in
    one only, if the boxes together have as many elements as the whole. Boxes without elements fill nothing.
    """
    for offsets, sizes in boxes:
        if len(offsets) != len(shape) or any(
            first + size > whole for first, size, whole in zip(offsets, sizes, shape, strict=True)
        ):
            return False
    boxes = [box for box in boxes if 0 not in box[1]]
    if sum(math.prod(sizes) for _, sizes in boxes) != math.prod(shape):
        return False
    cut = [dim for dim, whole in enumerate(shape) if any(sizes[dim] != whole for _, sizes in boxes)]
    if len(cut) > _MOST_CUT:
        return False
    left: set[tuple[int, ...]] = set()
    for offsets, sizes in [*boxes, ((0,) * len(shape), tuple(shape))]:
        if math.prod(sizes):
            left ^= set(itertools.product(*((offsets[dim], offsets[dim] + sizes[dim]) for dim in cut)))
    return not left


def joined(parts: Iterable[tuple[Sequence[int], Iterable[AnyBox]]], dim: int) -> list[AnyBox]:
    """Return the boxes of tensors that are joined along a dimension.

    Parameters
    ----------
    parts : iterable of (shape, boxes)
        The tensors. A box without elements is left out, since another may begin at the same place.
    dim : int
        The dimension.
    """
    found, at = [], 0
    for shape, boxes in parts:
        found += [moved(box, dim, at) for box in boxes if 0 not in box.sizes]
        at += shape[dim]
    return found


def cut(boxes: Iterable[AnyBox], dim: int, first: int, count: int) -> list[AnyBox] | None:
    """Return the boxes of a part of a tensor; None if a box lies across one of its ends.

    Parameters
    ----------
    boxes : iterable of Box
        The boxes of the tensor.
    dim, first, count : int
        The dimension, the first index of the part, and its length.
    """
    found = []
    for box in boxes:
        begin, end = box.offsets[dim], box.offsets[dim] + box.sizes[dim]
        if 0 in box.sizes or end <= first or begin >= first + count:
            continue
        if begin < first or end > first + count:
            return None
        found.append(moved(box, dim, -first))
    return found


def moved(box: AnyBox, dim: int, by: int) -> AnyBox:
    """Return a box that is moved along a dimension."""
    offsets = (*box.offsets[:dim], box.offsets[dim] + by, *box.offsets[dim + 1 :])
    return box._replace(offsets=offsets)  # type: ignore[return-value]
