"""The options that choose checkpoints, and say how many to work on at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import UsageError, shown_path

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import Job
    from anemoi_ckpt_migrate.batch.select import Selection

FEW = 20
"""So many checkpoints, given by name, get a text each; more of them get a summary."""


def add_selection(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add arguments that choose checkpoints.

    Parameters
    ----------
    parser : ArgumentParser
        The parser of a command.
    required : bool
        Whether the command needs a checkpoint.
    """
    what = "checkpoints: files, folders, URLs; quoted patterns such as 'runs/**/*.ckpt'"
    named = parser.add_argument("checkpoints", metavar="CKPT", nargs="+", default=[], help=what)
    named.required = False  # with "*", argparse would take none before an option, and refuse those after it
    parser.set_defaults(needs_checkpoint=required)
    add_recursive(parser, "-r")
    add_choice(parser)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose among the checkpoints that are named or found."""
    group = parser.add_argument_group("which checkpoints")
    group.add_argument("--from-file", metavar="LIST", help="also those in a file, a path a line; - for standard input")
    group.add_argument("--null", action="store_true", help="paths in LIST end in NUL bytes, as of find -print0")
    leave = "leave out files and folders of this name or path below the folder (* fits slashes too); may be repeated"
    group.add_argument("--exclude", metavar="GLOB", action="append", default=[], help=leave)
    take = "treat files of this name or path as named: also if nothing tells that they belong to the project"
    group.add_argument("--include", metavar="GLOB", action="append", default=[], help=take)
    newer = "only those that changed later: a time (2026-11-30), an age (7d, 12h), or a file"
    group.add_argument("--newer-than", metavar="WHEN", help=newer)
    group.add_argument("--part", metavar="K/N", help="only the K-th of N parts, the same on every machine")
    group.add_argument("--allow-empty", action="store_true", help="finding no checkpoint is no error")


def add_recursive(parser: argparse.ArgumentParser, *short: str) -> None:
    """Add the option ``--recursive``, and perhaps a short form."""
    parser.add_argument(*short, "--recursive", action="store_true", help="find all checkpoints below the folders given")


def add_workers(parser: argparse.ArgumentParser, verbose: bool = True) -> None:
    """Add options that say how many checkpoints to work on at once, and what to say of each.

    Parameters
    ----------
    parser : ArgumentParser
        The parser of a command.
    verbose : bool
        Whether the command has no ``--verbose`` of its own.
    """
    group = parser.add_argument_group("many checkpoints")
    group.add_argument(
        "-j", "--jobs", metavar="N", type=_count, default=1, help="work on N at once (default: 1; 0: one a processor)"
    )
    group.add_argument("--dask", metavar="ADDRESS", help="work on a cluster of Dask; `local` starts one here")
    group.add_argument("--report", metavar="FILE", help="append what became of each to FILE, for `ckpt-migrate report`")
    group.add_argument("-q", "--quiet", action="store_true", help="print failures and the last line only")
    if verbose:
        group.add_argument("-v", "--verbose", action="store_true", help="print the result for each checkpoint")


def selection_of(args: argparse.Namespace) -> Selection:
    """Return the checkpoints that the arguments choose.

    Raises
    ------
    UsageError
        There are none, or an option makes no sense.
    """
    from anemoi_ckpt_migrate.batch.select import Selection, parse_part

    for name in ("from_file", "output", "dask", "report"):
        if getattr(args, name, None) == "":  # of a variable that is not set, for example
            raise UsageError(f"--{name.replace('_', '-')} is empty; give it a value, or leave it out")
    if "" in args.checkpoints:
        raise UsageError("a CKPT is empty; give a path, or leave it out")
    chooses = args.needs_checkpoint or args.recursive or args.part is not None
    if chooses and not args.checkpoints and args.from_file is None:
        raise UsageError("CKPT is missing: give a checkpoint, a folder with --recursive, or a list with --from-file")
    if args.quiet and args.verbose:
        raise UsageError("--quiet prints less and --verbose more: leave out one")
    if args.null and args.from_file is None:
        raise UsageError("--null is about the list of --from-file, which is not given")
    return Selection(
        tuple(args.checkpoints),
        args.recursive,
        args.from_file,
        args.null,
        tuple(args.exclude),
        tuple(args.include),
        None if args.newer_than is None else _time(args.newer_than),
        None if args.part is None else parse_part(args.part),
        args.allow_empty,
        output=_folder_of(args),
    )


def _time(text: str) -> float:
    from anemoi_ckpt_migrate.util.time_text import parse_time

    return parse_time(text)


def _folder_of(args: argparse.Namespace) -> str | None:
    """Return the folder of ``--output``, if the command has the option."""
    output = getattr(args, "output", None)
    return None if output is None else os.path.abspath(output)


def is_plain(args: argparse.Namespace, selection: Selection) -> bool:
    """Return whether a call is about a few checkpoints by name, each of which gets a text of its own."""
    several = len(selection.paths) > 1 and selection.output is not None
    chosen = (args.jobs != 1, args.dask, args.report, args.quiet, several)
    return selection.is_plain and len(selection.paths) <= FEW and not any(chosen)


def job_of(
    args: argparse.Namespace,
    command: str,
    options: Mapping[str, Any],
    needs_project: bool = True,
) -> Job:
    """Return the work on each of many checkpoints.

    Parameters
    ----------
    args : Namespace
        The arguments of the command line.
    command : str
        The command.
    options : mapping
        Its arguments. If ``output`` is one, it is the place of the result; else it is a folder for the results.
    needs_project : bool
        Whether there has to be a project.

    Raises
    ------
    MigrateError
        The project is missing or faulty: one error, not one for each checkpoint.
    """
    from anemoi_ckpt_migrate.batch.job import Job

    config, chain = (None, args.chain) if args.chain is not None else (args.config, None)
    job = Job(command, options, config, chain, needs_project, None if "output" in options else _folder_of(args))
    if job.output is not None and os.path.lexists(job.output) and not os.path.isdir(job.output):
        raise UsageError(f"--output {shown_path(args.output)} is no folder, which the results of this call need")
    if needs_project:
        job.project()
    return job


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes (0 or more)")
    return int(text)
