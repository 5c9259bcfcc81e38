"""Shared parts of the commands of the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.errors import (
    ERROR,
    PENDING,
    REFUSED,
    USAGE,
    CannotPrint,
    MigrateError,
    UsageError,
    explain_system_errors,
)

_WORST_FIRST = (ERROR, USAGE, REFUSED, PENDING, 0)


class HelpFormatter(argparse.HelpFormatter):
    """Formats help as wide as the terminal, without `shutil`, which argparse would import for that."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class HelpFormatterOfAll(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The same for the page about all commands, whose texts have lines of their own."""


def _columns() -> int:
    """Return the width of the terminal, as `shutil.get_terminal_size` does."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # there is no terminal
        return 80


class CommandParser(argparse.ArgumentParser):
    """The parser of a command. It is made when it is used, since a call uses one of thirty commands.

    Attributes
    ----------
    pending : list of callable
        Functions that add the arguments; empty once they have run.
    """

    def __init__(self, **options: Any) -> None:  # without that of the class above, which takes long
        self._options = options
        self.pending: list[Callable[[argparse.ArgumentParser], None]] = []

    def complete(self) -> None:
        """Make it, unless it has been made."""
        pending, self.pending = self.pending, []
        if pending:
            super().__init__(**self._options)
        for each in pending:
            each(self)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments."""
        self.complete()
        return super().parse_known_args(*args, **kwargs)


def add(
    adding: Any,
    name: str,
    run: Any,
    what: str,
    *arguments: Callable[[argparse.ArgumentParser], None],
    writes_scripts: bool = False,
) -> None:
    """Add a command to a parser.

    Parameters
    ----------
    adding : action
        The subparsers, made with `CommandParser`.
    name : str
        The name of the command.
    run : callable
        Runs it.
    what : str
        Its help text.
    *arguments : callable
        Functions that add its arguments, each to the parser of the command.
    writes_scripts : bool
        Whether it makes or changes scripts.
    """
    added: CommandParser = adding.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", formatter_class=HelpFormatter
    )

    def add_common(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-c", "--config", metavar="PATH", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.add_argument("--chain", metavar="NAME", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.set_defaults(run=run, command=name, writes_scripts=writes_scripts)

    added.pending = [add_common, *arguments]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_outputs(parser: argparse.ArgumentParser) -> Any:
    """Add the options that compare outputs, and return their group."""
    group = parser.add_argument_group("outputs of the model")
    what = "compare what package.module:function returns for each checkpoint before and after the upgrade"
    group.add_argument("--outputs", metavar="FUNCTION", help=what)
    recorded = "compare with the outputs that `check --save-outputs` wrote, not with those before the upgrade"
    group.add_argument("--expect-outputs", metavar="FILE", help=recorded)
    most = "largest absolute and relative difference (default: by dtype, as torch.testing has it)"
    group.add_argument("--tolerance", metavar="X", type=float, help=most)
    return group


def check_many_outputs(args: argparse.Namespace) -> None:
    """Refuse options of `add_outputs` that make no sense for many checkpoints.

    Raises
    ------
    UsageError
        They do not.
    """
    from anemoi_ckpt_migrate.runtime.output_options import check_one_file, output_options

    output_options(args.outputs, args.tolerance, args.expect_outputs)
    check_one_file(2, getattr(args, "save_outputs", None), args.expect_outputs)


def chain_of(args: argparse.Namespace) -> Any:
    """Return the chain to use in place of a project; commands that make or change scripts are refused."""
    from anemoi_ckpt_migrate.project.project import open_chain

    if args.config is not None:
        raise UsageError("a chain has its own configuration: give either --chain or --config")
    if args.writes_scripts or getattr(args, "write", False):
        raise UsageError("a published chain is read-only: run the command in the project that publishes it")
    return open_chain(args.chain)


def worst(codes: Iterable[int]) -> int:
    """Return the most serious of several exit codes: an error before a refusal, a refusal before pending work."""
    return min(codes, key=_WORST_FIRST.index, default=0)


def for_each(args: argparse.Namespace, do: Callable[[str], int | None]) -> int:
    """Run a function on each checkpoint, past those that fail, and return the most serious exit code."""
    from anemoi_ckpt_migrate.storage import folders_listed_once

    codes = []
    with folders_listed_once():
        for checkpoint in args.checkpoints:
            try:
                with explain_system_errors(checkpoint):
                    codes.append(do(checkpoint) or 0)
            except CannotPrint:  # the other results cannot be printed either
                raise
            except MigrateError as error:
                output.complain(error, args.json, checkpoint, args.chain)
                codes.append(error.exit_code)
                if isinstance(error, UsageError):  # the others would fail in the same way
                    break
    return worst(codes)
