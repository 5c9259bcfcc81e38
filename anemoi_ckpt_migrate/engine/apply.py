"""Apply operations to a checkpoint: its tree, and the tables of parameters that are open for changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.engine.module_names import OpenParameters, follow, follow_back, misfits
from anemoi_ckpt_migrate.errors import DamagedRecord, OperationFault
from anemoi_ckpt_migrate.operations.add_drop import Add, is_of_optimizers, takes_back
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.derive import Derive
from anemoi_ckpt_migrate.operations.find_hints import ParameterLocations, reached
from anemoi_ckpt_migrate.operations.module_metadata import RestoreModules
from anemoi_ckpt_migrate.operations.parameter_groups import OptimizerPrefix, ParameterGroups, PerCopy, by_place
from anemoi_ckpt_migrate.operations.rename import Reorder, StripPrefix
from anemoi_ckpt_migrate.operations.tied_weights import Tie, Ties
from anemoi_ckpt_migrate.operations.tree_operation import TreeContext, TreeOperation, functions
from anemoi_ckpt_migrate.record.record import Order
from anemoi_ckpt_migrate.state.archive_json import Attached
from anemoi_ckpt_migrate.state.find_parameters import (
    ParameterLocation,
    find_copies,
    find_main,
    find_optimizers,
    find_wrapped_otherwise,
    unwrapped,
    wrappers_of,
)
from anemoi_ckpt_migrate.state.infer_optimizer import Unknown, candidates, differ
from anemoi_ckpt_migrate.state.name_patterns import literals, pattern
from anemoi_ckpt_migrate.state.optimizer_state import OptimizerSnapshot, State, known_of
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.parameters import ParameterSet
from anemoi_ckpt_migrate.state.stash import packed, unpacked
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.tree.paths import NoSuchPath


@dataclass
class UndoResult:
    """The rollback of a revision, for the checkpoint to which it was applied.

    Attributes
    ----------
    operations : list of Operation
        The operations of the rollback, in order.
    losses : list of str
        Why the revision cannot be rolled back; empty if it can.
    """

    operations: list[Operation] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


class _Before(NamedTuple):
    """Values of the state dict before an operation: possible optimizer parameters, and all parameters."""

    movable: dict[str, Any]
    names: dict[str, Any]


class OperationRunner:
    """A checkpoint to which operations are applied.

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
    forced : bool
        Whether a downgrade may discard changes made since the upgrade.
    attached : Attached, optional
        Entries of the zip beside the pickle.
    orders : mapping of str to Order, optional
        Parameters of optimizers from the record, by the path of the optimizer.

    Attributes
    ----------
    orders : dict of str to Order
        Parameters of optimizers to store in the record, for optimizers from which they cannot be found again.
    faults : list of OperationFault
        All faults found.
    """

    def __init__(
        self,
        tree: Any,
        tensors: Tensors,
        stash: dict[str, list[Any]],
        path: str | None = None,
        forced: bool = False,
        attached: Attached | None = None,
        orders: Mapping[str, Order] | None = None,
    ) -> None:
        self.tree, self.stash, self.faults = tree, stash, list[OperationFault]()
        self.attached, self.orders = attached or Attached(), dict(orders or {})
        self._tensors, self._path, self._forced = tensors, path, forced
        self._main: OpenParameters | None = None
        self._others: list[OpenParameters] = []
        self._ties = self._following = False
        self._unknown: list[Any] = []
        self._hint: ParameterLocations | None = None  # used when parameters are opened next
        self._found: list[ParameterLocations] = []
        self._known: list[OptimizerSnapshot] = []
        self._at: tuple[str, Operation] | None = None

    def apply(
        self,
        revision: str,
        operations: Iterable[Operation],
        shown: str,
        run: Callable[..., Any],
        ask: Callable[[str, Any], list[Any]],
        follow: bool = True,
    ) -> UndoResult:
        """Apply the operations of a revision.

        Parameters
        ----------
        revision : str
            The id of the revision.
        operations : iterable of Operation
            The operations, in order.
        shown : str
            The source of the operations, for messages.
        run : callable
            Takes the name of a function of the script and its arguments, runs it, and returns the result.
        ask : callable
            Does the same for a function that leaves the tree unchanged and returns a list.
        follow : bool
            Whether this is an upgrade: module names in ``_metadata`` follow the parameters, and values are stashed. A
            downgrade has operations for these names.

        Returns
        -------
        UndoResult
            The rollback. Faults are added to `faults`.
        """
        self._following = follow
        stash = unpacked(self.stash.pop(revision, [])) if not follow else []
        undo = UndoResult()
        for operation in self._derived(operations, ask, undo):
            before, self._at = len(self.faults), (shown, operation)
            try:
                back = self._one(operation, stash, shown, run, undo)
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                if follow:
                    raise
                raise DamagedRecord(f"what undoes {revision} is not what was written ({error!r:.80})") from error
            if len(self.faults) == before:
                undo.operations[:0] = back
            if any(opened.is_wrapped_otherwise for opened in self._others) and not self.faults:
                self._settle(undo)
                self.close()  # wrappers may match those of the state dict now
        self._settle(undo)
        if follow and stash:
            self.stash[revision] = packed(stash, [self.tree, *self.stash.values()])
        return undo

    def _derived(
        self, operations: Iterable[Operation], ask: Callable[[str, Any], list[Any]], undo: UndoResult
    ) -> Iterator[Operation]:
        """Iterate over operations; each `Derive` is replaced by the operations that it derives."""
        for operation in operations:
            if not isinstance(operation, Derive):
                yield operation
                continue
            self._settle(undo)
            self.close()
            yield from [] if self.faults else operation.derived(self.tree, ask)

    def _settle(self, undo: UndoResult) -> None:
        """Update module names and add hints to the rollback (upgrades only); report names that do not fit."""
        if self._following:
            undo.operations[:0] = follow(self._main, self._others)
            undo.operations[:0] = self._named()
            if self._main is not None:
                self._found = reached(self.tree, self._main.copy, [opened.copy for opened in self._others])
                undo.operations[:0] = self._found
        if self._at is not None and not self.faults:
            for sentence in misfits(self._main, self._others):
                self._fault(self._at[0], self._at[1], sentence)

    def finish(self) -> None:
        """Write the tables back, and update `orders`."""
        if self._known or self.orders:
            self._look()
        self.close()

    def close(self) -> None:
        """Write the tables back into the tree."""
        hint = next(iter(self._found), None)
        if self._main is None and self.orders and not self._known:
            hint = self._hint
            self._look()  # later changes of names can only be traced by the tensors
        if self._main is None:
            return
        for opened in (self._main, *self._others):
            if opened.place is not None and opened.copy.table.changed:
                opened.place.write(opened.copy.table)
        self._close_optimizers(self._main.copy.table)
        self._unknown = self._main.copy.unknown
        self._main, self._others = None, []
        self._hint, self._found = hint, []
        self._tensors.forget()  # functions that get the tree may change tensors in it

    def _close_optimizers(self, main: Table) -> None:
        """Write the state of optimizers, and note the names of their parameters."""
        before = self.orders
        self._known, self.orders = [], {}
        for state in [opened.state for opened in self._others if opened.state is not None and not opened.unknown]:
            touched = main.changed or state.table.changed or state.declared or state.path in before
            if state.is_stale(main):
                state.write(main)
            self._known.append(state.known(main))
            if touched and state.needs_names(main, self._tensors):
                self.orders[state.path] = state.order(main)

    def _one(
        self, operation: Operation, stash: list[Any], shown: str, run: Callable[..., Any], undo: UndoResult
    ) -> list[Operation]:
        """Apply one operation, and return the rollback."""
        if isinstance(operation, TreeOperation):
            return self._on_tree(operation, stash, shown, run, undo)
        if isinstance(operation, ParameterGroups):
            return self._declare(operation, shown, undo)
        if isinstance(operation, ParameterLocations):
            self._reach(operation)
            return []
        main = self._open(operation, shown)
        if main is None:
            return []
        if any(isinstance(each, RestoreModules) for each in by_place(operation)[0]):
            follow_back(operation, main, self._others)
            return []
        return self._everywhere(main, operation, stash, shown, undo)

    def _on_tree(
        self, operation: TreeOperation, stash: list[Any], shown: str, run: Callable[..., Any], undo: UndoResult
    ) -> list[Operation]:
        self._settle(undo)
        self.close()
        if self.faults and functions([operation]):
            return []  # after a fault, the tree is not in the state that the function expects
        means = TreeContext(self.tree, self.attached, stash, run, self._forced, undo.losses)
        try:
            if operation.everywhere:
                return operation.carry_out([self.tree, self.stash, stash], means)[1]
            self.tree, back = operation.carry_out(self.tree, means)
        except (NoSuchPath, TypeError, AttributeError, KeyError, IndexError) as error:
            self._fault(shown, operation, str(error))
            return []
        return back

    def _declare(self, operation: ParameterGroups, shown: str, undo: UndoResult) -> list[Operation]:
        """Name the parameters of an optimizer as declared, after writing all earlier changes."""
        self._settle(undo)
        self.close()
        self._open(operation, shown, operation)
        optimizers = [opened for opened in self._others if opened.state is not None]
        if operation.optimizer < len(optimizers) and optimizers[operation.optimizer].unknown:
            self._fault(shown, operation, optimizers[operation.optimizer].unknown)
        return []

    def _everywhere(
        self, main: OpenParameters, operation: Operation, stash: list[Any], shown: str, undo: UndoResult
    ) -> list[Operation]:
        own, others = by_place(operation)
        ties = Ties(main.copy.table if self._ties else {})
        tied = ties.names
        wrapped = any(opened.is_wrapped_otherwise for opened in self._others)
        before = _Before(self._movable(), dict(main.copy.table) if wrapped else {})
        back = self._on(main, own, stash, shown, operation, tied, undo)
        if main.copy.faults:
            return []
        if (broken := ties.broken(operation, main.copy.table)) is not None:
            self._fault(shown, operation, broken)
        apart: dict[str, list[Operation]] = {}
        for opened in self._others:
            path = opened.copy.path
            if self._is_left(opened, operation, before, shown):
                continue
            names = list(opened.copy.table)
            mine = self._on(opened, others.get(path, own), stash, shown, operation, tied, undo)
            mine += self._lead_followed(opened, operation, names, shown)
            # An optimizer without state for a parameter needs no rollback of its own.
            told = mine or opened.state is None or takes_back(back)
            if mine != back and told:
                apart[path] = mine
        if apart:
            return [PerCopy(tuple(back), {path: tuple(each) for path, each in apart.items()})]
        return back

    def _on(
        self,
        opened: OpenParameters,
        operations: Sequence[Operation],
        stash: list[Any],
        shown: str,
        whole: Operation,
        tied: dict[str, list[str]],
        undo: UndoResult,
    ) -> list[Operation]:
        copy = opened.copy
        copy.stash, copy.tied, copy.forced = stash, tied, self._forced
        copy.faults, copy.losses = [], []
        back: list[Operation] = []
        ties = self._ties_of(opened, operations)
        for operation in operations:
            wrong = self._order_lost(opened, operation)
            if wrong:
                copy.faults.append(wrong)
            else:
                back[:0] = self._applied(operation, copy)
        apart = [] if ties is None or copy.faults else ties.apart(copy.table)
        if apart:
            back.append(Tie(tuple(map(tuple, apart))))
        for sentence in copy.faults:
            self._fault(shown, whole, sentence)
        if not copy.optimizer:
            undo.losses += copy.losses if copy.main is None else [f"in {copy.path}, {what}" for what in copy.losses]
        return back

    def _ties_of(self, opened: OpenParameters, operations: Sequence[Operation]) -> Ties | None:
        """Return the ties of a copy if operations of an upgrade may break them; otherwise None."""
        if not self._following or not opened.has_ties or not any(each.makes for each in operations):
            return None
        ties = None if opened.copy.optimizer else Ties(opened.copy.table)
        opened.has_ties = ties is not None and bool(ties.names)
        return ties if opened.has_ties else None

    def _applied(self, operation: Operation, copy: ParameterSet) -> list[Operation]:
        try:
            back: list[Operation] = operation.apply(copy)  # type: ignore[attr-defined]
        except Mismatch as error:
            copy.faults.append(str(error))
            return []
        return back

    def _order_lost(self, opened: OpenParameters, operation: Operation) -> str:
        state = opened.state
        if state is None or state.keeps_order() or not is_of_optimizers(operation):
            return ""
        names = operation.names if isinstance(operation, Reorder) else ()
        moved = any(True for text in names for _ in pattern(text).among(state.table))
        return state.order_lost() if moved or isinstance(operation, Add) else ""

    def _movable(self) -> dict[str, Any]:
        """Return the possible parameters of optimizers that could not be identified; empty if all were identified."""
        if self._main is None or not any(opened.unknown for opened in self._others):
            return {}
        table = self._main.copy.table
        return {name: table[name] for name, _ in candidates(table, self._tensors)}

    def _is_left(self, opened: OpenParameters, operation: Operation, before: _Before, shown: str) -> bool:
        """Return whether to leave a copy unchanged; report a fault if it would have to change."""
        own, others = by_place(operation)
        told = opened.copy.path in others
        if opened.state is not None:
            if opened.unknown and any(map(is_of_optimizers, own)):
                self._check_unknown(opened, operation, before, shown)
            return bool(opened.unknown)
        if opened.unknown and not told and not _takes_wrappers(own):
            if self._main is not None and differ(before.names, dict(self._main.copy.table), True):
                self._fault(shown, operation, opened.unknown)
            return True
        if not told and takes_back(own):
            self._fault(
                shown, operation, f"of {opened.copy.path} nothing was put aside: it was no copy then, or elsewhere"
            )
            return True
        return False

    def _check_unknown(self, opened: OpenParameters, operation: Operation, before: _Before, shown: str) -> None:
        """Report a fault if an operation may affect an unidentified optimizer (renaming: only if it stores names)."""
        by_name = opened.state is not None and opened.state.called() is not None
        moved = differ(before.movable, self._movable(), by_name)
        if moved and not any(fault.what == opened.unknown for fault in self.faults):
            self._fault(shown, operation, opened.unknown)

    def _lead_followed(
        self, opened: OpenParameters, operation: Operation, before: Sequence[str], shown: str
    ) -> list[Operation]:
        """Update the prefix of an optimizer that stores names, and return the rollback."""
        try:
            lead = None if opened.state is None else opened.state.lead_followed(before)
        except Unknown as error:
            self._fault(shown, operation, str(error))
            return []
        return [] if lead is None else [OptimizerPrefix(lead)]

    def _fault(self, shown: str, operation: Operation, what: str) -> None:
        spelled = repr(operation)
        self.faults.append(OperationFault(shown, spelled if len(spelled) < 120 else f"{spelled[:117]}...", what))

    def _open(self, operation: Operation, shown: str, declared: ParameterGroups | None = None) -> OpenParameters | None:
        if self._main is not None:
            return self._main
        place = self._place()
        if isinstance(place, str):
            self._fault(shown, operation, place)
            return None
        return self._open_at(place, declared)

    def _place(self) -> ParameterLocation | str:
        said = None if self._hint is None else self._hint.places(self.tree)[0]
        return said or find_main(self.tree, self._path)

    def _look(self) -> None:
        """Open the parameters, if they can be found, so that optimizers can be identified."""
        if self._main is None and not self.faults and isinstance(place := self._place(), ParameterLocation):
            self._open_at(place)

    def _open_at(self, place: ParameterLocation, declared: ParameterGroups | None = None) -> OpenParameters:
        shown_path = place.path or "the state dict"
        self._main = OpenParameters(
            ParameterSet(shown_path, place.table(), self._tensors, unknown=self._unknown, place=place), place
        )
        main = self._main.copy
        self._tensors.live_with(main.table[name] for name in main.table)
        self._others += [self._copy(other, main) for other in find_copies(self.tree, place, main.table)]
        self._know(main)
        self._others += self._wrapped_otherwise(place, main)
        for path, content in find_optimizers(self.tree):
            state = State(path, content, self._tensors)
            copy = ParameterSet(path, state.table, state.slots, main, optimizer=True)
            self._others.append(OpenParameters(copy, None, state, "?"))
        self._name_optimizers(declared)
        self._ties = any(opened.state for opened in self._others) and bool(Ties(main.table).names)
        return self._main

    def _name_optimizers(self, declared: ParameterGroups | None) -> None:
        if self._main is None:
            return
        optimizers = [(opened, opened.state) for opened in self._others if opened.state is not None]
        for number, (opened, state) in enumerate(optimizers):
            said = declared if declared is not None and declared.optimizer == number else None
            known = known_of(state, self._known, [state for _, state in optimizers])
            try:
                noted = self.orders.get(state.path)
                state.name_slots(self._main.copy.table, self._tensors, said, known, noted)
                opened.copy.table, opened.unknown = state.table, ""
            except Unknown as error:
                opened.unknown = str(error)

    def _copy(self, place: ParameterLocation, main: ParameterSet) -> OpenParameters:
        table = place.table()
        whole = all(name in table for name in main.table)
        return OpenParameters(ParameterSet(place.path, table, self._tensors, main, whole, place=place), place)

    def _wrapped_otherwise(self, place: ParameterLocation, main: ParameterSet) -> list[OpenParameters]:
        """Open dicts that would be copies except for wrappers in their names, and mark them as unknown."""
        known = [opened.place for opened in self._others if opened.place is not None]
        said = () if self._hint is None else self._hint.not_copies
        found = []
        for other in find_wrapped_otherwise(self.tree, place, main.table, known):
            if other.path not in said:
                copy = self._copy(other, main).copy
                found.append(OpenParameters(copy, other, unknown=_wrapped_otherwise(copy, main)))
        return found

    def _reach(self, operation: ParameterLocations) -> None:
        """Use the locations from a record, now or when parameters are opened next."""
        self._hint = operation
        place = operation.places(self.tree)[0]
        if self._main is not None and place is not None and place != self._main.copy.place:
            self.close()
            self._hint = operation
        if self._main is not None:
            self._know(self._main.copy)

    def _know(self, main: ParameterSet) -> None:
        """Add the copies that the hint names, and remove dicts that it says are no copies."""
        if self._hint is not None:
            known = self._hint.places(self.tree)[1]
            said = {*self._hint.not_copies, *(place.path for place in known)}
            self._others = [each for each in self._others if each.copy.path not in said or each.copy.table.changed]
            said = {each.copy.path for each in self._others}
            self._others += [self._copy(place, main) for place in known if place.path not in said]

    def _named(self) -> list[Operation]:
        """Return declarations of optimizer parameters that a downgrade needs because shapes are ambiguous."""
        if self._main is None:
            return []
        main, found = self._main.copy.table, list[Operation]()
        optimizers = [(opened, opened.state) for opened in self._others if opened.state is not None]
        for number, (opened, state) in enumerate(optimizers):
            # Also if only tensors outside the optimizer changed: a downgrade has to distinguish them.
            touched = (main.changed or state.table.changed) and not opened.unknown
            if touched and state.needs_names(main, self._tensors):
                groups = tuple(map(literals, state.names(main)))
                found.append(ParameterGroups(groups, number, own_order=state.own_order(main)))
        return found


def _takes_wrappers(operations: Iterable[Operation]) -> bool:
    """Return whether operations only strip wrappers anywhere in names, which works on wrappers at other places too."""
    return all(isinstance(each, StripPrefix) and each.anywhere for each in operations)


def _wrapped_otherwise(copy: ParameterSet, main: ParameterSet) -> str:
    """Return a message that a dict has wrappers at other places in its names, and how to strip them."""
    own = {unwrapped(name): name for name in copy.table}
    here, there = next((name, own[unwrapped(name)]) for name in main.table if unwrapped(name) in own)
    strips = " and ".join(f'op.StripPrefix("{each}.", anywhere=True)' for each in wrappers_of([here, there]))
    return (
        f"{there} in {copy.path} seems to be {here} of the state dict, in other wrappers; take these away in "
        f"both, with {strips}, before other operations"
    )
