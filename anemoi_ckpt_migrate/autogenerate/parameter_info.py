"""What is compared: parameters by name, shape, dtype and, where it is known, content; and how they are related."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Step = tuple[str, Any]
"""What is done to one tensor: ``permute``, ``reshape``, ``cast`` or ``pad`` (a dimension, by how much, the index or
None for the end), with its argument."""


@dataclass(frozen=True)
class Item:
    """A parameter, or a buffer.

    Attributes
    ----------
    name : str
        Its name.
    shape : tuple of int
        Its shape.
    dtype : str
        Its dtype, without ``torch.``.
    digest : str or None
        Of its content: dtype and bytes. None where that is not known, as of a model without weights.
    buffer : bool
        Whether it is known to be a buffer, none of an optimizer's business. Nobody compares that.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str | None = None
    buffer: bool = field(default=False, compare=False)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


class Contents(Protocol):
    """Answers questions about content; there only if both sides have weights."""

    def same(self, kind: str, args: tuple[Any, ...], old: Sequence[str], new: str, steps: Sequence[Step] = ()) -> bool:
        """Tell whether what `recipes` makes of old parameters, and steps of that, is the new one, bit for bit."""

    def holds(self, new: str, starts: Sequence[int], old: str) -> bool:
        """Tell whether an old parameter stands in a larger new one, from an index of each dimension on."""


@dataclass(frozen=True)
class Link:
    """What became of what.

    Attributes
    ----------
    old, new : tuple of str
        Names.
    kind : str
        ``one`` to one; ``cat`` or ``stack``, several to one; ``narrow`` or ``select``, one to several.
    dim : int
        Along which dimension, for all but one to one.
    sizes : tuple of int
        How much of it each has.
    steps : tuple of Step
        What is done afterwards, to each new one.
    confidence : float
        1 if it is proven by content, or nothing else is possible.
    alternatives : tuple of str
        Names that it might have been instead.
    changed : bool
        Whether the values are known to be others.
    note : str
        What a user should know.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    kind: str = "one"
    dim: int = 0
    sizes: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    confidence: float = 1.0
    alternatives: tuple[str, ...] = ()
    changed: bool = False
    note: str = ""
