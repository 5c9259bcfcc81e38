"""Run a plan: apply functions and operations to the tree of a checkpoint. Does not know how the plan was made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anemoi_ckpt_migrate.engine.checkpoint_state import CheckpointState
from anemoi_ckpt_migrate.engine.runner import OperationRunner, UndoResult
from anemoi_ckpt_migrate.errors import CannotApply, MigrationFailed, Unpicklable
from anemoi_ckpt_migrate.operations import tree_operation
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Order, Record, Stash
from anemoi_ckpt_migrate.scripts.load_functions import Function, failure
from anemoi_ckpt_migrate.state.archive_json import Attached
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage import Checkpoint, Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a


class Action(Protocol):
    """One action of a plan.

    Attributes
    ----------
    runs_code : bool
        Whether the action runs code of a script.
    """

    @property
    def runs_code(self) -> bool:
        """Whether the action runs code of a script."""

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the code. Called for each walk, so that no walk sees the state that an earlier one left in a module."""


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

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the function."""
        function = self.load()

        def call(walk: RunContext) -> None:
            walk.state.close()
            walk.stop_if_faulty()
            walk.state.replace_tree(self.call(walk, function, walk.state.tree))

        return call

    def call(self, walk: RunContext, function: Function, tree: Any, *more: Any) -> Any:
        """Run the function on a tree, or on a part of it and the whole, and return its result."""
        result = self._result(walk, function, tree, *more)
        # A checkpoint that is not a dict (a list of tensors, a pickled model) has to keep its type.
        kinds = dict if is_a(tree, dict) else (dict, type(tree))
        if walk.checkpoint.touched or type(result) is type(tree) or is_a(result, kinds):
            if walk.check is not None:
                walk.check(self, function, result)
            return result
        if result is None:
            raise self._fail(function, "returned None instead of the checkpoint; did you forget `return ckpt`?")
        raise self._fail(function, f"returned a {type(result).__name__} instead of the checkpoint")

    def ask(self, walk: RunContext, function: Function, tree: Any) -> list[Any]:
        """Run the function on a tree that it does not change, and return its list of operations."""
        result = self._result(walk, function, tree)
        if walk.checkpoint.touched:
            return []  # the walk starts over with real tensors
        if type(result) is not list:
            raise self._fail(function, f"returned a {type(result).__name__} instead of a list of operations")
        return result

    def _result(self, walk: RunContext, function: Function, tree: Any, *more: Any) -> Any:
        """Return the result of the function, or the tree if the function failed on missing content."""
        touched = walk.checkpoint.touched
        try:
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always")
                result = function(tree, *more)
            said = dict.fromkeys(f"{self.shown}: {warning.message}" for warning in noted)
            walk.warnings += [text for text in said if text not in walk.warnings]  # it may run in several places
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the function is the user's
            if touched and not walk.content:
                return tree  # the stand-in has noted the reason, whatever the function made of it
            if not touched:
                raise failure(error, self.shown, f"`{self.name}`", function) from error
            result = tree
        if touched and walk.content:
            raise self._fail(function, f"needs the content of a tensor that cannot be opened: {touched[0]}")
        return result

    def check_saves(self, checkpoint: Checkpoint, function: Function, tree: Any) -> None:
        """Raise if the result of the function cannot be saved."""
        try:
            checkpoint.pickled(tree)
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

    def prepare(self) -> Callable[[RunContext], None]:
        """Load the functions, if any."""
        names = {operation.migrate for operation in tree_operation.functions(self.operations)}
        functions = {name: self.load(name) for name in sorted(names)}

        def apply(walk: RunContext) -> None:
            def calling(name: str) -> FunctionAction:
                return FunctionAction(lambda: functions[name], name, self.shown)

            def run(name: str, *given: Any) -> Any:
                return calling(name).call(walk, functions[name], *given)

            def ask(name: str, tree: Any) -> list[Any]:
                return calling(name).ask(walk, functions[name], tree)

            maker = walk.checkpoint.maker
            first = maker.next_key
            runner = OperationRunner(
                walk.state, self.revision, self.shown, run, ask, not self.back, walk.settings.forced
            )
            walk.undone[self.revision] = runner.apply(self.operations)
            if self.back:
                maker.asked |= set(map(str, range(first, maker.next_key)))

        return apply


@dataclass
class RunContext:
    """One pass over a plan.

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
        The warnings that functions raised.
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


@dataclass(frozen=True)
class Settings:
    """Settings for operations.

    Attributes
    ----------
    parameters : str or None
        The path of the state dict; None to find it.
    forced : bool
        Whether a downgrade may lose later changes.
    optimizers : mapping of str to Order
        The parameter orders of optimizers in the record.
    """

    parameters: str | None = None
    forced: bool = False
    optimizers: Mapping[str, Order] = field(default_factory=dict)


def run(
    checkpoint: Checkpoint,
    tree: Any,
    stash: Stash,
    actions: Sequence[Action],
    settings: Settings,
    after: Callable[[RunContext], Record],
) -> tuple[Pickled, dict[str, bytes | None]]:
    """Run actions in order, and return the content to write.

    Actions first run on stand-ins for tensors. If a function needs more of a tensor than its name and shape, all
    actions run again on real tensors. They start on a fresh tree, because the function may have stopped halfway.

    Parameters
    ----------
    checkpoint : Checkpoint
        The open file.
    tree : object
        Its tree, just loaded, without a record; changed in place.
    stash : dict of str to list
        Its stash.
    actions : sequence of Action
        In order.
    settings : Settings
        Settings for operations.
    after : callable
        Called with the walk; returns the record to store.

    Returns
    -------
    tuple of Pickled and dict
        Arguments for `Checkpoint.write`.

    Raises
    ------
    CannotApply
        Operations do not fit the checkpoint.
    MigrationFailed
        A function raised, did not return the checkpoint, or returned a tree that cannot be saved.
    """
    walk = walked(checkpoint, tree, stash, actions, settings)
    attachments = {**walk.state.attached.changed, **embed.put(walk.state.tree, after(walk))}
    try:
        return checkpoint.pickled(walk.state.tree), attachments
    except Unpicklable:
        # Find the function at fault only now: a check after each function would cost as much as the whole run.
        def check(action: FunctionAction, function: Function, left: Any) -> None:
            action.check_saves(checkpoint, function, left)

        _walk(checkpoint, actions, settings, *_fresh(checkpoint, walk.content), walk.content, check)
        raise


def walked(
    checkpoint: Checkpoint, tree: Any, stash: Stash, actions: Sequence[Action], settings: Settings
) -> RunContext:
    """Run actions on a tree, or on a fresh one with real tensors if needed; writes nothing."""
    if not checkpoint.touched:  # a trusted class may have asked for content while it was built
        walk = _walk(checkpoint, actions, settings, tree, stash, False)
        if not checkpoint.touched:
            return walk
    return _walk(checkpoint, actions, settings, *_fresh(checkpoint, True), True)


def _fresh(checkpoint: Checkpoint, content: bool) -> tuple[Any, Stash]:
    if not content:
        return embed.unrecorded(checkpoint)
    tree = checkpoint.load_content()
    return tree, embed.stash_in(embed.remove(tree, None))


def _walk(
    checkpoint: Checkpoint,
    actions: Sequence[Action],
    settings: Settings,
    tree: Any,
    stash: Stash,
    content: bool,
    check: Callable[[FunctionAction, Function, Any], None] | None = None,
) -> RunContext:
    """Run all actions on a tree. Discard the result if a stand-in was asked for content."""
    tensors = Tensors(checkpoint.maker, checkpoint.same, content)
    attached = Attached(lambda: checkpoint.facts().attached, checkpoint.attachment)
    state = CheckpointState(tree, tensors, stash, settings.parameters, attached, settings.optimizers)
    walk = RunContext(checkpoint, settings, state, content, check)
    for step in [action.prepare() for action in actions]:
        step(walk)
        if checkpoint.touched and not content:
            return walk
    if actions:
        walk.state.finish()
    walk.stop_if_faulty()
    return walk
