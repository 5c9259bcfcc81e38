"""Walks a plan: runs its functions on the tree of a checkpoint. Knows nothing of how the plan came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anemoi_ckpt_migrate import recorder
from anemoi_ckpt_migrate.checkpoints import Checkpoint, Pickled
from anemoi_ckpt_migrate.errors import MigrationFailed, Unpicklable
from anemoi_ckpt_migrate.record import Record
from anemoi_ckpt_migrate.scripts.functions import Function, failure


@dataclass(frozen=True)
class Action:
    """One function that is to be run.

    Attributes
    ----------
    function : callable
        Takes the checkpoint and returns it.
    name : str
        ``migrate`` or ``rollback``.
    shown : str
        The script, as messages name it.
    """

    function: Function
    name: str
    shown: str

    @property
    def line(self) -> int | None:
        """Where in the script the function begins."""
        return getattr(getattr(self.function, "__code__", None), "co_firstlineno", None)


def run(checkpoint: Checkpoint, actions: Sequence[Action], record: Record) -> tuple[Pickled, dict[str, bytes | None]]:
    """Run functions one after the other, and return what is to be written.

    They run on stand-ins for tensors. If one of them wants more of a tensor than its name and shape, all run again
    on real tensors, from the beginning: a function may have stopped anywhere.

    Parameters
    ----------
    checkpoint : Checkpoint
        The open file.
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
    tree = _walk(checkpoint, checkpoint.load, actions)
    if checkpoint.touched:
        tree = _walk(checkpoint, checkpoint.load_content, actions)
        if checkpoint.touched:
            raise MigrationFailed(
                actions[-1].shown, None, "it needs the content of a tensor of a kind not yet supported"
            )
    attachments = recorder.put(tree, record)
    try:
        return checkpoint.pickled(tree), attachments
    except Unpicklable as error:
        guilty = _guilty(checkpoint, actions)
        what = f"`{guilty.name}` left {error.where}, which cannot be saved ({error.what})"
        raise MigrationFailed(guilty.shown, guilty.line, what) from error


def _walk(checkpoint: Checkpoint, load: Callable[[], Any], actions: Sequence[Action]) -> Any:
    tree = load()
    recorder.remove(tree, None)
    for action in actions:
        tree = _call(checkpoint, action, tree)
        if checkpoint.touched:
            break
    return tree


def _call(checkpoint: Checkpoint, action: Action, tree: Any) -> Any:
    # A checkpoint that is no dict (a list of tensors, a pickled model) stays what it was.
    kinds = dict if isinstance(tree, dict) else (dict, type(tree))
    doing = f"`{action.name}`"
    try:
        result = action.function(tree)
    except (Exception, SystemExit) as error:  # the function is the user's
        if checkpoint.touched:
            return tree  # a stand-in has noted why, whatever the function made of it
        raise failure(error, action.shown, doing, action.function) from error
    if checkpoint.touched or isinstance(result, kinds):
        return result
    hint = "; does `return ckpt` miss?" if result is None else ""
    what = f"{doing} returned {'None' if result is None else f'a {type(result).__name__}'}, not the checkpoint{hint}"
    raise MigrationFailed(action.shown, action.line, what)


def _guilty(checkpoint: Checkpoint, actions: Sequence[Action]) -> Action:
    """Find the first function after which the tree cannot be saved, by going through them again."""
    load = checkpoint.load_content if checkpoint.with_content else checkpoint.load
    tree = load()
    recorder.remove(tree, None)
    for action in actions:
        tree = _call(checkpoint, action, tree)
        try:
            checkpoint.pickled(tree)
        except Unpicklable:
            return action
    return actions[-1]
