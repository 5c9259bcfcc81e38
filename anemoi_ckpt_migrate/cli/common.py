"""What the commands of the command line have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate import output
from anemoi_ckpt_migrate.errors import ERROR, MigrateError, UsageError


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
    from anemoi_ckpt_migrate.commands.project import open_chain

    if args.config is not None:
        raise UsageError("a chain brings its own configuration: give --chain or --config")
    if args.writes_scripts or getattr(args, "write", False):
        raise UsageError("a published chain is read-only: make revisions in the project that it is published from")
    return open_chain(args.chain)


def for_each(args: argparse.Namespace, do: Callable[[str], None]) -> int:
    """Do one thing to each checkpoint; one that fails does not stop the others."""
    if getattr(args, "output", None) is not None and len(args.checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time")
    codes = []
    for checkpoint in args.checkpoints:
        try:
            do(checkpoint)
        except MigrateError as error:
            output.complain(error, args.json, checkpoint)
            codes.append(error.exit_code)
            if isinstance(error, UsageError):  # the others would be told the same
                break
        else:
            codes.append(0)
    return codes[0] if len(set(codes)) == 1 else ERROR
