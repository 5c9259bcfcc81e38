"""Tensors as values of a table: stand-ins that are computed later, or real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.deferred import TensorBuilder, identity, known_dtype, location_of, plain_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_real, is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch, place_between


class Tensors:
    """Operations on tensors.

    Parameters
    ----------
    maker : TensorBuilder
        Makes stand-ins.
    same : callable
        Returns whether two stand-ins have the same content.
    content : bool
        Whether tensors are real, so that newly made ones are real too.
    """

    def __init__(self, maker: TensorBuilder, same: Callable[[Any, Any], bool], content: bool = False) -> None:
        self._maker, self._same, self._content = maker, same, content
        self._known: dict[Any, tuple[Any, Sequence[Any]]] = {}

    def live_with(self, others: Iterable[Any]) -> None:
        """Set the device of newly made tensors: the recorded device of most of the others."""
        found = map(location_of, filter(is_stored, others))
        places = Counter(place for place in found if place is not None)
        if places:
            self._maker.lives_at(places.most_common(1)[0][0])

    def forget(self) -> None:
        """Forget the tensors made so far, so that equal ones made later do not share memory with them."""
        self._known = {}

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises
        ------
        Mismatch
            The value is not a tensor, or a tensor without a shape.
        """
        if is_stored(value):
            return tuple(plain_of(value).shape)
        if not is_real(value):
            raise Mismatch(f"it is a {type(value).__name__}, not a tensor")
        return tuple(value.shape)

    def dtype(self, value: Any) -> str:
        """Return the dtype of a tensor."""
        return known_dtype(value) if is_stored(value) else str(value.dtype).removeprefix("torch.")

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Any]) -> Any:
        """Make a tensor from others: a real one at once, a stand-in when the file is written."""
        if not self._content and all(map(is_stored, values)):
            return self._maker.make(kind, args, values)
        for value in values:
            self.shape(value)
        if not self._content and not any(map(is_real, values)):
            return self._maker.make(kind, args, values)
        # Equal results of the same tensors share memory, as with stand-ins: tied weights stay tied.
        key = (kind, repr(args), tuple(map(memory_of, values)))
        if kind in ("clone", "fill", "init", "mu_product") or None in key[2]:
            return _computed(kind, args, values)
        if key not in self._known:
            self._known[key] = _computed(kind, args, values), values  # kept alive: their addresses identify memory
        return self._known[key][0]

    def insert(self, value: Any, part: Any, dim: int, at: int | None) -> Any:
        """Make a tensor that has a part between its entries: behind `at` of them, or behind all."""
        shape = self.shape(value)
        dim, at = place_between(shape, self.shape(part), dim, at)
        pieces = [("narrow", (dim, 0, at), value), ("", (), part), ("narrow", (dim, at, shape[dim] - at), value)]
        whole = [self.make(kind, args, [each]) if kind else each for kind, args, each in pieces if not kind or args[2]]
        return self.make("cat", (dim,), whole)

    def same(self, one: Any, other: Any) -> bool:
        """Return whether two tensors have the same content."""
        if self.shape(one) != self.shape(other) or self.dtype(one) != self.dtype(other):
            return False
        return self._same(one, other)

    def same_values(self, one: Any, other: Any) -> bool:
        """Return whether two values, tensors or not, are equal and of the same type."""
        tensors = [is_stored(value) or is_real(value) for value in (one, other)]
        if any(tensors):
            return all(tensors) and (one is other or self.same(one, other))
        return type(one) is type(other) and bool(one == other)

    def keep(self, value: Any) -> Any:
        """Return the tensor."""
        return value

    def kept(self, value: Any) -> Any:
        """Return the tensor."""
        return value


def _computed(kind: str, args: tuple[Any, ...], values: Sequence[Any]) -> Any:
    from anemoi_ckpt_migrate.storage.tensors.evaluate import finished

    if not all(map(is_real, values)):
        raise Mismatch("some of them have a class that is not imported")
    return finished(kind, args, values)


def memory_of(value: Any) -> Any:
    """Return a key that is equal for two tensors in the very same memory; None for a tensor without memory."""
    if is_stored(value):
        found = identity(value)
        return None if isinstance(found, tuple) and 0 in found[2] else found
    if is_real(value) and not value.numel():
        return None
    if is_real(value) and value.layout is not None and str(value.layout) == "torch.strided":
        return (value.untyped_storage()._cdata, value.storage_offset(), tuple(value.shape), tuple(value.stride()))
    return None
