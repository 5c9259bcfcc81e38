"""The command line: arguments in, commands called, text or JSON out, an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from anemoi_ckpt_migrate import output, pictures
from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.errors import ERROR, MigrateError, UsageError

_TARGETS = """\
targets:
  head, heads       the newest revision; all of them, where there are several
  base              before the first revision
  barrier           as far as can be reached
  +N, -N            N steps up; the last N applied, undone
  ID                a revision id, or its start

exit codes:
  0  done, or nothing to do
  1  error
  2  wrong usage
  3  refused, nothing changed: a barrier, an irreversible step, untrusted code, a read-only file
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser; the man page is built from it too."""
    parser = argparse.ArgumentParser(
        prog="ckpt-migrate",
        description="Migrations for PyTorch checkpoints: what Alembic is for databases.",
        epilog=_TARGETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ckpt-migrate {__version__}")
    parser.add_argument("-c", "--config", metavar="PATH", help="configuration file, or the folder it is in")
    adding = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_project_commands(adding)
    _add_moving_commands(adding)
    _add_mending_commands(adding)
    _add_reading_commands(adding)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        output.flush()
        return code
    except MigrateError as error:
        output.complain(error, getattr(args, "json", False))
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("interrupted; nothing more was changed\n")
        return 128 + (signal.SIGTERM if isinstance(interrupt, _TerminatedError) else signal.SIGINT)
    except BrokenPipeError:  # the reader of our output has seen enough
        output.silence()
        return ERROR
    except OSError as error:  # a full disk behind it, for example
        output.silence()
        sys.stderr.write(f"ckpt-migrate: error: the output cannot be written ({error.strerror}); the rest is done\n")
        return ERROR


def entry() -> int:
    """Run the command line as a process of its own: a polite kill cleans up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    return main()


class _TerminatedError(KeyboardInterrupt):
    """Somebody asked the process to end."""


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


def _add_project_commands(adding: Any) -> None:
    init = _add(adding, "init", _init, "make a folder a project: configuration, versions/, template")
    init.add_argument("folder", metavar="DIR", nargs="?", default=".", help="the folder (default: the current one)")
    init.add_argument("--package", metavar="NAME", help="the package whose version the scripts are to note")
    revision = _add(adding, "revision", _revision, "make a new migration script")
    revision.add_argument("name", metavar="NAME", help="what changes, in a line")
    revision.add_argument("--final", action="store_true", help="make a barrier, which no checkpoint crosses")
    revision.add_argument("--rev-id", metavar="ID", help="the revision id (default: a random one)")
    _add_json(revision)


def _add_moving_commands(adding: Any) -> None:
    for name, run, what in (
        ("upgrade", _upgrade, "bring checkpoints up to a target"),
        ("downgrade", _downgrade, "take checkpoints back down to a target"),
        ("stamp", _stamp, "say what checkpoints are, without running anything"),
    ):
        moving = _add(adding, name, run, what)
        moving.add_argument("target", metavar="TARGET", help="where to; see the end of `ckpt-migrate --help`")
        moving.add_argument("checkpoints", metavar="CKPT", nargs="+", help="the files, each on its own")
        _add_writing(moving)
        in_place = "write what is new at the end of the file, and move nothing: for files too large to copy"
        moving.add_argument("--in-place", action="store_true", help=in_place)
        moving.add_argument("-n", "--dry-run", action="store_true", help="print the plan, write nothing")
        if name == "downgrade":
            trust = "run the rollbacks that the checkpoint carries, where no script here has them"
            moving.add_argument("--trust-checkpoint-code", action="store_true", help=trust)
        _add_json(moving)


def _add_mending_commands(adding: Any) -> None:
    recover = _add(adding, "recover", _recover, "put files right on which an in-place run was interrupted")
    recover.add_argument("checkpoints", metavar="CKPT", nargs="+", help="the files, each on its own")
    _add_json(recover)
    compact = _add(adding, "compact", _compact, "write files anew without the bytes that in-place runs left unused")
    compact.add_argument("checkpoints", metavar="CKPT", nargs="+", help="the files, each on its own")
    _add_writing(compact)
    _add_json(compact)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="PATH", help="write there, and leave the (one) checkpoint as it is")
    parser.add_argument("--no-backup", dest="backup", action="store_false", help="do not keep the old file")
    parser.add_argument("--verify", action="store_true", help="first check the CRC of everything in the file")


def _add_reading_commands(adding: Any) -> None:
    current = _add(adding, "current", _current, "tell where checkpoints stand")
    current.add_argument("checkpoints", metavar="CKPT", nargs="+", help="the files")
    _add_json(current)
    inspect = _add(adding, "inspect", _inspect, "show what is in checkpoints; nothing that they name is run")
    inspect.add_argument("checkpoints", metavar="CKPT", nargs="+", help="the files")
    inspect.add_argument("--verify", action="store_true", help="check the CRC of everything in the file")
    inspect.add_argument("--depth", metavar="N", type=_level, default=4, help="levels of the tree (default: 4)")
    _add_json(inspect)
    history = _add(adding, "history", _history, "list all revisions, newest first")
    history.add_argument("checkpoint", metavar="CKPT", nargs="?", help="mark what this checkpoint has")
    _add_json(history)
    heads = _add(adding, "heads", _heads, "list the revisions that nothing follows")
    _add_json(heads)
    show = _add(adding, "show", _show, "show one revision, with its source")
    show.add_argument("revision", metavar="REV", help="a revision id, its start, or head")
    show.add_argument("--from", dest="checkpoint", metavar="CKPT", help="show it as this checkpoint carries it")
    _add_json(show)


def _add(adding: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = adding.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    added.add_argument("-c", "--config", metavar="PATH", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    added.set_defaults(run=run)
    return added


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _init(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import project

    output.print_laid(project.init(args.folder, args.package))
    return 0


def _revision(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import project

    made = project.revision(args.name, final=args.final, rev_id=args.rev_id, project=args.config)
    output.print_revision(made, args.json)
    return 0


def _upgrade(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import moving

    return _move(args, moving.upgrade)


def _downgrade(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import moving

    return _move(args, moving.downgrade, trust_checkpoint_code=args.trust_checkpoint_code)


def _stamp(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import moving

    return _move(args, moving.stamp)


def _move(args: argparse.Namespace, command: Any, **options: Any) -> int:
    from anemoi_ckpt_migrate.commands.project import open_project

    options |= {name: getattr(args, name) for name in ("output", "backup", "in_place", "verify", "dry_run")}
    options |= {"project": open_project(args.config), "target": args.target}

    def move(checkpoint: str) -> None:
        # What a script prints must not get between the lines of JSON.
        printed = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
        with printed, pictures.progress(checkpoint, args.json) as progress:
            result = command(checkpoint, progress=progress, **options)
        output.print_result(result, args.json)

    return _for_each(args, move)


def _recover(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import mending

    return _for_each(args, lambda checkpoint: output.print_recovered(mending.recover(checkpoint), args.json))


def _compact(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import mending

    options = {name: getattr(args, name) for name in ("output", "backup", "verify")}

    def compact(checkpoint: str) -> None:
        with pictures.progress(checkpoint, args.json) as progress:
            result = mending.compact(checkpoint, progress=progress, **options)
        output.print_compacted(result, args.json)

    return _for_each(args, compact)


def _current(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import reading

    project = args.config
    return _for_each(args, lambda path: output.print_current(reading.current(path, project=project), args.json))


def _inspect(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import inspecting

    codes = []

    def inspect(checkpoint: str) -> None:
        with pictures.progress(checkpoint, args.json or not args.verify) as progress:
            found = inspecting.inspect(checkpoint, verify=args.verify, project=args.config, progress=progress)
        output.print_inspection(found, args.json, args.depth)
        codes.append(ERROR if found.damaged else 0)

    return _for_each(args, inspect) or max(codes, default=0)


def _level(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of levels")
    return int(text)


def _for_each(args: argparse.Namespace, do: Callable[[str], None]) -> int:
    """Do one thing to each checkpoint; one that fails does not stop the others."""
    if getattr(args, "output", None) is not None and len(args.checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time")
    codes = []
    for checkpoint in args.checkpoints:
        try:
            do(checkpoint)
        except UsageError:
            raise
        except MigrateError as error:
            output.complain(error, args.json, checkpoint)
            codes.append(error.exit_code)
        else:
            codes.append(0)
    return codes[0] if len(set(codes)) == 1 else ERROR


def _history(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import reading

    output.print_history(reading.history(args.checkpoint, project=args.config), args.json)
    return 0


def _heads(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import reading

    output.print_heads(reading.heads(project=args.config), args.json)
    return 0


def _show(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import reading

    output.print_shown(reading.show(args.revision, checkpoint=args.checkpoint, project=args.config), args.json)
    return 0
