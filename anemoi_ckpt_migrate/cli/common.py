"""What the commands of the command line have in common."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.errors import (
    ERROR,
    PENDING,
    REFUSED,
    USAGE,
    CannotPrint,
    MigrateError,
    OutOfMemory,
    SystemRefused,
    UsageError,
)

_WORST_FIRST = (ERROR, USAGE, REFUSED, PENDING, 0)
# How the dynamic linker says that there is no memory for a library.
_NO_MEMORY = ("cannot allocate", "failed to map segment")


def add(adding: Any, name: str, run: Any, what: str, writes_scripts: bool = False) -> argparse.ArgumentParser:
    """Add a command."""
    added: argparse.ArgumentParser = adding.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    added.add_argument("-c", "--config", metavar="PATH", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    added.add_argument("--chain", metavar="NAME", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    added.set_defaults(run=run, writes_scripts=writes_scripts)
    return added


def add_json(parser: argparse.ArgumentParser) -> None:
    """Let a command print JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_checkpoints(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Let a command take several checkpoints."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs=nargs, help="the files, each on its own")


def chain_of(args: argparse.Namespace) -> Any:
    """Return the chain that takes the place of a project; what makes or changes scripts has no business there."""
    from anemoi_ckpt_migrate.project.project import open_chain

    if args.config is not None:
        raise UsageError("a chain brings its own configuration: give --chain or --config")
    if args.writes_scripts or getattr(args, "write", False):
        raise UsageError("a published chain is read-only: make revisions in the project that it is published from")
    return open_chain(args.chain)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of several that counts: an error more than a refusal, that more than what is pending."""
    return min(codes, key=_WORST_FIRST.index, default=0)


@contextlib.contextmanager
def told(checkpoint: str | None = None) -> Iterator[None]:
    """Have what the system denies (memory, a file) said in one sentence, and about which checkpoint it is.

    Raises
    ------
    MigrateError
        It denied something.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of our output has seen enough
        raise
    except (MemoryError, ImportError, OSError) as error:
        said = _denied(error)
        if said is None:
            raise
        raise said.about(checkpoint) if checkpoint is not None else said from error


def _denied(error: MemoryError | ImportError | OSError) -> MigrateError | None:
    """Return what the system denied; None for an import that failed for another reason."""
    if isinstance(error, MemoryError):
        return OutOfMemory()
    if getattr(error, "errno", None) == errno.ENOMEM or any(said in str(error).lower() for said in _NO_MEMORY):
        return OutOfMemory(str(error))
    if isinstance(error, ImportError):
        return None
    return SystemRefused(error.strerror or str(error), os.fsdecode(error.filename or ""))


def for_each(args: argparse.Namespace, do: Callable[[str], int | None]) -> int:
    """Do one thing to each checkpoint; one that fails does not stop the others. Return the worst exit code."""
    if getattr(args, "output", None) is not None and len(args.checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time")
    from anemoi_ckpt_migrate.storage import folders_listed_once

    codes = []
    with folders_listed_once():
        for checkpoint in args.checkpoints:
            try:
                with told(checkpoint):
                    codes.append(do(checkpoint) or 0)
            except CannotPrint:  # nor what the others are
                raise
            except MigrateError as error:
                output.complain(error, args.json, checkpoint)
                codes.append(error.exit_code)
                if isinstance(error, UsageError):  # the others would be told the same
                    break
    return worst(codes)
