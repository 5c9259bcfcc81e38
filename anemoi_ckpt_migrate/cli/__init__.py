"""The command line: reads arguments, calls commands, prints text or JSON, and returns an exit code."""

from __future__ import annotations

import argparse
import functools
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.cli import checkpoint_commands, info_commands, script_commands
from anemoi_ckpt_migrate.cli.common import CommandParser, HelpFormatterOfAll, chain_of
from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.errors import ERROR, MigrateError, explain_system_errors

_TARGETS = """\
targets:
  head, heads       the newest revision; all of them, if there are several
  base              before the first revision
  barrier           the last revision that can be reached without crossing a barrier
  +N, -N            N revisions up; undo the last N revisions
  REV, REV+N, REV-N a revision (id, start of an id, label or name); N revisions above or below it
  LABEL@TARGET      head, heads, base, +N, -N or a revision of one branch
  "PKG<1.2"         the revisions of the matching releases of the tracked package (PEP 440)

exit codes:
  0  done, or nothing to do
  1  error
  2  wrong usage
  3  refused, nothing changed: a barrier, an irreversible step, untrusted code, a read-only file, a released script
  4  `check`, `current --check-heads`, `report` or `adopt` found something for you to do
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all arguments of all commands, from which the man page is built."""
    parser, commands = _build_parser()
    for command in commands:
        command.complete()
    return parser


def _build_parser() -> tuple[argparse.ArgumentParser, list[CommandParser]]:
    """Make the parser, and return it with those of its commands, which have no arguments yet."""
    parser = argparse.ArgumentParser(
        prog="ckpt-migrate",
        description="Migrations for PyTorch checkpoints: what Alembic is for databases.",
        epilog=_TARGETS,
        formatter_class=HelpFormatterOfAll,
    )
    parser.add_argument("--version", action="version", version=f"ckpt-migrate {__version__}")
    parser.add_argument("-c", "--config", metavar="PATH", help="the configuration file, or its folder")
    parser.add_argument("--chain", metavar="NAME", help="use the chain of an installed package instead of a project")
    adding = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=CommandParser)
    script_commands.add_commands(adding)
    checkpoint_commands.add_commands(adding)
    info_commands.add_commands(adding)
    return parser, list(adding.choices.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code.
    """
    try:
        return _run(_parser().parse_args(argv))
    except KeyboardInterrupt as interrupt:  # also while arguments are read
        sys.stderr.write("interrupted; nothing more was changed\n")
        return 128 + (interrupt.number if isinstance(interrupt, _TerminatedError) else signal.SIGINT)


@functools.cache
def _parser() -> argparse.ArgumentParser:
    """Return the parser; who runs several command lines in one process makes it once."""
    return _build_parser()[0]


def _run(args: argparse.Namespace) -> int:
    try:
        with explain_system_errors():
            if args.chain is not None:
                args.config = chain_of(args)
            code: int = args.run(args)
        output.flush()
        return code
    except MigrateError as error:
        output.complain(error, getattr(args, "json", False), chain=getattr(args, "chain", None))
        return error.exit_code
    except BrokenPipeError:  # the reader closed the pipe
        output.silence()
        return ERROR


def entry() -> int:
    """Run the command line as its own process, in which SIGTERM and SIGHUP clean up as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, which stays so
            signal.signal(number, _terminated)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, and the next file that is opened would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show must not fail
    return main()


class _TerminatedError(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes
    ----------
    number : int
        The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError(number)
