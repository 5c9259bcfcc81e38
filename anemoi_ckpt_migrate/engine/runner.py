"""Apply the operations of a revision to a checkpoint, one after the other, and collect the rollback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedRecord, OperationFault
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.parameter_groups import OptimizerPrefix, ParameterGroups, PerCopy
from anemoi_ckpt_migrate.operations.tied_weights import Tie
from anemoi_ckpt_migrate.operations.tree_operation import TreeContext, TreeOperation
from anemoi_ckpt_migrate.state.infer_optimizer import Unknown, candidates, differ
from anemoi_ckpt_migrate.state.parameter_context import Outcome, ParameterContext
from anemoi_ckpt_migrate.storage.tensors.refs import ContentNeeded
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.tree.paths import NoSuchPath
from anemoi_ckpt_migrate.util.dataclass import dataclass, field, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.engine.checkpoint_state import CheckpointState
    from anemoi_ckpt_migrate.engine.open_parameters import OpenParameters
    from anemoi_ckpt_migrate.operations.derive import Derive
    from anemoi_ckpt_migrate.operations.find_hints import ParameterLocations
    from anemoi_ckpt_migrate.operations.optimizer_operation import OptimizerOperation


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


class OperationRunner:
    """Applies the operations of one revision to a checkpoint.

    Parameters
    ----------
    state : CheckpointState
        The checkpoint.
    revision : str
        The id of the revision.
    shown : str
        The source of the operations, for messages.
    run : callable
        Takes the name of a function of the script and its arguments, runs it, and returns the result.
    ask : callable
        Does the same for a function that leaves the tree unchanged and returns a list.
    upgrade : bool
        Whether this is an upgrade: module names in ``_metadata`` follow the parameters, and values are stashed. A
        downgrade has operations for these names.
    discard_changes : bool
        Whether a downgrade may discard changes made since the upgrade.
    """

    def __init__(
        self,
        state: CheckpointState,
        revision: str,
        shown: str,
        run: Callable[..., Any],
        ask: Callable[[str, Any], list[Any]],
        upgrade: bool = True,
        discard_changes: bool = False,
    ) -> None:
        self._state, self._revision, self._shown = state, revision, shown
        self._run, self._ask = run, ask
        self._upgrade, self._discard_changes = upgrade, discard_changes
        self._stash: list[Any] = []
        self._undo = UndoResult()
        self._last: Operation | None = None

    def apply(self, operations: Iterable[Operation]) -> UndoResult:
        """Apply operations in order.

        Returns
        -------
        UndoResult
            The rollback. Faults are reported to the state.

        Raises
        ------
        DamagedRecord
            The operations of a downgrade have fields that cannot be right.
        """
        state = self._state
        if not self._upgrade:
            self._stash = state.take_stash(self._revision)
        for operation in operations:
            self._apply_one(operation)
        self._settle()
        if self._upgrade and self._stash:
            state.put_stash(self._revision, self._stash)
        return self._undo

    def _apply_one(self, operation: Operation) -> None:
        state, self._last = self._state, operation
        before = len(state.faults)
        try:
            undo = operation.perform(self)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, ContentNeeded) as error:
            if self._upgrade:
                raise
            raise DamagedRecord(f"the rollback of {self._revision} was changed ({error!r:.80})") from error
        if len(state.faults) == before:
            self._undo.operations[:0] = undo
        if state.has_wrapped_otherwise and not state.faults:
            self._close()  # wrappers may match those of the state dict now

    def _close(self) -> None:
        """Write all changes into the tree."""
        self._settle()
        self._state.close()

    def _settle(self) -> None:
        """Add facts about the parameters to the rollback (upgrades only); report names that do not fit."""
        if self._upgrade:
            self._undo.operations[:0] = self._state.settle()
        if self._last is not None and not self._state.faults:
            for sentence in self._state.misfits():
                self._fault(self._last, sentence)

    def _fault(self, operation: Operation, sentence: str) -> None:
        spelled = repr(operation)
        shown = spelled if len(spelled) < 120 else f"{spelled[:117]}..."
        self._state.report(OperationFault(self._shown, shown, sentence))

    # What operations ask for, by `Operation.perform`

    def apply_to_tree(self, operation: TreeOperation) -> list[Operation]:
        """Apply an operation to the tree."""
        state = self._state
        self._close()
        if state.faults and operation.runs_code:
            return []  # after a fault, the tree is not in the state that the function expects
        if operation.runs_code:
            self._stash[:] = state.unshared(self._stash)
        context = TreeContext(state.tree, state.attached, self._stash, self._run, self._discard_changes)
        try:
            if operation.everywhere:
                undo = operation.carry_out([state.tree, state.stash, self._stash], context)[1]
            else:
                tree, undo = operation.carry_out(state.tree, context)
                state.replace_tree(tree)
        except (NoSuchPath, TypeError, AttributeError, KeyError, IndexError) as error:
            self._fault(operation, str(error))
            return []
        self._undo.losses += context.losses
        return undo

    def derive(self, operation: Derive) -> list[Operation]:
        """Apply the operations that an operation derives for this checkpoint."""
        self._close()
        if not self._state.faults:
            for each in operation.derived(self._state.tree, self._ask):
                self._apply_one(each)
        return []

    def declare_groups(self, operation: ParameterGroups) -> list[Operation]:
        """Name the parameters of an optimizer as declared, after writing all earlier changes."""
        self._close()
        main = self._state.open(operation)
        optimizers = self._state.optimizers
        if isinstance(main, str):
            self._fault(operation, main)
        elif operation.optimizer < len(optimizers) and (unknown := optimizers[operation.optimizer][0].unknown):
            self._fault(operation, unknown)
        return []

    def apply_to_optimizer(self, operation: OptimizerOperation) -> list[Operation]:
        """Apply an operation to one optimizer; nothing happens if the checkpoint has none."""
        main = self._state.open()
        if isinstance(main, str):
            self._fault(operation, main)
            return []
        optimizers, number = self._state.optimizers, operation.optimizer
        if number >= len(optimizers):
            if optimizers:
                self._fault(operation, f"the checkpoint has no optimizer {number}, only {len(optimizers)}")
            return []
        unknown = optimizers[number][0].unknown
        if unknown:
            self._fault(operation, unknown)
            return []
        from anemoi_ckpt_migrate.state.optimizer_context import OptimizerContext

        context = OptimizerContext(
            self._state.tree,
            [state for _, state in optimizers],
            number,
            main.parameters.table,
            self._state.tensors,
            self._stash,
            self._upgrade,
            self._discard_changes,
        )
        if self._state.faults and context.out_of_step():
            return []  # an operation that failed for the optimizer changed the state dict alone
        try:
            undo = operation.change(context)
        except Mismatch as error:
            context.fault(str(error))
        for sentence in context.faults:
            self._fault(operation, sentence)
        if context.faults:
            return []
        self._stash += context.new
        return undo

    def use_locations(self, operation: ParameterLocations) -> list[Operation]:
        """Use the locations of parameters from a record."""
        self._state.use_locations(operation)
        return []

    def apply_to_parameters(self, operation: Operation) -> list[Operation]:
        """Apply an operation to the state dict, then to each copy and optimizer; return the rollback."""
        main = self._state.open()
        if isinstance(main, str):
            self._fault(operation, main)
            return []
        before = _Before(self._state)
        ties = self._state.ties()
        own, per_copy = operation.per_copy()
        done = self._apply_to(main, operation, own, ties.names)
        if done.faults:
            return []
        if (broken := ties.broken(operation, main.parameters.table)) is not None:
            self._fault(operation, broken)
        differing: dict[str, tuple[Operation, ...]] = {}
        shared = [each for each in own if each.applies_to_copies]
        for opened in self._state.others:
            mine = per_copy.get(opened.path)
            if self._leaves(opened, operation, shared, mine is not None, before):
                continue
            names = list(opened.parameters.table)
            undo = self._apply_to(opened, operation, shared if mine is None else mine, ties.names, done.added).undo
            undo += self._follow_prefix(opened, operation, names)
            # An optimizer without state for a parameter needs no rollback of its own.
            needed = undo or opened.state is None or any(each.restores_stash for each in done.undo)
            if undo != done.undo and needed:
                differing[opened.path] = undo
        return [PerCopy(done.undo, differing)] if differing else list(done.undo)

    # Steps of the last one

    def _apply_to(
        self,
        opened: OpenParameters,
        whole: Operation,
        operations: Sequence[Operation],
        tied: dict[str, list[str]],
        added: Sequence[str] = (),
    ) -> Outcome[Operation]:
        """Apply operations to one copy; report faults and losses, and return the outcome."""
        ties = opened.ties() if self._upgrade and any(each.makes for each in operations) else None
        done: Outcome[Operation] = Outcome()
        for operation in operations:
            done = done.then(self._outcome(opened, operation, tied, added))
        apart = [] if ties is None or done.faults else ties.apart(opened.parameters.table)
        if apart:
            done = replace(done, undo=(*done.undo, Tie(tuple(map(tuple, apart)))))
        for sentence in done.faults:
            self._fault(whole, sentence)
        if not opened.parameters.optimizer:
            self._undo.losses += done.losses
        return done

    def _outcome(
        self, opened: OpenParameters, operation: Operation, tied: dict[str, list[str]], added: Sequence[str]
    ) -> Outcome[Operation]:
        """Apply one operation to one copy."""
        parameters, state = opened.parameters, opened.state
        fixed = None if state is None or state.keeps_order() else state
        if fixed is not None and operation.concerns_optimizers and operation.changes_order(parameters.table):
            return Outcome(faults=(fixed.order_lost(),))
        if state is not None and state.is_ordered_by_group() and self._upgrade and self._state.main is not None:
            every = self._state.main.parameters.table
            if operation.concerns_optimizers and (other := operation.beside_others(every, state.group)) is not None:
                return Outcome(faults=(state.beside_others(other),))
        missing = self._state.missing if parameters.main is None else ()
        context = ParameterContext(parameters, self._stash, self._discard_changes, tied, missing, added)
        undo: list[Operation] = []
        try:
            undo = operation.apply(context)
        except Mismatch as error:
            context.fault(str(error))
        outcome = context.outcome(undo)
        self._stash += outcome.stashed
        if parameters.main is None:
            self._state.expect_missing(outcome.missing)
        return outcome

    def _leaves(
        self, opened: OpenParameters, operation: Operation, shared: Sequence[Operation], own: bool, before: _Before
    ) -> bool:
        """Return whether to leave a copy unchanged; report a fault if it would have to change."""
        if opened.state is not None:
            if opened.unknown and any(each.concerns_optimizers for each in shared):
                by_name = opened.state.called() is not None  # renaming concerns only an optimizer that stores names
                known = any(fault.what == opened.unknown for fault in self._state.faults)
                if not known and before.optimized_differ(self._state, by_name):
                    self._fault(operation, opened.unknown)
            return bool(opened.unknown)
        if opened.unknown and not own and not all(each.strips_wrappers for each in shared):
            if before.names_differ(self._state):
                self._fault(operation, opened.unknown)
            return True
        if not own and any(each.restores_stash for each in shared):
            self._fault(
                operation,
                f"nothing was stashed for {opened.path}: at the upgrade it was no copy, or at another path",
            )
            return True
        return False

    def _follow_prefix(
        self, opened: OpenParameters, operation: Operation, before: Sequence[str]
    ) -> tuple[Operation, ...]:
        """Update the prefix of an optimizer that stores names, and return the rollback."""
        try:
            prefix = None if opened.state is None else opened.state.follow_prefix(before)
        except Unknown as error:
            self._fault(operation, str(error))
            return ()
        return () if prefix is None else (OptimizerPrefix(prefix),)


class _Before:
    """Parameters of the state dict before an operation, as far as copies that it cannot follow need them."""

    def __init__(self, state: CheckpointState) -> None:
        self._optimized = _optimized(state)
        self._names = dict(state.main.parameters.table) if state.main and state.has_wrapped_otherwise else {}

    def optimized_differ(self, state: CheckpointState, by_name: bool) -> bool:
        """Return whether possible parameters of optimizers have changed; names only if `by_name`."""
        return differ(self._optimized, _optimized(state), by_name)

    def names_differ(self, state: CheckpointState) -> bool:
        """Return whether a parameter or a name has changed."""
        return state.main is not None and differ(self._names, dict(state.main.parameters.table), True)


def _optimized(state: CheckpointState) -> dict[str, Any]:
    """Return the possible parameters of optimizers that could not be identified; empty if all were identified."""
    if state.main is None or not any(opened.unknown for opened in state.others):
        return {}
    table = state.main.parameters.table
    return {name: table[name] for name, _ in candidates(table, state.tensors)}
