"""The way back that a checkpoint carries: made when a revision is applied, used where its script is not known."""

from __future__ import annotations

import base64
import sys
import types
from typing import Any

from anemoi_ckpt_migrate.errors import MigrationFailed
from anemoi_ckpt_migrate.record.record import Applied, Undo
from anemoi_ckpt_migrate.scripts.load_functions import Function, load_source

PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
"""This Python, as far as byte code is concerned."""


def carry(source: str, module: types.ModuleType | None) -> Undo:
    """Make what undoes a revision, for the record.

    Parameters
    ----------
    source : str
        The whole script.
    module : module, optional
        The script, run; its ``rollback`` is then taken by value too.

    Returns
    -------
    Undo
        Without the function if it cannot be pickled: the source is enough.
    """
    if module is None:
        return Undo(source)
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(module.rollback)
    except Exception:  # what the function refers to may raise anything when pickled
        return Undo(source)
    return Undo(source, PYTHON, base64.b64encode(pickled).decode())


def shown_carried(revision: str) -> str:
    """Return how messages name a script that a checkpoint carries."""
    return f"<script {revision} from the checkpoint>"


def carried(entry: Applied) -> Function:
    """Return the rollback that a checkpoint carries. This runs code of the checkpoint.

    The source is run: it is what can be looked at first. If it cannot be run here, the pickled function is taken, but
    never one that another Python made: its byte code would crash this one.

    Raises
    ------
    MigrationFailed
        What is carried cannot be run.
    """
    shown = shown_carried(entry.revision)
    if entry.undo is None:
        raise MigrationFailed(shown, None, "the checkpoint carries no rollback")
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
        raise MigrationFailed(shown, None, "the carried source has no rollback")
    function: Function = rollback
    return function


def _by_value(undo: Undo, shown: str) -> Function:
    """Return the rollback of which there is no source.

    Raises
    ------
    MigrationFailed
        It was made by another Python, needs what is not here, or does nothing.
    """
    if undo.pickle is None or undo.python != PYTHON:
        other = "another Python" if undo.python is None else undo.python
        raise MigrationFailed(shown, None, f"it is byte code of {other}, which {PYTHON} cannot run; use that one")
    function = _unpickled(undo.pickle)
    if function is None:
        raise MigrationFailed(shown, None, "the pickled rollback cannot be loaded here: it needs what is not installed")
    code = getattr(function, "__code__", None)
    # A function that returns what it gets: what was never filled in. If names moved, those are what there is to undo.
    if code is not None and code.co_code == (lambda ckpt: ckpt).__code__.co_code and len(undo.operations or ()) < 2:
        raise MigrationFailed(shown, code.co_firstlineno, "the pickled rollback does nothing, which undoes nothing")
    return function


def _unpickled(text: str) -> Function | None:
    """Return the pickled function; None if it needs what is not here."""
    import pickle

    try:
        function: Function = pickle.loads(base64.b64decode(text, validate=True))  # noqa: S301  (the user said so)
    except Exception:  # then the source, which failed before it, says why
        return None
    return function
