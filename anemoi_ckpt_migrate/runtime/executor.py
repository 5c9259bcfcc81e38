"""Walks a plan: does on the tree of a checkpoint what scripts say. Knows nothing of how the plan came about."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anemoi_ckpt_migrate.engine.apply import Undone, World
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
    """Something that is to be done.

    Attributes
    ----------
    runs_code : bool
        Whether code of a script is run for it.
    """

    @property
    def runs_code(self) -> bool:
        """Whether code of a script is run for it."""

    def prepare(self) -> Callable[[Walk], None]:
        """Load what is needed for it. Called anew for each walk: what a function left behind must not meet it again."""


@dataclass(frozen=True)
class Calling:
    """One function that is to be run.

    Attributes
    ----------
    load : callable
        Runs the script and returns the function.
    name : str
        ``migrate`` or ``rollback``.
    shown : str
        The script, as messages name it.
    """

    load: Callable[[], Function]
    name: str
    shown: str
    runs_code = True

    def prepare(self) -> Callable[[Walk], None]:
        """Load the function."""
        function = self.load()

        def call(walk: Walk) -> None:
            walk.world.close()
            walk.stop_if_faulty()
            walk.world.tree = self.call(walk, function, walk.world.tree)

        return call

    def call(self, walk: Walk, function: Function, tree: Any, *more: Any) -> Any:
        """Run the function on a tree, or on a part of it and the whole, and return what becomes of it."""
        result = self._result(walk, function, tree, *more)
        # A checkpoint that is no dict (a list of tensors, a pickled model) stays what it was.
        kinds = dict if is_a(tree, dict) else (dict, type(tree))
        if walk.checkpoint.touched or type(result) is type(tree) or is_a(result, kinds):
            if walk.check is not None:
                walk.check(self, function, result)
            return result
        if result is None:
            raise self._fail(function, "returned None, not the checkpoint; does `return ckpt` miss?")
        raise self._fail(function, f"returned a {type(result).__name__}, not the checkpoint")

    def ask(self, walk: Walk, function: Function, tree: Any) -> list[Any]:
        """Run the function on a tree that it leaves as it is, and return the list that it makes."""
        result = self._result(walk, function, tree)
        if walk.checkpoint.touched:
            return []  # all is done again, on real tensors
        if type(result) is not list:
            raise self._fail(function, f"returned a {type(result).__name__}, not a list of operations")
        return result

    def _result(self, walk: Walk, function: Function, tree: Any, *more: Any) -> Any:
        """Return what the function returns; the tree, if it asked a stand-in for content and failed."""
        touched = walk.checkpoint.touched
        try:
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always")
                result = function(tree, *more)
            said = dict.fromkeys(f"{self.shown}: {warning.message}" for warning in noted)
            walk.warnings += [text for text in said if text not in walk.warnings]  # it may run at several places
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the function is the user's
            if touched and not walk.content:
                return tree  # a stand-in has noted why, whatever the function made of it
            if not touched:
                raise failure(error, self.shown, f"`{self.name}`", function) from error
            result = tree
        if touched and walk.content:
            raise self._fail(function, f"needs the content of a tensor that cannot be opened: {touched[0]}")
        return result

    def check_saves(self, checkpoint: Checkpoint, function: Function, tree: Any) -> None:
        """Say so if what the function left cannot be saved."""
        try:
            checkpoint.pickled(tree)
        except Unpicklable as error:
            raise self._fail(function, f"left {error.where}, which cannot be saved ({error.what})") from error

    def _fail(self, function: Function, what: str) -> MigrationFailed:
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
        return MigrationFailed(self.shown, line, f"`{self.name}` {what}")


@dataclass(frozen=True)
class Applying:
    """Operations that are to be applied.

    Attributes
    ----------
    revision : str
        Whose they are.
    operations : tuple of Operation
        In order.
    shown : str
        The script, as messages name it.
    load : callable
        Runs the script, and returns its function of a name.
    back : bool
        Whether this is the way back.
    """

    revision: str
    operations: tuple[Operation, ...]
    shown: str
    load: Callable[[str], Function]
    back: bool = False

    @property
    def runs_code(self) -> bool:
        """Whether there is a function among them."""
        return bool(tree_operation.functions(self.operations))

    def prepare(self) -> Callable[[Walk], None]:
        """Load the functions, if there are any."""
        names = {operation.migrate for operation in tree_operation.functions(self.operations)}
        functions = {name: self.load(name) for name in sorted(names)}

        def apply(walk: Walk) -> None:
            def calling(name: str) -> Calling:
                return Calling(lambda: functions[name], name, self.shown)

            def run(name: str, *given: Any) -> Any:
                return calling(name).call(walk, functions[name], *given)

            def ask(name: str, tree: Any) -> list[Any]:
                return calling(name).ask(walk, functions[name], tree)

            maker = walk.checkpoint.maker
            first = maker.next_key
            undo = walk.world.apply(self.revision, self.operations, self.shown, run, ask, not self.back)
            walk.undone[self.revision] = undo
            if self.back:
                maker.asked |= set(map(str, range(first, maker.next_key)))

        return apply


@dataclass
class Walk:
    """One way along a plan.

    Attributes
    ----------
    checkpoint : Checkpoint
        The open file.
    world : World
        What is changed.
    content : bool
        Whether tensors are real.
    check : callable or None
        Called with each function that was run, and the tree that it left.
    undone : dict of str to Undone
        What undoes revisions whose operations were applied.
    warnings : list of str
        What functions warned of.
    """

    checkpoint: Checkpoint
    world: World
    content: bool = False
    check: Callable[[Calling, Function, Any], None] | None = None
    undone: dict[str, Undone] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def stop_if_faulty(self) -> None:
        """Raise all that was wrong up to here: a function would meet a tree that nobody has foreseen."""
        if self.world.faults:
            raise CannotApply(self.world.faults)


@dataclass(frozen=True)
class Settings:
    """What operations go by.

    Attributes
    ----------
    parameters : str or None
        Where the state dict is; None to find it.
    forced : bool
        Whether what was changed since may be lost on the way back.
    optimizers : mapping of str to Order
        What the record says of optimizers.
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
    after: Callable[[Walk], Record],
) -> tuple[Pickled, dict[str, bytes | None]]:
    """Do one thing after the other, and return what is to be written.

    All are done on stand-ins for tensors. If a function wants more of one than its name and shape, all are done again
    on real tensors, from the beginning: a function may have stopped anywhere.

    Parameters
    ----------
    checkpoint : Checkpoint
        The open file.
    tree : object
        Its tree, just loaded, without a record; changed.
    stash : dict of str to list
        What is put aside in it.
    actions : sequence of Action
        In order.
    settings : Settings
        What operations go by.
    after : callable
        Returns what the checkpoint is to remember, given the walk that was made.

    Returns
    -------
    tuple of Pickled and dict
        For `Checkpoint.write`.

    Raises
    ------
    CannotApply
        Operations do not fit the checkpoint.
    MigrationFailed
        A function raised, returned no checkpoint, or left something in it that cannot be saved.
    """
    walk = walked(checkpoint, tree, stash, actions, settings)
    attachments = {**walk.world.attached.changed, **embed.put(walk.world.tree, after(walk))}
    try:
        return checkpoint.pickled(walk.world.tree), attachments
    except Unpicklable:
        # Only now: to look after each function would cost as much as all the rest.
        def check(action: Calling, function: Function, left: Any) -> None:
            action.check_saves(checkpoint, function, left)

        _walk(checkpoint, actions, settings, *_fresh(checkpoint, walk.content), walk.content, check)
        raise


def walked(checkpoint: Checkpoint, tree: Any, stash: Stash, actions: Sequence[Action], settings: Settings) -> Walk:
    """Do one thing after the other on a tree, or on a fresh one with real tensors; `run` writes the result."""
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
    check: Callable[[Calling, Function, Any], None] | None = None,
) -> Walk:
    """Do all on a tree; of no use if a stand-in was asked for content."""
    tensors = Tensors(checkpoint.maker, checkpoint.same, content)
    attached = Attached(lambda: checkpoint.facts().attached, checkpoint.attachment)
    world = World(tree, tensors, stash, settings.parameters, settings.forced, attached, settings.optimizers)
    walk = Walk(checkpoint, world, content, check)
    for step in [action.prepare() for action in actions]:
        step(walk)
        if checkpoint.touched and not content:
            return walk
    if actions:
        walk.world.finish()
    walk.stop_if_faulty()
    return walk
