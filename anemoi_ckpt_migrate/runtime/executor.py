"""Run a plan: apply functions and operations to the tree of a checkpoint. Does not know how the plan was made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from anemoi_ckpt_migrate.engine.checkpoint_state import CheckpointState
from anemoi_ckpt_migrate.engine.runner import OperationRunner, UndoResult
from anemoi_ckpt_migrate.errors import CannotApply, MigrationFailed, Unpicklable
from anemoi_ckpt_migrate.operations import tree_operation
from anemoi_ckpt_migrate.record import embed, record_copy
from anemoi_ckpt_migrate.scripts.load_functions import Function, failure
from anemoi_ckpt_migrate.state.archive_json import Attached
from anemoi_ckpt_migrate.state.find_parameters import put_in_order
from anemoi_ckpt_migrate.state.stash import StashText
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage import COPY_ENTRY
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass, field
from anemoi_ckpt_migrate.util.gc_pause import resumed as gc_resumed

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.base import Operation
    from anemoi_ckpt_migrate.record.record import Order, Record, Stash
    from anemoi_ckpt_migrate.storage import Checkpoint, Pickled


class Action(Protocol):
    """One action of a plan.

    Attributes
    ----------
    runs_code : bool
        Whether the action runs code of a script.
    is_about_parameters : bool
        Whether it has operations that fit only certain parameters.
    """

    @property
    def runs_code(self) -> bool:
        """Whether the action runs code of a script."""

    @property
    def is_about_parameters(self) -> bool:
        """Whether it has operations that fit only certain parameters."""

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the code. Called for each pass, so that no pass sees the state that an earlier one left in a module."""


@dataclass(frozen=True)
class FunctionAction:
    """Runs one function.

    Attributes
    ----------
    load : callable
        Runs the script and returns the function.
    name : str
        ``migrate`` or ``rollback``.
    shown : str
        The name of the script in messages.
    """

    load: Callable[[], Function]
    name: str
    shown: str
    runs_code = True
    is_about_parameters = False

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the function."""
        function = self.load()
        return lambda context: context.replace_tree(lambda tree: self.call(context, function, tree))

    def call(self, context: RunContext, function: Function, tree: Any, *more: Any) -> Any:
        """Run the function on a tree, or on a part of it and the whole, and return its result."""
        result = self._result(context, function, tree, *more)
        # A checkpoint that is not a dict (a list of tensors, a pickled model) has to keep its type.
        kinds = dict if is_a(tree, dict) else (dict, type(tree))
        is_part = bool(more) and result is not None  # which kinds fit, the operation knows
        if context.checkpoint.touched or is_part or type(result) is type(tree) or is_a(result, kinds):
            if context.check is not None:
                context.check(self, function, result)
            return result
        if result is None:
            raise self._fail(function, "returned None instead of the checkpoint; did you forget `return ckpt`?")
        raise self._fail(function, f"returned a {type(result).__name__} instead of the checkpoint")

    def ask(self, context: RunContext, function: Function, tree: Any) -> list[Any]:
        """Run the function on a tree that it does not change, and return its list of operations."""
        result = self._result(context, function, tree)
        if context.checkpoint.touched:
            return []  # the run starts over with real tensors
        if type(result) is not list:
            raise self._fail(function, f"returned a {type(result).__name__} instead of a list of operations")
        return result

    def _result(self, context: RunContext, function: Function, tree: Any, *more: Any) -> Any:
        """Return the result of the function, or the tree if the function failed on missing content."""
        touched = context.checkpoint.touched
        try:
            with gc_resumed(), warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always")
                result = function(tree, *more)
            context.warn(f"{self.shown}: {warning.message}" for warning in noted)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the function is the user's
            if touched and not context.content:
                return tree  # the stand-in has noted the reason, whatever the function made of it
            if not touched:
                raise failure(error, self.shown, f"`{self.name}`", function) from error
            result = tree
        if touched and context.content:
            raise self._fail(function, f"needs the content of a tensor that cannot be opened: {touched[0]}")
        return result

    def check_saves(self, checkpoint: Checkpoint, function: Function, tree: Any, copy_shared: bool) -> None:
        """Raise if the result of the function cannot be saved."""
        try:
            checkpoint.pickled(tree, copy_shared)
        except Unpicklable as error:
            raise self._fail(function, f"left {error.where}, which cannot be saved ({error.what})") from error

    def _fail(self, function: Function, what: str) -> MigrationFailed:
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
        return MigrationFailed(self.shown, line, f"`{self.name}` {what}")


@dataclass(frozen=True)
class OperationsAction:
    """Applies operations.

    Attributes
    ----------
    revision : str
        The revision that they belong to.
    operations : tuple of Operation
        In order.
    shown : str
        The name of the script in messages.
    load : callable
        Loads the script and returns its function with a given name.
    back : bool
        Whether this is a rollback.
    """

    revision: str
    operations: tuple[Operation, ...]
    shown: str
    load: Callable[[str], Function]
    back: bool = False

    @property
    def runs_code(self) -> bool:
        """Whether an operation runs a function."""
        return any(operation.runs_code for operation in self.operations)

    @property
    def is_about_parameters(self) -> bool:
        """Whether an operation is about parameters."""
        return any(leaf.on_parameters for operation in self.operations for leaf in operation.leaves())

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the functions, if any."""
        names = {operation.migrate for operation in tree_operation.functions(self.operations)}
        functions = {name: self.load(name) for name in sorted(names)}

        def apply(context: RunContext) -> None:
            maker = context.checkpoint.maker
            first = maker.next_key
            context.apply(self, functions)
            if self.back:
                maker.note_asked(first)

        return apply

    def function(self, name: str) -> FunctionAction:
        """Return the action that runs one of the functions."""
        return FunctionAction(lambda: self.load(name), name, self.shown)


@dataclass
class RunContext:
    """The state of one pass over the actions.

    Attributes
    ----------
    checkpoint : Checkpoint
        The open file.
    settings : Settings
        Settings for operations.
    state : CheckpointState
        The tree and everything else that the pass changes.
    content : bool
        Whether tensors are real instead of stand-ins.
    check : callable or None
        Called with each function that ran and the tree that it returned.
    undone : dict of str to UndoResult
        The rollbacks of revisions whose operations were applied.
    warnings : list of str
        The warnings that functions raised, each once.
    """

    checkpoint: Checkpoint
    settings: Settings
    state: CheckpointState
    content: bool = False
    check: Callable[[FunctionAction, Function, Any], None] | None = None
    undone: dict[str, UndoResult] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def stop_if_faulty(self) -> None:
        """Raise all faults so far, so that no function runs on a tree that its author did not expect."""
        if self.state.faults:
            raise CannotApply(self.state.faults)

    def replace_tree(self, function: Callable[[Any], Any]) -> None:
        """Run a function on the tree, and put its result in place of the tree."""
        self.state.close()
        self.stop_if_faulty()
        self.state.replace_tree(function(self.state.tree))

    def apply(self, action: OperationsAction, functions: Mapping[str, Function]) -> None:
        """Apply operations, with the functions that they run, and keep their rollback."""

        def run(name: str, *arguments: Any) -> Any:
            return action.function(name).call(self, functions[name], *arguments)

        def ask(name: str, tree: Any) -> list[Any]:
            return action.function(name).ask(self, functions[name], tree)

        discard_changes = self.settings.discard_changes
        runner = OperationRunner(self.state, action.revision, action.shown, run, ask, not action.back, discard_changes)
        self.undone[action.revision] = runner.apply(action.operations)

    def warn(self, warnings: Iterable[str]) -> None:
        """Keep warnings. A function that runs in several places may repeat them."""
        self.warnings += [each for each in dict.fromkeys(warnings) if each not in self.warnings]


@dataclass(frozen=True)
class Settings:
    """Settings for operations.

    Attributes
    ----------
    parameters : str or None
        The path of the state dict; None to find it.
    discard_changes : bool
        Whether a downgrade may lose later changes.
    optimizers : mapping of str to Order
        The parameter orders of optimizers in the record.
    copy_shared : bool
        Whether to write tensors that share memory one by one, if the format cannot share it.
    order : tuple of str
        The names in the state dict in the order of the model, if the files do not keep it; empty if that is unknown.
    """

    parameters: str | None = None
    discard_changes: bool = False
    optimizers: Mapping[str, Order] = field(default_factory=dict)
    copy_shared: bool = False
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run made of a checkpoint, in memory.

    Attributes
    ----------
    tree : object
        The tree, without a record.
    stash : dict of str to list
        The stash to store in the record.
    optimizers : mapping of str to Order
        The parameter orders of optimizers to store in the record.
    attachments : mapping of str to bytes or None
        Changed entries beside the pickle.
    undone : mapping of str to UndoResult
        The rollbacks of revisions whose operations were applied.
    warnings : tuple of str
        The warnings that functions raised.
    content : bool
        Whether tensors are real instead of stand-ins.
    """

    tree: Any
    stash: Stash
    optimizers: Mapping[str, Order]
    attachments: Mapping[str, bytes | None]
    undone: Mapping[str, UndoResult]
    warnings: tuple[str, ...]
    content: bool


@dataclass(frozen=True)
class Executor:
    """Runs actions on a checkpoint, in order; writes nothing.

    Attributes
    ----------
    checkpoint : Checkpoint
        The open file.
    actions : sequence of Action
        In order.
    settings : Settings
        Settings for operations.
    """

    checkpoint: Checkpoint
    actions: Sequence[Action] = ()
    settings: Settings = Settings()

    def run(self, tree: Any, stash: Stash, all_faults: bool = True) -> Outcome:
        """Run the actions.

        They first run on stand-ins for tensors. If a function needs more of a tensor than its name and shape, all
        actions run again on real tensors. They start on a fresh tree, because the function may have stopped halfway.

        Parameters
        ----------
        tree : object
            The tree of the checkpoint, just loaded, without a record; changed in place.
        stash : dict of str to list
            Its stash; changed in place.
        all_faults : bool
            Whether the error lists the faults of all actions, or those of the first action that has any.

        Raises
        ------
        CannotApply
            Operations do not fit the checkpoint.
        MigrationFailed
            A function raised, or did not return the checkpoint.
        """
        if not self.checkpoint.touched:  # a trusted class may have asked for content while it was built
            context = self._pass(tree, stash, False, all_faults=all_faults)
            if not self.checkpoint.touched:
                return _outcome(context)
        return _outcome(self._pass(*self._fresh(True), True, all_faults=all_faults))

    def content(self, outcome: Outcome, record: Record) -> tuple[Pickled, dict[str, bytes | None]]:
        """Put a record into the result of a run, and return the content to write.

        Returns
        -------
        tuple of Pickled and dict
            Arguments for `Checkpoint.write`.

        Raises
        ------
        MigrationFailed
            A function returned a tree that cannot be saved.
        NowhereToKeep
            The tree has no place for the stash.
        """
        attachments = {**outcome.attachments, **embed.put(outcome.tree, record)}
        if self.checkpoint.copies_record:
            attachments[COPY_ENTRY] = record_copy.spelled(record)
        try:
            return self.checkpoint.pickled(outcome.tree, self.settings.copy_shared), attachments
        except Unpicklable:
            # Find the function at fault only now: a check after each function would cost as much as the whole run.
            def check(action: FunctionAction, function: Function, tree: Any) -> None:
                action.check_saves(self.checkpoint, function, tree, self.settings.copy_shared)

            self._pass(*self._fresh(outcome.content), outcome.content, check)
            raise

    def _fresh(self, content: bool) -> tuple[Any, Stash]:
        if not content:
            return embed.unrecorded(self.checkpoint)
        tree = self.checkpoint.load_content()
        return tree, embed.take_stash(tree, self.checkpoint.attachment(embed.ATTACHMENT))

    def _pass(
        self,
        tree: Any,
        stash: Stash,
        content: bool,
        check: Callable[[FunctionAction, Function, Any], None] | None = None,
        all_faults: bool = True,
    ) -> RunContext:
        """Run all actions on a tree. Discard the result if a stand-in was asked for content."""
        checkpoint, settings = self.checkpoint, self.settings
        tensors = Tensors(checkpoint.maker, checkpoint.same, content)
        attached = Attached(lambda: checkpoint.facts().attached, checkpoint.attachment)
        text = StashText(checkpoint, content) if checkpoint.record_is_text else None
        in_order = bool(settings.order) and put_in_order(tree, settings.parameters, settings.order)
        state = CheckpointState(
            tree,
            tensors,
            stash,
            settings.parameters,
            attached,
            settings.optimizers,
            text,
            checkpoint.shares_memory,
            checkpoint.keeps_order,
            in_order,
        )
        context = RunContext(checkpoint, settings, state, content, check)
        for step in [action.prepare() for action in self.actions]:
            step(context)
            if not all_faults:
                context.stop_if_faulty()
            if checkpoint.touched and not content:
                return context
        if self.actions:
            state.finish()
        context.stop_if_faulty()
        return context


def _outcome(context: RunContext) -> Outcome:
    state = context.state
    return Outcome(
        state.tree,
        state.stash,
        state.orders,
        state.attached.changed,
        context.undone,
        tuple(context.warnings),
        context.content,
    )
