"""Walks a plan: runs its functions on the tree of a checkpoint. Knows nothing of how the plan came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anemoi_ckpt_migrate import recorder
from anemoi_ckpt_migrate.checkpoints import Checkpoint, Pickled
from anemoi_ckpt_migrate.checkpoints.tensors import is_a
from anemoi_ckpt_migrate.errors import MigrationFailed, Unpicklable
from anemoi_ckpt_migrate.record import Record
from anemoi_ckpt_migrate.scripts.functions import Function, failure


@dataclass(frozen=True)
class Action:
    """One function that is to be run.

    Attributes
    ----------
    load : callable
        Runs the script and returns the function. Called anew for each walk: what a function left behind in its module
        must not meet it again.
    name : str
        ``migrate`` or ``rollback``.
    shown : str
        The script, as messages name it.
    """

    load: Callable[[], Function]
    name: str
    shown: str

    def fail(self, function: Function, what: str) -> MigrationFailed:
        """Say what is wrong with what the function did."""
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
        return MigrationFailed(self.shown, line, f"`{self.name}` {what}")


def run(
    checkpoint: Checkpoint, tree: Any, actions: Sequence[Action], record: Record
) -> tuple[Pickled, dict[str, bytes | None]]:
    """Run functions one after the other, and return what is to be written.

    They run on stand-ins for tensors. If one of them wants more of a tensor than its name and shape, all run again
    on real tensors, from the beginning: a function may have stopped anywhere.

    Parameters
    ----------
    checkpoint : Checkpoint
        The open file.
    tree : object
        Its tree, just loaded, without a record; changed.
    actions : sequence of Action
        In order.
    record : Record
        What the checkpoint is to remember afterwards.

    Returns
    -------
    tuple of Pickled and dict
        For `Checkpoint.write`.

    Raises
    ------
    MigrationFailed
        A function raised, returned no checkpoint, or left something in it that cannot be saved.
    """
    content = False
    if not checkpoint.touched:  # a trusted class may have asked for content while it was built
        tree = _walk(checkpoint, actions, tree, content)
    if checkpoint.touched:
        content = True
        tree = _walk(checkpoint, actions, _fresh(checkpoint, content), content)
    attachments = recorder.put(tree, record)
    try:
        return checkpoint.pickled(tree), attachments
    except Unpicklable:
        # Only now: to look after each function would cost as much as all the rest.
        _walk(checkpoint, actions, _fresh(checkpoint, content), content, _check_saves)
        raise


# Called with what was run, and the tree that it left.
Check = Callable[[Checkpoint, Action, Function, Any], None]


def _fresh(checkpoint: Checkpoint, content: bool) -> Any:
    tree = checkpoint.load_content() if content else checkpoint.load()
    recorder.remove(tree, None)
    return tree


def _walk(
    checkpoint: Checkpoint, actions: Sequence[Action], tree: Any, content: bool, check: Check | None = None
) -> Any:
    """Run the functions on a tree, and return what becomes of it; of no use if a stand-in was asked for content."""
    functions = [action.load() for action in actions]
    for action, function in zip(actions, functions, strict=True):
        tree = _call(checkpoint, action, function, tree)
        if checkpoint.touched and content:
            what = f"needs the content of a tensor that cannot be opened: {checkpoint.touched[0]}"
            raise action.fail(function, what)
        if checkpoint.touched:
            break
        if check is not None:
            check(checkpoint, action, function, tree)
    return tree


def _call(checkpoint: Checkpoint, action: Action, function: Function, tree: Any) -> Any:
    # A checkpoint that is no dict (a list of tensors, a pickled model) stays what it was.
    kinds = dict if is_a(tree, dict) else (dict, type(tree))
    try:
        result = function(tree)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the function is the user's
        if checkpoint.touched:
            return tree  # a stand-in has noted why, whatever the function made of it
        raise failure(error, action.shown, f"`{action.name}`", function) from error
    if checkpoint.touched or type(result) is type(tree) or is_a(result, kinds):
        return result
    if result is None:
        raise action.fail(function, "returned None, not the checkpoint; does `return ckpt` miss?")
    raise action.fail(function, f"returned a {type(result).__name__}, not the checkpoint")


def _check_saves(checkpoint: Checkpoint, action: Action, function: Function, tree: Any) -> None:
    try:
        checkpoint.pickled(tree)
    except Unpicklable as error:
        raise action.fail(function, f"left {error.where}, which cannot be saved ({error.what})") from error
