"""What an optimizer remembers of a parameter, as what the names of a table stand for."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from anemoi_ckpt_migrate.checkpoints.opaque import Opaque, class_of
from anemoi_ckpt_migrate.checkpoints.shapes import Mismatch, outcome
from anemoi_ckpt_migrate.checkpoints.tensors import is_a, is_stored
from anemoi_ckpt_migrate.operations.dtypes import is_floating
from anemoi_ckpt_migrate.operations.tensors import Tensors, is_real

_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf")  # steps are divided by these, or by roots
_COUNTERS = ("step", "mu_product", "eta", "mu")  # torch.optim: numbers, whatever shape the parameter has


@dataclass(frozen=True, eq=False)
class Slot:
    """What an optimizer knows of one parameter.

    Attributes
    ----------
    group : int
        The group that it is in.
    shape : tuple of int
        Its shape. Its dtype is not of interest here: moments have their own, and are checked by it one by one.
    state : dict or None
        What is remembered, by name: ``exp_avg``, ``step`` and so on; None where there is nothing, as for a fresh one.
    """

    group: int
    shape: tuple[int, ...]
    state: dict[Any, Any] | None


class Slots:
    """What can be done with the slots of an optimizer: what is done with the parameters, with all that has their shape.

    Parameters
    ----------
    tensors : Tensors
        What can be done with tensors.
    groups : int
        How many groups there are.

    Attributes
    ----------
    lead : str
        What stands before the optimizer's own names in the state dict.
    """

    lead = ""

    def __init__(self, tensors: Tensors, groups: int) -> None:
        self._tensors, self._groups = tensors, groups

    def shape(self, value: Slot) -> tuple[int, ...]:
        """Return the shape of the parameter."""
        return value.shape

    def dtype(self, value: Slot) -> str:
        """Return no dtype: what is remembered of one parameter may be of several."""
        return ""

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether two are the same; what was changed since is seen on the parameters."""
        return True

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Slot]) -> Slot:
        """Make the slot of a parameter that is made of others."""
        if kind in ("fill", "init"):
            return self._fresh(args)
        shape, _ = outcome(kind, args, [slot.shape for slot in values], [self.dtype(slot) for slot in values])
        groups = {slot.group for slot in values}
        if len(groups) > 1:
            raise Mismatch(f"they are in groups {' and '.join(map(str, sorted(groups)))} of the optimizer")
        states = [slot.state for slot in values if slot.state is not None]
        if not states:
            return Slot(values[0].group, shape, None)
        if len(states) < len(values):
            raise Mismatch("the optimizer has moments for some of them and none for others")
        made = self._made(kind, args, "state", states, [slot.shape for slot in values])
        return Slot(values[0].group, shape, made)

    def _fresh(self, args: tuple[Any, ...]) -> Slot:
        shape, group = args[0], args[-1]
        if group is None and self._groups > 1:
            raise Mismatch(f"the optimizer has {self._groups} groups; say which one it belongs to, as group=0")
        if group is not None and group >= self._groups:
            raise Mismatch(f"the optimizer has {self._groups} groups, and no group {group}")
        return Slot(group or 0, tuple(shape), None)

    def _made(
        self, kind: str, args: tuple[Any, ...], name: str, values: list[Any], shapes: list[tuple[int, ...]]
    ) -> Any:
        if is_a(values[0], dict) or type(values[0]) in (list, tuple):
            return self._each(kind, args, name, values, shapes)
        if is_a(values[0], Opaque):
            held = ".".join(class_of(values[0]))
            raise Mismatch(f"the optimizer's {name} is a {held}, which only `Run` can change")
        tensors = [is_stored(value) or is_real(value) for value in values]
        if not any(tensors):
            return self._one_of(name, values)
        if not all(tensors):
            raise Mismatch(f"the optimizer's {name} is a tensor for some of them only")
        own = [self._tensors.shape(value) for value in values]
        counts = name in _COUNTERS and not any(own)
        if own == shapes and not counts:
            if kind == "pad":
                args = (*args[:3], float("inf") if args[4] and name in _SQUARES else 0.0, False)
            return self._tensor(kind, args, name, values)
        if not any(own):
            first = values[0]
            if not all(self._tensors.same(first, value) for value in values[1:]):
                raise Mismatch(f"the optimizer's {name} differs between them")
            # Each parameter counts for itself: two that shared the counter would both count on it.
            return self._tensors.make("clone", (), [first]) if kind in ("narrow", "select") else first
        raise Mismatch(
            f"the optimizer's {name} has the shape {list(own[0])}, not that of the parameter {list(shapes[0])}"
        )

    def _tensor(self, kind: str, args: tuple[Any, ...], name: str, values: list[Any]) -> Any:
        try:
            return self._tensors.make(kind, args, values)
        except Mismatch as error:
            raise Mismatch(f"in the optimizer's {name}, {error}") from None

    def _each(
        self, kind: str, args: tuple[Any, ...], name: str, values: list[Any], shapes: list[tuple[int, ...]]
    ) -> Any:
        """Make a dict or a list like those that are given, item by item."""
        first = values[0]
        named = isinstance(first, dict)
        keys: list[Any] = list(first) if named else list(range(len(first)))
        for value in values:
            if type(value) is not type(first) or (list(value) if named else list(range(len(value)))) != keys:
                raise Mismatch(f"the optimizer's {name} differs between them")
        made = {
            key: self._made(kind, args, key if named else name, [value[key] for value in values], shapes)
            for key in keys
        }
        if not named:
            return type(first)(made.values())
        copied = copy(first)  # an ordered one stays one
        copied.update(made)
        return copied

    def _one_of(self, name: str, values: list[Any]) -> Any:
        if any(value != values[0] for value in values[1:]):
            raise Mismatch(f"the optimizer's {name} differs between them")
        return values[0]

    def keep(self, value: Slot) -> Any:
        """Return the slot as plain data and tensors."""
        return {"group": value.group, "shape": list(value.shape), "state": value.state}

    def kept(self, value: Any) -> Slot | None:
        """Return the slot that was put aside; None for a tensor that no optimizer has."""
        if is_a(value, dict):
            return Slot(value["group"], tuple(value["shape"]), value["state"])
        self._tensors.shape(value)  # it is a tensor
        if not is_floating(self._tensors.dtype(value)):
            return None
        raise Mismatch(
            "the optimizer was not there when it was put aside, and whether it is to have it is not known; "
            "take the optimizer out of the checkpoint first"
        )
