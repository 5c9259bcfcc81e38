"""The rollback that a checkpoint carries: stored when a revision is applied, used when its script is missing."""

from __future__ import annotations

import base64
import sys
import types
from typing import Any

from anemoi_ckpt_migrate.errors import MigrationFailed
from anemoi_ckpt_migrate.record.record import Applied, Undo
from anemoi_ckpt_migrate.scripts.load_functions import Function, load_source

PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
"""The implementation and version of this Python; byte code only runs on the same one."""


def carry(source: str, module: types.ModuleType | None) -> Undo:
    """Return the rollback of a revision, for the record.

    Parameters
    ----------
    source : str
        The whole script.
    module : module, optional
        The loaded script. If given, its ``rollback`` is also pickled by value.

    Returns
    -------
    Undo
        Lacks the function if it cannot be pickled; the source is enough.
    """
    if module is None:
        return Undo(source)
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(module.rollback)
    except Exception:  # an object that the function refers to may raise anything when pickled
        return Undo(source)
    return Undo(source, PYTHON, base64.b64encode(pickled).decode())


def shown_carried(revision: str) -> str:
    """Return the name of a carried script in messages."""
    return f"<script {revision} from the checkpoint>"


def carried(entry: Applied) -> Function:
    """Return the rollback that a checkpoint carries. This runs code of the checkpoint.

    The source comes first, because a user can read it before it runs. If it fails, the pickled function is used, but
    only if the same Python made it: byte code of another Python would crash this one.

    Raises
    ------
    MigrationFailed
        The carried code cannot run here.
    """
    shown = shown_carried(entry.revision)
    if entry.undo is None:
        raise MigrationFailed(shown, None, "the checkpoint has no rollback")
    if not entry.undo.source:
        return _by_value(entry.undo, shown)
    try:
        module = load_source(entry.undo.source, entry.revision, shown)
    except MigrationFailed:
        if entry.undo.pickle is None or entry.undo.python != PYTHON:
            raise
        pickled = _unpickled(entry.undo.pickle)
        if pickled is None:
            raise
        return pickled
    rollback: Any = getattr(module, "rollback", None)
    if not callable(rollback):
        raise MigrationFailed(shown, None, "the source in the checkpoint has no rollback")
    function: Function = rollback
    return function


def _by_value(undo: Undo, shown: str) -> Function:
    """Return a rollback that has no source.

    Raises
    ------
    MigrationFailed
        It comes from another Python, needs a missing package, or does nothing.
    """
    if undo.pickle is None or undo.python != PYTHON:
        other = "another Python" if undo.python is None else undo.python
        raise MigrationFailed(shown, None, f"it is byte code of {other}, which {PYTHON} cannot run; use {other}")
    function = _unpickled(undo.pickle)
    if function is None:
        raise MigrationFailed(
            shown, None, "the pickled rollback cannot be loaded: it needs a package that is not installed"
        )
    code = getattr(function, "__code__", None)
    # A function that only returns its argument is an unfilled template. If names moved, moving them back is enough.
    if code is not None and code.co_code == (lambda ckpt: ckpt).__code__.co_code and len(undo.operations or ()) < 2:
        raise MigrationFailed(shown, code.co_firstlineno, "the pickled rollback does nothing")
    return function


def _unpickled(text: str) -> Function | None:
    """Return the pickled function, or None if it needs a missing package."""
    import pickle

    try:
        function: Function = pickle.loads(base64.b64decode(text, validate=True))  # noqa: S301  (the user said so)
    except Exception:  # the source failed first, and its error gives the reason
        return None
    return function
