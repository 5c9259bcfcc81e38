"""A dict of parameters, or an optimizer, while operations are applied to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.operations.tied_weights import Ties
from anemoi_ckpt_migrate.state.find_parameters import ParameterLocation, unwrapped, wrappers_of
from anemoi_ckpt_migrate.state.infer_optimizer import Unknown
from anemoi_ckpt_migrate.state.optimizer_state import OptimizerSnapshot, OrderDeclaration, State, known_of
from anemoi_ckpt_migrate.state.parameters import ParameterSet

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Order
    from anemoi_ckpt_migrate.state.tensor_values import Tensors


class OpenParameters:
    """A dict of parameters, or an optimizer, while operations are applied to it.

    Parameters
    ----------
    parameters : ParameterSet
        Its names and values.
    state : State, optional
        The optimizer state, if it is one.
    unknown : str
        Why operations cannot follow it: its parameters cannot be identified. Empty if they can.
    """

    def __init__(self, parameters: ParameterSet, state: State | None = None, unknown: str = "") -> None:
        self.parameters, self.state, self.unknown = parameters, state, unknown
        self._may_have_ties = not parameters.optimizer

    @property
    def path(self) -> str:
        """Its path in the tree."""
        return self.parameters.path

    @property
    def place(self) -> ParameterLocation | None:
        """Its location in the tree; None for an optimizer."""
        return self.parameters.place

    @property
    def is_wrapped_otherwise(self) -> bool:
        """Whether it looks like a copy of the parameters with wrappers at other places in its names."""
        return bool(self.unknown) and self.state is None

    @property
    def is_touched(self) -> bool:
        """Whether an operation has changed it."""
        return self.parameters.table.changed

    def ties(self) -> Ties | None:
        """Return its tied parameters; None if it has none. Operations cannot tie parameters: one search is enough."""
        ties = Ties(self.parameters.table) if self._may_have_ties else None
        self._may_have_ties = ties is not None and bool(ties.names)
        return ties if self._may_have_ties else None

    def write(self) -> None:
        """Write changed parameters into the tree."""
        if self.place is not None and self.is_touched:
            self.place.write(self.parameters.table)


def open_copy(place: ParameterLocation, main: ParameterSet, tensors: Tensors) -> OpenParameters:
    """Open a copy of the state dict."""
    table = place.table()
    whole = all(name in table for name in main.table)
    return OpenParameters(ParameterSet(place.path, table, tensors, main, whole, place=place))


def open_wrapped_otherwise(place: ParameterLocation, main: ParameterSet, tensors: Tensors) -> OpenParameters:
    """Open a dict that would be a copy except for the wrappers in its names: operations cannot follow it yet."""
    copy = open_copy(place, main, tensors).parameters
    own = {unwrapped(name): name for name in copy.table}
    here, there = next((name, own[unwrapped(name)]) for name in main.table if unwrapped(name) in own)
    strips = " and ".join(f'op.StripPrefix("{each}.", anywhere=True)' for each in wrappers_of([here, there]))
    return OpenParameters(
        copy,
        unknown=f"{there} in {copy.path} seems to be {here} of the state dict, but with other wrappers; before other "
        f"operations, strip them in both with {strips}",
    )


def open_optimizers(
    states: Sequence[State],
    main: ParameterSet,
    tensors: Tensors,
    declared: Mapping[int, OrderDeclaration],
    known: Sequence[OptimizerSnapshot],
    orders: Mapping[str, Order],
) -> Iterator[OpenParameters]:
    """Open optimizers, and find the parameters of each.

    Parameters
    ----------
    states : sequence of State
        The optimizer states in the tree.
    main : ParameterSet
        The state dict.
    tensors : Tensors
        Operations on its tensors.
    declared : mapping of int to OrderDeclaration
        Declarations of the script, by the index of the optimizer.
    known : sequence of OptimizerSnapshot
        The parameters known before the tree was changed.
    orders : mapping of str to Order
        Parameters from the record, by the path of the optimizer.
    """
    for number, state in enumerate(states):
        unknown = ""
        try:
            before = known_of(state, known, states)
            state.name_slots(main.table, tensors, declared.get(number), before, orders.get(state.path))
        except Unknown as error:
            unknown = str(error)
        yield OpenParameters(ParameterSet(state.path, state.table, state.slots, main, optimizer=True), state, unknown)
