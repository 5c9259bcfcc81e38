"""Read the text of scripts."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.util import decode_source
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import MigrationFailed
from anemoi_ckpt_migrate.scripts.signature import signature

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Revision

_KNOWN: ContextVar[dict[str, str] | None] = ContextVar("known", default=None)


@contextlib.contextmanager
def scripts_read_once(known: dict[str, str]) -> Iterator[None]:
    """Read each script only once in this context, for a run over many checkpoints.

    Parameters
    ----------
    known : dict of str to str
        The sources that are known from earlier, by path; takes those that are read.
    """
    token = _KNOWN.set(known)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def read_source(path: str) -> str:
    """Read a script as Python does, with its encoding and line ends decoded.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    known = _KNOWN.get()
    if known is None:
        return _read(path)
    if path not in known:
        known[path] = _read(path)
    return known[path]


def _read(path: str) -> str:
    try:
        return decode_source(Path(path).read_bytes())
    except OSError as error:
        raise MigrationFailed(path, None, f"the script cannot be read ({error.strerror})") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise MigrationFailed(path, 1, f"the script cannot be read ({error})") from error


def source_of(revision: Revision) -> str:
    """Return the source of a revision's script.

    For a replaced revision, this is the squashed script with a tail that selects the part of the revision.

    Raises
    ------
    MigrationFailed
        The script cannot be read.
    """
    return read_source(revision.path) + revision.tail


def signature_of(revision: Revision) -> str:
    """Return the signature of a revision, the digest of its script's behaviour.

    Raises
    ------
    MigrationFailed
        The script cannot be read or parsed.
    """
    if revision.signature:
        return revision.signature
    try:
        return _signature(source_of(revision))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise MigrationFailed(revision.path, line, f"the script cannot be read ({error})") from error


@functools.lru_cache(maxsize=1000)
def _signature(source: str) -> str:
    """Return the signature of a source; several checkpoints that go through the same scripts need it once."""
    return signature(ast.parse(source))


def tail(place: int, declared: bool = False) -> str:
    """Return the lines that turn a squashed script into the script of one replaced revision when appended.

    Parameters
    ----------
    place : int
        The place of the replaced revision, from 0.
    declared : bool
        Whether the squashed script has operations. Its parts are then dicts of functions by name.
    """
    return f"\n\nglobals().update(PARTS[{place}])\n" if declared else f"\n\nmigrate, rollback = PARTS[{place}]\n"
