"""Two trees compared: the first place where they differ, and how. Tensors by their content, where memory differs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.checkpoints.opaque import Opaque, OpaqueName
from anemoi_ckpt_migrate.checkpoints.recipes import Mismatch
from anemoi_ckpt_migrate.checkpoints.tensors import dtype_of, is_a, is_stored, kind_of
from anemoi_ckpt_migrate.operations.tensors import is_real, memory_of


class Difference(NamedTuple):
    """Where two trees differ.

    Attributes
    ----------
    where : str
        The place, keys joined by dots.
    what : str
        What is there, and what was.
    """

    where: str
    what: str


def first_difference(before: Any, after: Any, same: Callable[[Any, Any], bool]) -> Difference | None:
    """Compare two trees.

    Parameters
    ----------
    before, after : object
        The trees. The order of keys counts in an `OrderedDict`, as for Python's ``==``, and in no other dict.
    same : callable
        Tells whether two tensors of one shape and dtype have the same content.
    """
    return _Comparing(same).difference(before, after, "")


class _Comparing:
    def __init__(self, same: Callable[[Any, Any], bool]) -> None:
        self._same, self._seen = same, set[tuple[int, int]]()
        self._memory: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._compared: set[Any] = set()

    def difference(self, before: Any, after: Any, where: str) -> Difference | None:
        shown = where or "the checkpoint"
        if _is_tensor(before) or _is_tensor(after):
            return self._of_tensors(before, after, shown)
        if is_a(before, OpaqueName) and is_a(after, OpaqueName):
            one, other = before.pickled_name, after.pickled_name
            return None if one == other else Difference(shown, f"it was {'.'.join(one)}, and is {'.'.join(other)}")
        if type(before) is not type(after) and not (is_a(before, Opaque) and is_a(after, Opaque)):
            return Difference(shown, f"it was a {_kind(before)}, and is a {_kind(after)}")
        if (id(before), id(after)) in self._seen:
            return None
        if is_a(before, (dict, list, tuple, Opaque)):
            self._seen.add((id(before), id(after)))
            return self._of_containers(before, after, where)
        if before == after or (before != before and after != after):
            return None
        if hasattr(before, "pickled_name") and before.pickled_name == getattr(after, "pickled_name", None):
            return None
        return Difference(shown, f"it was {before!r:.60}, and is {after!r:.60}")

    def _of_containers(self, before: Any, after: Any, where: str) -> Difference | None:
        shown = where or "the checkpoint"
        if is_a(before, dict):
            wrong = _of_keys(before, after, shown)
            if wrong is not None:
                return wrong
        elif is_a(before, (list, tuple)) and len(before) != len(after):
            return Difference(shown, f"it had {len(before)} items, and has {len(after)}")
        for name, one, other in _pairs(before, after):
            found = self.difference(one, other, f"{where}.{name}" if where else str(name))
            if found is not None:
                return found
        return None

    def _of_tensors(self, before: Any, after: Any, shown: str) -> Difference | None:
        if not (_is_tensor(before) and _is_tensor(after)):
            return Difference(shown, f"it was a {_kind(before)}, and is a {_kind(after)}")
        for what, one, other in zip(("shape", "dtype", "kind"), _facts(before), _facts(after), strict=True):
            if one != other:
                return Difference(shown, f"its {what} was {one}, and is {other}")
        one, other = memory_of(before), memory_of(after)
        if one is None and other is None and 0 in _facts(before)[0]:
            return None
        if self._memory[0].setdefault(one, other) != other or self._memory[1].setdefault(other, one) != one:
            return Difference(shown, "it shares its memory with another tensor than it did")
        if one == other or (one, other) in self._compared:
            return None
        self._compared.add((one, other))
        try:
            equal = self._same(before, after)
        except Mismatch as error:
            return Difference(shown, f"its content cannot be compared: {error}")
        return None if equal else Difference(shown, "its content is not what it was")


def _of_keys(before: Any, after: Any, shown: str) -> Difference | None:
    lost = next((key for key in before if key not in after), None)
    if lost is not None:
        return Difference(shown, f"{lost} is missing")
    new = next((key for key in after if key not in before), None)
    if new is not None:
        return Difference(shown, f"{new} was not there")
    if is_a(before, OrderedDict):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            if one != other:
                return Difference(shown, f"the order of its keys differs: {one} was number {place + 1}, now {other} is")
    return None


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any, Any]]:
    if is_a(before, Opaque):
        one, other = before.__opaque_parts__, after.__opaque_parts__
        yield "class", type(before), type(after)
        for name in ("function", "args", "kwargs", "state", "items", "pairs", "setter"):
            yield name, getattr(one, name), getattr(other, name)
    elif is_a(before, dict):
        yield from ((key, before[key], after[key]) for key in before)
        if getattr(before, "__dict__", None) or getattr(after, "__dict__", None):
            own, its = dict(vars(before)), dict(vars(after))
            yield from ((key, own.get(key), its.get(key)) for key in own | its)
    else:
        yield from ((place, *pair) for place, pair in enumerate(zip(before, after, strict=True)))


def _is_tensor(value: Any) -> bool:
    return is_stored(value) or is_real(value)


def _facts(value: Any) -> tuple[Any, ...]:
    if is_stored(value):
        try:
            shape = list(value.shape)
        except (TypeError, IndexError):
            shape = []
        kind = "parameter" if kind_of(value).startswith("parameter") else "tensor"
        return shape, dtype_of(value), kind
    kind = "parameter" if type(value).__name__ == "Parameter" else "tensor"
    return list(value.shape), str(value.dtype).removeprefix("torch."), kind


def _kind(value: Any) -> str:
    return "tensor" if _is_tensor(value) else type(value).__name__
