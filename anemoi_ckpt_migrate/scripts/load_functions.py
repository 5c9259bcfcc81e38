"""Load the functions of a script. Scripts are run only here."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import BadOperation, MigrateError, MigrationFailed, Refused
from anemoi_ckpt_migrate.operations.setup_context import MigrationContext
from anemoi_ckpt_migrate.scripts.metadata import CkptType
from anemoi_ckpt_migrate.scripts.source import source_of
from anemoi_ckpt_migrate.util.gc_pause import resumed as gc_resumed

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Revision

Function = Callable[[CkptType], CkptType]


def load_module(revision: Revision) -> types.ModuleType:
    """Run the script of a revision, and return its module.

    Raises
    ------
    MigrationFailed
        The script cannot be read, or raised.
    """
    return load_source(source_of(revision), revision.id, revision.path)


def load_source(source: str, revision: str, path: str) -> types.ModuleType:
    """Run the source of a script, and return its module.

    While the source runs, its module is in `sys.modules`, as dataclasses expect. It is removed afterwards, so that
    cloudpickle pickles its functions by value.

    Raises
    ------
    MigrationFailed
        The source raised.
    """
    name = f"_ckpt_migrate_{revision}"
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        with gc_resumed():
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (its job)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the code is the user's
        raise failure(error, path, "importing the script") from error
    finally:
        sys.modules.pop(name, None)  # the script may have removed it
    return module


def set_up(revision: Revision) -> MigrationContext:
    """Run the script of a revision and its `migrate_setup`, and return the context that this filled.

    Raises
    ------
    MigrationFailed
        The script cannot be read, one of them raised, or `migrate_setup` is not a function.
    """
    function = getattr(load_module(revision), "migrate_setup", None)
    line = revision.line("migrate_setup")
    if not callable(function):
        raise MigrationFailed(revision.path, line, "`migrate_setup` is not a function")
    context = MigrationContext()
    try:
        with gc_resumed():
            function(context)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the function is the user's
        failed = failure(error, revision.path, "`migrate_setup`", function)
        if isinstance(error, BadOperation) and isinstance(failed, MigrationFailed):
            failed = MigrationFailed(revision.path, failed.line, error.sentence)
        raise failed from error
    return context


def failure(error: BaseException, shown: str, doing: str, function: Function | None = None) -> MigrateError:
    """Return an error that names the place in a script and the exception raised there.

    For a `KeyError` it names the key. A refusal by the script stays a refusal.

    Parameters
    ----------
    error : BaseException
        The exception.
    shown : str
        The path of the script.
    doing : str
        The activity that failed.
    function : callable, optional
        The function that was running. If it was pickled, it has the name of another file.
    """
    if isinstance(error, Refused):
        return Refused(error.sentence)
    files = {shown, getattr(getattr(function, "__code__", None), "co_filename", shown)}
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    line = lines[-1] if lines else None
    if isinstance(error, SyntaxError):
        line = error.lineno
    text = _said(error)
    if type(error) is KeyError and error.args:
        return MigrationFailed(shown, line, f"{doing} failed: there is no key {error.args[0]!r}")
    return MigrationFailed(shown, line, f"{doing} failed with {type(error).__name__}{': ' if text else ''}{text}")


def _said(error: BaseException) -> str:
    """Return the first line of a message, and the next one if the first only announces it, as in torch's errors."""
    try:
        first, _, rest = str(error).strip().partition("\n")
    except Exception:  # the __str__ of a user's exception may raise
        return "(its message cannot be printed)"
    more = rest.strip().partition("\n")[0].strip().rstrip(".")
    return f"{first} {more}" if first.endswith(":") and more else first
