"""Parameters to compare (name, shape, dtype and, if known, content), and links between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from anemoi_ckpt_migrate.util.dataclass import dataclass, field

Step = tuple[str, Any]
"""One change to a tensor: ``permute``, ``reshape``, ``cast``, ``pad`` or ``crop``, with its argument. The argument of
``pad`` and of ``crop`` is a dimension, the number of entries, and the index of the first or None for the end."""


@dataclass(frozen=True)
class Item:
    """A parameter or a buffer.

    Attributes
    ----------
    name : str
        Its name.
    shape : tuple of int
        Its shape.
    dtype : str
        Its dtype, without ``torch.``.
    digest : str or None
        Digest of its content. None if that is unknown, as in a model without weights.
    buffer : bool
        Whether it is known to be a buffer, which optimizers do not hold. Ignored in comparisons.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str | None = None
    buffer: bool = field(default=False, compare=False)

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


class Contents(Protocol):
    """Answers questions about content. It exists only if both sides have weights."""

    def same(self, kind: str, args: tuple[Any, ...], old: Sequence[str], new: str, steps: Sequence[Step] = ()) -> bool:
        """Return whether a recipe, applied to old parameters and followed by steps, gives the new one bit for bit."""

    def holds(self, new: str, starts: Sequence[int], old: str) -> bool:
        """Return whether a larger new parameter holds an old one, beginning at the given index of each dimension."""

    def is_part(self, new: str, starts: Sequence[int], old: str) -> bool:
        """Return whether a smaller new parameter is the part of an old one that begins at these indices."""


@dataclass(frozen=True)
class Link:
    """A match of old and new parameters.

    Attributes
    ----------
    old, new : tuple of str
        The old and the new names.
    kind : str
        ``one`` to one; ``cat`` or ``stack``, several to one; ``narrow`` or ``select``, one to several.
    dim : int
        The dimension of joining or splitting; unused for one to one.
    sizes : tuple of int
        The size of each part along that dimension.
    steps : tuple of Step
        The steps that follow, for each new parameter.
    confidence : float
        1 if content proves the match, or if there is no alternative.
    alternatives : tuple of str
        Other names that could be meant instead.
    changed : bool
        Whether the values are known to differ.
    note : str
        A remark for the user.
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
