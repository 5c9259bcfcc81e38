"""The text of scripts."""

from __future__ import annotations

import ast
from importlib.util import decode_source
from pathlib import Path

from anemoi_ckpt_migrate.errors import MigrationFailed
from anemoi_ckpt_migrate.revisions.graph import Revision
from anemoi_ckpt_migrate.scripts.signature import signature


def read_source(path: str) -> str:
    """Read a script as Python reads it: whatever its encoding and its line ends.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    try:
        return decode_source(Path(path).read_bytes())
    except OSError as error:
        raise MigrationFailed(path, None, f"the script cannot be read ({error.strerror})") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise MigrationFailed(path, 1, f"the script cannot be read ({error})") from error


def source_of(revision: Revision) -> str:
    """Return the text that is the script of a revision, and of nothing else.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    return read_source(revision.path) + revision.tail


def signature_of(revision: Revision) -> str:
    """Return the signature of a revision: a digest of what its script does.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    if revision.signature:
        return revision.signature
    try:
        return signature(ast.parse(source_of(revision)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise MigrationFailed(revision.path, line, f"the script cannot be read ({error})") from error


def tail(place: int, declared: bool = False) -> str:
    """Return what has to follow the text of a squashed script for it to be the script of one that it replaces.

    Parameters
    ----------
    place : int
        Which of them, from 0.
    declared : bool
        Whether the squashed one has operations, so that its parts are functions by name.
    """
    return f"\n\nglobals().update(PARTS[{place}])\n" if declared else f"\n\nmigrate, rollback = PARTS[{place}]\n"
