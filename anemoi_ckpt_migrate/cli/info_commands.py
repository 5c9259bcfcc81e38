"""The commands that only read: current, inspect, diff, check, manifest, history, heads, branches, show, graph."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from typing import Any

from anemoi_ckpt_migrate.cli.common import add, add_json, add_outputs, check_many_outputs, for_each, worst
from anemoi_ckpt_migrate.cli.selection import add_recursive, add_selection, add_workers, is_plain, job_of, selection_of
from anemoi_ckpt_migrate.console import checkpoint_tree, output
from anemoi_ckpt_migrate.errors import ERROR, PENDING, UsageError
from anemoi_ckpt_migrate.util.text import numbered

_KINDS = ("mermaid", "dot", "svg")


def add_commands(adding: Any) -> None:
    """Add the commands to a parser."""
    _add_about_checkpoints(adding)
    _add_about_revisions(adding)


def _add_about_checkpoints(adding: Any) -> None:
    add(adding, "current", _current, "show at which revisions checkpoints are", _current_arguments)
    add(
        adding,
        "inspect",
        _inspect,
        "show the contents of checkpoints, without running any code in them",
        _inspect_arguments,
    )
    add(
        adding,
        "diff",
        _diff,
        "compare the parameters of two checkpoints, or of a checkpoint and a model",
        _diff_arguments,
    )
    add(adding, "check", _check, "look for problems in the scripts, the models and checkpoints", _check_arguments)
    add(adding, "manifest", _manifest, "show or record the parameters of models", _manifest_arguments)
    add(
        adding,
        "report",
        _report,
        "sum up the reports of runs, and list the checkpoints that are left to do",
        _report_arguments,
    )


def _current_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    add_workers(parser, verbose=False)
    parser.add_argument("--check-heads", action="store_true", help="exit with code 4 if a checkpoint is not at head")
    _add_verbose(parser)
    add_json(parser)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    add_workers(parser)
    parser.add_argument("--verify", action="store_true", help="verify all checksums of the file")
    parser.add_argument(
        "--depth", metavar="N", type=_level, default=4, help="number of levels of the tree (default: 4)"
    )
    add_json(parser)


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", help="a checkpoint")
    parser.add_argument(
        "new", metavar="B", help="a checkpoint, or a function that makes a model, as package.module:factory"
    )
    parser.add_argument("-a", "--all", action="store_true", help="also list parameters that are the same")
    add_json(parser)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser, required=False)
    add_workers(parser)
    rollback = "try upgrade and rollback on each checkpoint, and rollback and upgrade, and compare; write nothing"
    parser.add_argument("--rollback", action="store_true", help=rollback)
    model = "only compare the project's models, or model NAME, with the manifest"
    parser.add_argument("--model", metavar="NAME", nargs="?", const="", help=model)
    compared = add_outputs(parser)
    keep = "compare nothing, but write the outputs of the one checkpoint as it is to a new FILE, for --expect-outputs"
    compared.add_argument("--save-outputs", metavar="FILE", help=keep)
    add_json(parser)


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="*", help="names of models (default: all)")
    parser.add_argument("--at", metavar="REV", help="a revision or `base` (default: that of the manifest)")
    update = "record the parameters of the current code: the first time, or if old checkpoints need no migration"
    parser.add_argument("--update", dest="write", action="store_true", help=update)
    parser.add_argument(
        "--from",
        dest="checkpoint",
        metavar="CKPT",
        help="with --update, record the parameters of this checkpoint instead",
    )
    add_json(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", metavar="FILE", nargs="+", help="what --report wrote, in several runs or for parts")
    left = "list only the checkpoints that are left to do, a path a line, as --from-file takes them"
    parser.add_argument("--left", action="store_true", help=left)
    parser.add_argument("--null", action="store_true", help="with --left, end each path with a NUL byte instead")
    add_json(parser)


def _add_about_revisions(adding: Any) -> None:
    add(adding, "history", _history, "list revisions, newest first", _history_arguments)
    add(adding, "graph", _graph, "draw the graph of revisions", _graph_arguments)
    add(adding, "heads", _heads, "list the heads, which no revision follows", _heads_arguments)
    add(adding, "branches", _branches, "list labelled branches and branch points", _add_verbose, add_json)
    add(adding, "show", _show, "show one revision, with its source", _show_arguments)


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    _add_stretch(parser)
    add_recursive(parser)
    parser.add_argument("--graph", action="store_true", help="draw the graph beside the list")
    _add_verbose(parser)
    add_json(parser)


def _graph_arguments(parser: argparse.ArgumentParser) -> None:
    _add_stretch(parser)
    parser.add_argument(
        "-f", "--format", choices=_KINDS, default="mermaid", help="the format of the drawing (default: mermaid)"
    )
    parser.add_argument("-o", "--output", metavar="PATH", help="the file to write (default: print it)")


def _heads_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="also write them to the head file")
    _add_verbose(parser)
    add_json(parser)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", help="a revision; see the end of `ckpt-migrate --help`")
    parser.add_argument(
        "--from", dest="checkpoint", metavar="CKPT", help="show the revision as this checkpoint carries it"
    )
    add_json(parser)


def _add_stretch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help="mark the revisions that this checkpoint has")
    ends = "only revisions from A to B, both included: targets or `current`; also A:+N and -N:B (as -r-N:B)"
    parser.add_argument("-r", "--rev-range", metavar="A:B", help=ends)


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="show more about each revision")


def _current(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.current import current
    from anemoi_ckpt_migrate.console import revision_tables
    from anemoi_ckpt_migrate.project.project import resolve_project

    # To tell whether a checkpoint is at head, there has to be one; elsewhere nothing but the checkpoint is needed.
    project = resolve_project(args.config) if args.check_heads else args.config
    selection = selection_of(args)

    def code_of(found: Any) -> int:
        return PENDING if args.check_heads and found.at_head is False else 0

    def show(checkpoint: str) -> int:
        found = current(checkpoint, project=project)
        revision_tables.print_current(found, args.json, args.verbose)
        return code_of(found)

    if is_plain(args, selection):
        return for_each(args, show)
    from anemoi_ckpt_migrate.cli.batch import run_batch
    from anemoi_ckpt_migrate.console.current_table import CurrentTable

    table = CurrentTable(selection.backups())
    job = job_of(args, "current", {}, needs_project=args.check_heads)
    return run_batch(
        args, selection, job, lambda found: revision_tables.print_current(found, args.json), table, code_of
    )


def _diff(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import diff
    from anemoi_ckpt_migrate.console import diff_table

    found = diff.diff(args.old, args.new, project=args.config)
    diff_table.print_diff(found, args.json, args.all)
    return 0


def _check(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import check
    from anemoi_ckpt_migrate.console import revision_tables

    selection = selection_of(args)
    few = is_plain(args, selection) or not (args.checkpoints or args.from_file)
    options = {name: getattr(args, name) for name in ("outputs", "save_outputs", "expect_outputs", "tolerance")}
    if few:
        found = check.check(args.checkpoints, rollback=args.rollback, model=args.model, project=args.config, **options)
    else:
        check_many_outputs(args)
        found = check.check(rollback=args.rollback, model=args.model, project=args.config)
    revision_tables.print_checked(found, args.json)
    if few:
        return found.exit_code
    from anemoi_ckpt_migrate.cli.batch import run_batch
    from anemoi_ckpt_migrate.console.check_table import CheckTable

    job = job_of(args, "check_checkpoint", {"rollback": args.rollback, **options})
    show = functools.partial(revision_tables.print_checked, as_json=args.json)
    code = run_batch(args, selection, job, show, CheckTable(), lambda checked: int(checked.exit_code))
    return worst([found.exit_code, code])


def _manifest(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import manifest
    from anemoi_ckpt_migrate.console import revision_tables

    if args.write:
        options = {"checkpoint": args.checkpoint, "at": args.at, "project": args.config}
        revision_tables.print_manifests(manifest.update_manifest(args.models, **options), args.json)
        return 0
    if args.checkpoint is not None:
        raise UsageError("--from needs --update, because it names the checkpoint to record")
    revision_tables.print_manifests(manifest.manifest(args.models, at=args.at, project=args.config), args.json)
    return 0


def _report(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.batch.report import report
    from anemoi_ckpt_migrate.console import summary_table

    if args.null and not args.left:
        raise UsageError("--null needs --left, because it says how the listed paths end")
    merged = report(args.reports)
    if args.left and not args.json:
        summary_table.print_left(merged, args.null)
    else:
        summary_table.print_report(merged, args.json)
    return merged.exit_code


def _history(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands import history
    from anemoi_ckpt_migrate.console import revision_tables

    if not args.recursive:
        found = history.history(args.checkpoint, rev_range=args.rev_range, project=args.config)
        revision_tables.print_history(found, args.json, args.graph, args.verbose)
        return 0
    return _history_of_many(args)


def _history_of_many(args: argparse.Namespace) -> int:
    """List revisions with the number of checkpoints below a folder that are at each."""
    from anemoi_ckpt_migrate.batch.job import FAILED
    from anemoi_ckpt_migrate.batch.pool import Attention, run_here
    from anemoi_ckpt_migrate.batch.select import Selection
    from anemoi_ckpt_migrate.commands import history
    from anemoi_ckpt_migrate.console import revision_tables

    if args.checkpoint is None:
        raise UsageError("--recursive needs a folder, whose checkpoints are counted")
    listed = history.history(rev_range=args.rev_range, project=args.config)
    heads, none, failed = Counter[str](), 0, 0
    job = job_of(args, "current", {})
    for each in run_here(job, Selection((args.checkpoint,), recursive=True).groups(), Attention()):
        failed += each.status == FAILED
        if each.result is not None:
            heads.update(head.revision for head in each.result.heads)
            none += not each.result.heads
    revision_tables.print_history(history.counted(listed, heads), args.json, args.graph, args.verbose)
    if none:
        output.warn([f"{numbered(none, 'checkpoint')} at base, or without a record"])
    if failed:
        output.warn([f"{numbered(failed, 'file')} could not be read; `ckpt-migrate current -r` names them"])
    return ERROR if failed else 0


def _graph(args: argparse.Namespace) -> int:
    from pathlib import Path

    from anemoi_ckpt_migrate.commands import history

    drawn = history.draw(args.format, args.checkpoint, rev_range=args.rev_range, project=args.config)
    output.print_file(drawn, None if args.output is None else Path(args.output))
    return 0


def _heads(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.branches import heads, write_head_file
    from anemoi_ckpt_migrate.console import revision_tables

    if args.write:
        write_head_file(project=args.config)
    revision_tables.print_heads(heads(project=args.config), args.json, args.verbose)
    return 0


def _branches(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.branches import branches
    from anemoi_ckpt_migrate.console import revision_tables

    revision_tables.print_branches(branches(project=args.config), args.json, args.verbose)
    return 0


def _show(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.show import show
    from anemoi_ckpt_migrate.console import revision_tables

    revision_tables.print_shown(show(args.revision, checkpoint=args.checkpoint, project=args.config), args.json)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.inspect import inspect

    selection = selection_of(args)

    def code_of(found: Any) -> int:
        return ERROR if found.damaged else 0

    def show(checkpoint: str) -> int:
        with checkpoint_tree.progress(checkpoint, args.json or not args.verify) as progress:
            found = inspect(checkpoint, verify=args.verify, project=args.config, progress=progress)
        output.print_inspection(found, args.json, args.depth)
        return code_of(found)

    if is_plain(args, selection):
        return for_each(args, show)
    from anemoi_ckpt_migrate.cli.batch import run_batch
    from anemoi_ckpt_migrate.console.inspect_table import InspectTable

    job = job_of(args, "inspect", {"verify": args.verify}, needs_project=False)
    printed = functools.partial(output.print_inspection, as_json=args.json, depth=args.depth)
    return run_batch(args, selection, job, printed, InspectTable(), code_of)


def _level(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of levels (1 or more)")
    return int(text)
