"""Tensors as what the names of a table stand for: stand-ins, of which others are to be made, or real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anemoi_ckpt_migrate.checkpoints.recipes import Maker, Mismatch, identity, known_dtype, plain_of
from anemoi_ckpt_migrate.checkpoints.tensors import is_stored


class Tensors:
    """What can be done with tensors.

    Parameters
    ----------
    maker : Maker
        Makes stand-ins.
    same : callable
        Tells whether two stand-ins have the same content.
    """

    def __init__(self, maker: Maker, same: Callable[[Any, Any], bool]) -> None:
        self._maker, self._same = maker, same

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises
        ------
        Mismatch
            It is none, or none that has one.
        """
        if is_stored(value):
            return tuple(plain_of(value).shape)
        if not is_real(value):
            raise Mismatch(f"it is a {type(value).__name__}, not a tensor")
        return tuple(value.shape)

    def dtype(self, value: Any) -> str:
        """Return its dtype."""
        return known_dtype(value) if is_stored(value) else str(value.dtype).removeprefix("torch.")

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Any]) -> Any:
        """Make one of others: real ones at once, stand-ins when the file is written."""
        for value in values:
            self.shape(value)
        if any(map(is_real, values)):
            return _computed(kind, args, [value if is_real(value) else _refused() for value in values])
        return self._maker.make(kind, args, values)

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether two have the same content."""
        if self.shape(one) != self.shape(other) or self.dtype(one) != self.dtype(other):
            return False
        return self._same(one, other)

    def keep(self, value: Any) -> Any:
        """Return the tensor."""
        return value

    def kept(self, value: Any) -> Any:
        """Return the tensor."""
        return value


def _refused() -> Any:
    raise Mismatch("some of them are of a class that is not imported")


def is_real(value: Any) -> bool:
    """Tell whether a value is a tensor of torch's, not a stand-in."""
    return not is_stored(value) and type(value).__module__.startswith("torch") and hasattr(value, "untyped_storage")


def _computed(kind: str, args: tuple[Any, ...], values: Sequence[Any]) -> Any:
    from anemoi_ckpt_migrate.checkpoints.computing import computed

    return computed(kind, args, values).contiguous().clone()


def memory_of(value: Any) -> Any:
    """Return what two tensors have in common if they are of the very same memory; None for what has none."""
    if is_stored(value):
        found = identity(value)
        return None if isinstance(found, tuple) and 0 in found[2] else found
    if is_real(value) and not value.numel():
        return None
    if is_real(value) and value.layout is not None and str(value.layout) == "torch.strided":
        return (value.untyped_storage()._cdata, value.storage_offset(), tuple(value.shape), tuple(value.stride()))
    return None
