"""A checkpoint while operations are applied to it: its tree, and the parameters that are open for changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.engine import module_names
from anemoi_ckpt_migrate.engine.open_parameters import (
    OpenParameters,
    open_copy,
    open_optimizers,
    open_wrapped_otherwise,
)
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.find_hints import ParameterLocations, reached
from anemoi_ckpt_migrate.operations.parameter_groups import ParameterGroups
from anemoi_ckpt_migrate.operations.tied_weights import Ties
from anemoi_ckpt_migrate.state.archive_json import Attached
from anemoi_ckpt_migrate.state.find_parameters import (
    ParameterLocation,
    find_copies,
    find_main,
    find_optimizers,
    find_wrapped_otherwise,
)
from anemoi_ckpt_migrate.state.name_patterns import Pattern, literals
from anemoi_ckpt_migrate.state.optimizer_state import OptimizerSnapshot, State, StateOrder
from anemoi_ckpt_migrate.state.parameters import ParameterSet
from anemoi_ckpt_migrate.state.stash import StashText, packed, unpacked, unshared

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.errors import OperationFault
    from anemoi_ckpt_migrate.record.record import Order
    from anemoi_ckpt_migrate.state.ordered_names import Table
    from anemoi_ckpt_migrate.state.tensor_values import Tensors


class CheckpointState:
    """A checkpoint while operations are applied to it.

    The parameters are opened when the first operation needs them: the state dict, its copies and the optimizers, as
    tables of names. They stay open for the operations that follow, and are written back before anything else looks at
    the tree.

    Parameters
    ----------
    tree : object
        The checkpoint, without its record.
    tensors : Tensors
        Reads its tensors and makes new ones.
    stash : dict of str to list
        Stashed values, by revision.
    path : str, optional
        The path of the state dict.
    attached : Attached, optional
        Entries of the zip beside the pickle.
    orders : mapping of str to Order, optional
        Parameters of optimizers from the record, by the path of the optimizer.
    text : StashText, optional
        Spells stashed values as JSON, for a record that is text.
    shares : bool
        Whether tensors in the record share memory with the tree when the checkpoint is read again.
    keeps_order : bool
        Whether the state dict in the files is in the order of the model.
    in_order : bool
        Whether it is so in the tree, if the files do not keep the order.

    Attributes
    ----------
    orders : dict of str to Order
        Parameters of optimizers to store in the record, for optimizers from which they cannot be found again.
    faults : list of OperationFault
        All faults found; see `report`.
    missing : list of Pattern
        Names that are missing only because of these faults.
    main : OpenParameters or None
        The state dict, if it is open.
    others : list of OpenParameters
        Its copies and the optimizers, if they are open.
    """

    def __init__(
        self,
        tree: Any,
        tensors: Tensors,
        stash: dict[str, list[Any]],
        path: str | None = None,
        attached: Attached | None = None,
        orders: Mapping[str, Order] | None = None,
        text: StashText | None = None,
        shares: bool = True,
        keeps_order: bool = True,
        in_order: bool = False,
    ) -> None:
        self.tree, self.tensors, self.stash = tree, tensors, stash
        self.attached, self.orders = attached or Attached(), dict(orders or {})
        self.faults: list[OperationFault] = []
        self.missing: list[Pattern] = []
        self.main: OpenParameters | None = None
        self.others: list[OpenParameters] = []
        self._path, self._text, self._shares = path, text, shares
        self._order = StateOrder(keeps_order, keeps_order or in_order)
        self._hint: ParameterLocations | None = None  # used when parameters are opened next
        self._found: list[ParameterLocations] = []
        self._known: list[OptimizerSnapshot] = []
        self._has_ties = False

    def report(self, fault: OperationFault) -> None:
        """Add a fault."""
        self.faults.append(fault)

    def expect_missing(self, names: Sequence[Pattern]) -> None:
        """Note names that are missing because of a fault; no further fault reports them."""
        self.missing += names

    def replace_tree(self, tree: Any) -> None:
        """Take another tree, as a function returned it. The parameters must be closed."""
        self.tree = tree

    def take_stash(self, revision: str) -> list[Any]:
        """Remove the stashed values of a revision, and return them."""
        values = self.stash.pop(revision, [])
        return unpacked(values) if self._text is None else self._text.read(values)

    def unshared(self, values: list[Any]) -> list[Any]:
        """Return values to stash that no function can change later, unless the record shares memory with the tree."""
        return values if self._shares else unshared(values)

    def put_stash(self, revision: str, values: list[Any]) -> None:
        """Stash the values of a revision."""
        if self._text is None:
            self.stash[revision] = packed(values, [self.tree, *self.stash.values()])
        else:
            self.stash[revision] = self._text.spelled(values, self.stash)

    def ties(self) -> Ties:
        """Return the tied parameters of the state dict, if optimizers have one state for them."""
        return Ties(self.main.parameters.table if self._has_ties and self.main is not None else {})

    @property
    def optimizers(self) -> list[tuple[OpenParameters, State]]:
        """The open optimizers, with their states."""
        return [(opened, opened.state) for opened in self.others if opened.state is not None]

    @property
    def has_wrapped_otherwise(self) -> bool:
        """Whether a dict would be a copy except for the wrappers in its names."""
        return any(opened.is_wrapped_otherwise for opened in self.others)

    # Open, follow, write back

    def open(self, declared: ParameterGroups | None = None) -> OpenParameters | str:
        """Open the parameters unless they are open; return the state dict, or the reason why there is none."""
        if self.main is not None:
            return self.main
        place = self._place()
        return place if isinstance(place, str) else self._open_at(place, declared)

    def settle(self) -> list[Operation]:
        """Rename the modules after their parameters, and return this and other facts that a downgrade needs."""
        undo = [*self._declarations(), *module_names.follow(self.main, self.others)]
        if self.main is not None:
            copies = [opened.parameters for opened in self.others]
            self._found = reached(self.tree, self.main.parameters, copies)
            undo[:0] = self._found
        return undo

    def misfits(self) -> Iterator[str]:
        """Iterate over messages about names that a pickled model cannot contain."""
        return module_names.misfits(self.main, self.others)

    def close(self) -> None:
        """Write the tables back into the tree."""
        hint = next(iter(self._found), None)
        if self.main is None and self.orders and not self._known:
            hint = self._hint
            self._look()  # later changes of names can only be traced by the tensors
        if self.main is None:
            return
        for opened in (self.main, *self.others):
            opened.write()
        self._close_optimizers(self.main.parameters.table)
        for opened in (self.main, *self.others):
            opened.parameters.table.release()
        self.main, self.others = None, []
        self._hint, self._found = hint, []
        self.tensors.forget()  # functions that get the tree may change tensors in it

    def finish(self) -> None:
        """Write the tables back, and update `orders`."""
        if self._known or self.orders:
            self._look()
        self.close()

    def use_locations(self, locations: ParameterLocations) -> None:
        """Use the locations from a record, now or when parameters are opened next."""
        self._hint = locations
        place = locations.places(self.tree)[0]
        if self.main is not None and place is not None and place != self.main.place:
            self.close()
            self._hint = locations
        if self.main is not None:
            self._use_copies(self.main.parameters)

    # Steps of these

    def _place(self) -> ParameterLocation | str:
        noted = None if self._hint is None else self._hint.places(self.tree)[0]
        return noted or find_main(self.tree, self._path)

    def _look(self) -> None:
        """Open the parameters, if they can be found, so that optimizers can be identified."""
        if not self.faults:
            self.open()

    def _open_at(self, place: ParameterLocation, declared: ParameterGroups | None = None) -> OpenParameters:
        main = ParameterSet(place.path or "the state dict", place.table(), self.tensors, place=place)
        self.tensors.live_with(main.table[name] for name in main.table)
        self.main = OpenParameters(main)
        self.others = [open_copy(each, main, self.tensors) for each in find_copies(self.tree, place, main.table)]
        self._use_copies(main)
        self.others += self._wrapped_otherwise(place, main)
        states = [State(path, content, self.tensors, self._order) for path, content in find_optimizers(self.tree)]
        declarations = {} if declared is None else {declared.optimizer: declared}
        self.others += open_optimizers(states, main, self.tensors, declarations, self._known, self.orders)
        self._has_ties = bool(states) and bool(Ties(main.table).names)
        return self.main

    def _use_copies(self, main: ParameterSet) -> None:
        """Add the copies that the hint names, and remove dicts that it calls no copies."""
        if self._hint is None:
            return
        known = self._hint.places(self.tree)[1]
        named = {*self._hint.not_copies, *(place.path for place in known)}
        self.others = [each for each in self.others if each.path not in named or each.is_touched]
        there = {each.path for each in self.others}
        self.others += [open_copy(place, main, self.tensors) for place in known if place.path not in there]

    def _wrapped_otherwise(self, place: ParameterLocation, main: ParameterSet) -> list[OpenParameters]:
        known = [opened.place for opened in self.others if opened.place is not None]
        found = find_wrapped_otherwise(self.tree, place, main.table, known)
        not_copies = () if self._hint is None else self._hint.not_copies
        return [open_wrapped_otherwise(each, main, self.tensors) for each in found if each.path not in not_copies]

    def _close_optimizers(self, main: Table) -> None:
        """Write the state of optimizers, and note the names of their parameters."""
        before = self.orders
        self._known, self.orders = [], {}
        for state in [state for opened, state in self.optimizers if not opened.unknown]:
            touched = main.changed or state.table.changed or state.declared or state.path in before
            if state.is_stale(main):
                state.write(main)
            self._known.append(state.known(main))
            if touched and state.needs_names(main, self.tensors):
                self.orders[state.path] = state.order(main)

    def _declarations(self) -> list[Operation]:
        """Return declarations of optimizer parameters that a downgrade needs because shapes are ambiguous."""
        if self.main is None:
            return []
        main, found = self.main.parameters.table, list[Operation]()
        for number, (opened, state) in enumerate(self.optimizers):
            # Also if only tensors outside the optimizer changed: a downgrade has to distinguish them.
            touched = (main.changed or state.table.changed) and not opened.unknown
            if touched and state.needs_names(main, self.tensors):
                order = state.order(main)
                foreign = literals(order.foreign)
                groups = tuple(map(literals, order.groups))
                found.append(ParameterGroups(groups, number, own_order=order.own_order, foreign=foreign))
        return found
