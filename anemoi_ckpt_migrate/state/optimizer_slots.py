"""The moments and other state of an optimizer for each parameter, as values of a table."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.state.dtypes import is_floating
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, class_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch, outcome, place_between
from anemoi_ckpt_migrate.tree.optimizer_formats import groups_like, nameless, settings_of
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.tensor_values import Tensors

_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf")  # steps are divided by these, or by roots
_FROM_ZERO = (
    *("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"),
    *("square_avg", "acc_delta", "grad_avg", "momentum_buffer"),
)  # torch.optim: state that is 0 before the first step
_COUNTERS = ("step", "mu_product", "eta", "mu")  # torch.optim: numbers, whatever shape the parameter has


@dataclass(frozen=True, eq=False)
class Slot:
    """The state of an optimizer for one parameter.

    Attributes
    ----------
    group : int
        The number of its group.
    shape : tuple of int
        The shape of the parameter. Its dtype is left out: each of the moments has its own, which is checked separately.
    state : dict or None
        State by name: ``exp_avg``, ``step`` and so on; None if there is none, as for a new optimizer.
    """

    group: int
    shape: tuple[int, ...]
    state: dict[Any, Any] | None


class Slots:
    """Operations on the slots of an optimizer: state with the shape of a parameter follows the operation on it.

    Parameters
    ----------
    tensors : Tensors
        Operations on tensors.
    groups : list of dict
        The groups of the optimizer.
    flattened : bool
        Whether groups are only settings that parameters share. A missing group can then come back, and each parameter
        needs a state, because torch's loader does not create one.

    Attributes
    ----------
    prefix : str
        The prefix of the optimizer's own names in the state dict.
    models : dict of int to Slot
        For each group, a parameter that has state; new parameters get state of the same kinds.
    """

    prefix = ""

    def __init__(self, tensors: Tensors, groups: list[dict[Any, Any]], flattened: bool = False) -> None:
        self._tensors, self._groups, self._flattened = tensors, groups, flattened
        self.models: dict[int, Slot] = {}

    def set_prefix(self, prefix: str) -> None:
        """Set the prefix of the optimizer's own names in the state dict."""
        self.prefix = prefix

    def set_models(self, models: dict[int, Slot]) -> None:
        """Set, for each group, a parameter that has state."""
        self.models = models

    def shape(self, value: Slot) -> tuple[int, ...]:
        """Return the shape of the parameter."""
        return value.shape

    def dtype(self, value: Slot) -> str:
        """Return an empty text, because the state of one parameter may have several dtypes."""
        return ""

    def same(self, one: Any, other: Any) -> bool:
        """Return True: changes are detected on the parameters."""
        return True

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Slot]) -> Slot:
        """Make the slot of a parameter that is made from others."""
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

    def insert(self, value: Slot, part: Slot, dim: int, at: int | None) -> Slot:
        """Make the slot of a parameter that gets a part between its entries.

        The counters are those of the parameter. Where the part has no moments, they are zero.
        """
        dim, at = place_between(value.shape, part.shape, dim, at)
        args = (dim, at, part.shape[dim], 0, False)
        shape, _ = outcome("pad", args, [value.shape], [""])
        if value.state is None:
            return Slot(value.group, shape, None)
        return Slot(
            value.group, shape, self._inserted(args, "state", (value.state, part.state), value.shape, part.shape)
        )

    def _inserted(
        self, args: tuple[Any, ...], name: str, both: tuple[Any, Any], shape: tuple[int, ...], size: tuple[int, ...]
    ) -> Any:
        """Make the state of such a parameter from its own and that of the part, which may be missing."""
        own, part = both
        if is_a(own, dict):
            inner = part if is_a(part, dict) else {}
            made = copy(own)  # an `OrderedDict` stays one
            made.update(
                {key: self._inserted(args, key, (each, inner.get(key)), shape, size) for key, each in own.items()}
            )
            return made
        if type(own) in (list, tuple):
            others = part if type(part) is type(own) and len(part) == len(own) else [None] * len(own)
            pairs = zip(own, others, strict=True)
            return type(own)(self._inserted(args, name, pair, shape, size) for pair in pairs)
        if not (is_stored(own) or is_real(own)) or self._is_counter(name, own, shape):
            return own
        if (is_stored(part) or is_real(part)) and self._tensors.shape(part) == size:
            return self._tensors.insert(own, part, *args[:2])
        return self._made("pad", args, name, [own], [shape])

    def _is_counter(self, name: str, value: Any, shape: tuple[int, ...]) -> bool:
        own = self._tensors.shape(value)
        return not own and (name in _COUNTERS or own != shape)

    def _fresh(self, args: tuple[Any, ...]) -> Slot:
        shape, group, count = tuple(args[0]), args[-1], len(self._groups)
        if group is None and count > 1:
            raise Mismatch(f"the optimizer has {count} groups; choose one, such as group=0")
        if group is not None and group >= count:
            raise Mismatch(f"the optimizer has {count} groups, but no group {group}")
        model = self.models.get(group or 0)
        # Most optimizers make the state of a parameter at its first step; Adagrad when it is made itself.
        eager = self._flattened or (model is not None and "sum" in (model.state or {}))
        if not eager or model is None:
            return Slot(group or 0, shape, None)
        settings = self._groups[group or 0]
        state = {key: self._start(key, value, model, shape, settings) for key, value in (model.state or {}).items()}
        return Slot(group or 0, shape, state)

    def _start(self, key: Any, value: Any, model: Slot, shape: tuple[int, ...], settings: dict[Any, Any]) -> Any:
        """Return the initial value of an entry, as torch's optimizers set it, given the entry of another parameter."""
        first = settings.get("initial_accumulator_value") if key == "sum" else 0 if key in _FROM_ZERO else None
        if first is None or (key == "momentum_buffer" and settings.get("dampening")):
            raise Mismatch(f"the initial {key} of a new parameter is unknown; use op.Run to add it")
        if not (is_stored(value) or is_real(value)):
            return type(value)(first)
        own = self._tensors.shape(value)
        whole = own == model.shape and not (key in _COUNTERS and not own)
        return self._tensors.make("fill", (shape if whole else own, self._tensors.dtype(value), first), [])

    def _made(
        self, kind: str, args: tuple[Any, ...], name: str, values: list[Any], shapes: list[tuple[int, ...]]
    ) -> Any:
        if is_a(values[0], dict) or type(values[0]) in (list, tuple):
            return self._each(kind, args, name, values, shapes)
        if is_a(values[0], Opaque):
            held = ".".join(class_of(values[0]))
            raise Mismatch(f"the optimizer's {name} is a {held}, which only op.Run can change")
        tensors = [is_stored(value) or is_real(value) for value in values]
        if not any(tensors):
            return self._one_of(name, values)
        if not all(tensors):
            raise Mismatch(f"the optimizer's {name} is a tensor for only some of them")
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
            # Each parameter has its own counter: two parameters that share one would both increase it.
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
        """Make a dict or a list like the given ones, item by item."""
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
        copied = copy(first)  # an `OrderedDict` stays one
        copied.update(made)
        return copied

    def _one_of(self, name: str, values: list[Any]) -> Any:
        if any(value != values[0] for value in values[1:]):
            raise Mismatch(f"the optimizer's {name} differs between them")
        return values[0]

    def keep(self, value: Slot) -> Any:
        """Return the slot as plain data and tensors."""
        stash = {"group": value.group, "shape": list(value.shape), "state": value.state}
        return stash | ({"settings": nameless(settings_of(self._groups[value.group]))} if self._flattened else {})

    def kept(self, value: Any) -> Slot | None:
        """Return a stashed slot; None for a tensor that no optimizer has state for."""
        if is_a(value, dict):
            group = value["group"]
            if self._flattened is not ("settings" in value):
                raise Mismatch("the optimizer was flattened, or is no longer flattened, since its state was stashed")
            if self._flattened:
                group = self._group_of(group, nameless(value["settings"]))
            if not 0 <= group < len(self._groups):
                raise Mismatch(f"it was in group {group} of the optimizer, which now has {len(self._groups)} groups")
            return Slot(group, tuple(value["shape"]), value["state"])
        self._tensors.shape(value)  # it is a tensor
        if not is_floating(self._tensors.dtype(value)):
            return None
        raise Mismatch(
            "the optimizer was added after it was stashed, so its optimizer state is unknown; "
            "remove the optimizer from the checkpoint first"
        )

    def _group_of(self, number: int, settings: dict[Any, Any]) -> int:
        """Return the group with these settings: the one with this number if several match, a new one if none does."""
        found = groups_like(list(map(nameless, self._groups)), settings, self._tensors.same_values)
        if not found:
            self._groups.append({**settings, "params": []})
            return len(self._groups) - 1
        return number if number in found else found[0]
