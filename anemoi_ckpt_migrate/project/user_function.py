"""Functions of the user's code, given as ``package.module:function``."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import UsageError


def imported(text: str, folder: Path) -> Callable[..., Any]:
    """Import a function.

    Parameters
    ----------
    text : str
        ``package.module:function``.
    folder : Path
        The folder that messages name; `importable` makes its modules importable.

    Raises
    ------
    UsageError
        The module cannot be imported, or has no such function.
    """
    module, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the code is the user's
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        where = f"; it must be installed, or lie in {folder}" if missing else ""
        raise UsageError(f"{module} cannot be imported: {type(error).__name__}: {error}{where}") from error
    path = getattr(found, "__file__", None) or "no file"
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{module} has no function {name} ({path})")
    function: Callable[..., Any] = found
    return function


@contextlib.contextmanager
def importable(torch: Any, folder: Path) -> Iterator[None]:
    """Make modules in a folder importable, and restore the process settings that the user's code may change."""
    paths, current, dtype = list(sys.path), Path.cwd(), torch.get_default_dtype()
    sys.path.insert(0, os.fspath(folder))
    try:
        yield
    finally:
        sys.path[:] = paths
        os.chdir(current)
        torch.set_default_dtype(dtype)
