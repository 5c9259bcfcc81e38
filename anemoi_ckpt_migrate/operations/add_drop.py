"""Operations that add and remove parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    flag_of,
    from_data,
    integer_of,
    integers_of,
    name_of,
    names_of,
    operation,
    set_fields,
)
from anemoi_ckpt_migrate.operations.initializers import fills, initialiser
from anemoi_ckpt_migrate.state.dtypes import DTYPES, is_floating, takes
from anemoi_ckpt_migrate.state.name_patterns import check_stars, literals, pattern
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


@operation
class Drop(Operation):
    """Remove parameters.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns.
    keep : bool
        Stash them in the checkpoint, with the moments of the optimizers, for the downgrade.
    """

    remedy = "keep=True"
    keys: tuple[str, ...]
    keep: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        flag_of(self, "keep", self.keep)

    @property
    def reversible(self) -> bool:
        """Whether the parameters are stashed."""
        return self.keep

    def apply(self, context: ParameterContext) -> list[Any]:
        """Remove the parameters, and return the rollback."""
        names = context.table.in_order(context.select(self.keys))
        renamed = {name: other for name in names if (other := context.other_name(name)) is not None}
        context.table.rename(renamed)  # the moments of tied weights stay with the remaining name
        gone = [(name, context.table.before(name)) for name in names if name not in renamed]
        items = []
        for name, before in gone:
            value = context.table.remove(name)
            if self.keep:
                items.append((name, context.stash(value), before))
        back: list[Any] = [RestoreParameters(tuple(items))] if items else []
        if renamed:
            from anemoi_ckpt_migrate.operations.rename import RenameEach

            back.insert(0, RenameEach(tuple((new, old) for old, new in renamed.items())))
        for name in () if self.keep else names:
            context.lose(f"{name} is dropped")
        return back


@operation
class RestoreParameters(Operation):
    """Put back parameters that `Drop` stashed."""

    written = False
    restores_stash = True
    items: tuple[tuple[str, int, str | None], ...]

    def __post_init__(self) -> None:
        set_fields(self, items=tuple((name, number, before) for name, number, before in self.items))

    def apply(self, context: ParameterContext) -> list[Any]:
        """Put the parameters back, each at its old position."""
        if context.free([name for name, *_ in self.items], ()):
            for name, number, before in self.items:
                try:
                    value = context.stashed(number)
                except Mismatch as error:
                    context.fault(f"{name} cannot be restored: {error}")
                    continue
                if value is not None:
                    context.table.insert({name: value}, [(name, before)])
        return []


@operation
class Add(Operation):
    """Add a parameter, or a buffer.

    Parameters
    ----------
    key : str
        Its name. A pattern with the placeholders of `after` adds one parameter for each match.
    shape : sequence of int
        Its shape.
    dtype : str
        Its dtype.
    fill : number or list of number
        The value of its elements; or the value of each, in one list, row by row. For long lists, such
        as whole weights, use `init`, or `Run`.
    init : str or sequence, optional
        Instead of `fill`: a function of `torch.nn.init`, as ``"kaiming_uniform_"``, or its name with arguments, as
        ``["normal_", {"std": 0.02}]``. The random numbers depend on the name of the parameter only.
    index : int, optional
        Its position among the parameters. Without it, the parameter comes after `after`, or at the end.
    after : str, optional
        The parameter that it follows: a name or a pattern.
    group : int, optional
        Its group in the optimizer, if there are several.
    buffer : bool
        Whether it is a buffer. Optimizers have no state for buffers.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    fill: float | tuple[float, ...] = 0
    init: Any = None
    index: int | None = None
    after: str | None = None
    group: int | None = None
    buffer: bool = False

    def __post_init__(self) -> None:
        name_of(self, "key", self.key)
        set_fields(self, shape=integers_of(self, "shape", self.shape))
        if not isinstance(self.dtype, str) or self.dtype.removeprefix("torch.") not in DTYPES:
            raise BadOperation(f"Add: {self.dtype!r:.60} is not a dtype; choose one of {', '.join(DTYPES)}")
        set_fields(self, dtype=self.dtype.removeprefix("torch."))
        if isinstance(self.fill, list):
            set_fields(self, fill=tuple(self.fill))
        self._check_fill()
        for what, value in (("index", self.index), ("group", self.group)):
            if value is not None:
                integer_of(self, what, value, 0)
        flag_of(self, "buffer", self.buffer)
        self._check_places()
        set_fields(self, init=initialiser("Add", self.init))
        if self.init is not None and not is_floating(self.dtype):
            raise BadOperation(f"Add: {self.init[0]} makes floating point numbers, not {self.dtype}")
        if self.init is not None and not fills(self.init[0], len(self.shape)):
            raise BadOperation(f"Add: {self.init[0]} cannot make the shape {list(self.shape)}")

    def check_written(self) -> None:
        """Refuse a star in the new name."""
        check_stars("Add", [self.key])

    def _check_fill(self) -> None:
        each = self.fill if isinstance(self.fill, tuple) else (self.fill,)
        for number in each:
            if not isinstance(number, (int, float)):
                raise BadOperation(f"Add: fill must be a number, or a list of numbers, not {self.fill!r:.60}")
            if not takes(self.dtype, number):
                raise BadOperation(f"Add: {self.dtype} cannot represent {str(number)[:40]}")
        if isinstance(self.fill, tuple) and len(each) != math.prod(self.shape):
            raise BadOperation(
                f"Add: {list(self.shape)} has {math.prod(self.shape)} elements, but fill has {len(each)}"
            )

    def _check_places(self) -> None:
        anchor = None if self.after is None else pattern(name_of(self, "after", self.after))
        if anchor is not None and self.index is not None:
            raise BadOperation("Add: set index or after, not both")
        if set(pattern(self.key).places) != set(anchor.places if anchor else ()):
            raise BadOperation(f"Add: key {self.key} and after need the same placeholders")

    def inverse(self) -> Operation | None:
        """Return the operation that removes the parameter if it still has its initial value."""
        return RemoveAdded(self.to_data(), None if pattern(self.key).places else (self.key,))

    @property
    def concerns_optimizers(self) -> bool:
        """Whether optimizers may have state for it: for floating-point parameters, not for buffers."""
        return not self.buffer and is_floating(self.dtype)

    def changes_order(self, names: Mapping[str, object]) -> bool:
        """Return True: the new parameter needs a position."""
        return True

    def beside_others(self, names: Mapping[str, object], group: Callable[[str], int | None]) -> str | None:
        """Return a name beside which it stands, if that is of another group; at the end it stands beside none."""
        if self.after is not None:
            beside = [name for name, _ in pattern(self.after).among(names)]
        else:
            beside = [] if self.index is None else [name for name in names if name != self.key]
        return next((name for name in beside if group(name) != (self.group or 0)), None)

    def recipe(self, name: str) -> tuple[str, tuple[Any, ...]]:
        """Return the recipe for the tensor with this name."""
        if self.init is None:
            return "fill", (self.shape, self.dtype, self.fill)
        return "init", (self.shape, self.dtype, self.init[0], self.init[1], name)

    def apply(self, context: ParameterContext) -> list[Any]:
        """Add the parameter, and return the rollback."""
        if context.optimizer and not self.concerns_optimizers:
            return []
        if context.main is not None and not context.whole and not context.optimizer and self.buffer:
            return []
        added = []
        for name, after in self._wanted(context):
            if not context.free([name], ()):
                continue
            try:
                kind, args = self.recipe(name)
                made = context.values.make(kind, (*args, self.group) if context.optimizer else args, [])
            except Mismatch as error:
                context.fault(f"{name} cannot be added: {error}")
                continue
            if not self.buffer and is_floating(self.dtype):
                made = context.parameter(made)
            index = self.index if context.main is None else None
            context.table.insert_at(name, made, index, after, first=after is None and context.stands_first(name))
            added.append(name)
        context.add(added)
        return [RemoveAdded(self.to_data(), literals(added))] if added else []

    def _wanted(self, context: ParameterContext) -> list[tuple[str, str | None]]:
        """Return the new names, each with the name that it follows."""
        if context.main is not None:
            return [(name, context.anchor(name)) for name in context.added if name not in context.table]
        if self.after is None:
            return [(pattern(self.key).fill({}), None)]
        found: list[tuple[str, str | None]] = [
            (pattern(self.key).fill(bound), name) for name, bound in pattern(self.after).among(context.table)
        ]
        if not found:
            context.missing(self.after, [self.key])
        return found


@operation
class RemoveAdded(Operation):
    """Remove an added parameter if it still has its initial value."""

    written = False
    added: Any
    names: tuple[str, ...] | None

    def __post_init__(self) -> None:
        set_fields(self, names=None if self.names is None else tuple(self.names))

    def __hash__(self) -> int:
        return hash(json.dumps(self.added, sort_keys=True))

    @property
    def concerns_optimizers(self) -> bool:
        """Whether the operation that it undoes does."""
        return from_data(self.added).concerns_optimizers

    def apply(self, context: ParameterContext) -> list[Any]:
        """Remove the parameter; one that has changed is a fault, unless changes may be discarded."""
        added = from_data(self.added)
        if not isinstance(added, Add):
            raise BadOperation("TakeBack: only added parameters can be removed")
        for name in context.select([added.key] if self.names is None else self.names):
            if not context.optimizer and not context.discard_changes:
                kind, args = added.recipe(name)
                if not context.values.same(context.table[name], context.values.make(kind, args, [])):
                    context.fault(f"{name} has changed since it was added; --discard-changes removes it")
                    continue
            context.table.remove(name)
        return []
