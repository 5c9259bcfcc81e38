"""The commands that change checkpoints: upgrade, downgrade, sync, stamp, recover, compact, clean."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.cli.common import add, add_json, add_outputs, check_many_outputs, for_each
from anemoi_ckpt_migrate.cli.selection import add_selection, add_workers, is_plain, job_of, selection_of
from anemoi_ckpt_migrate.console import checkpoint_tree, output

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.select import Selection

_TARGET = "the target; see the end of `ckpt-migrate --help`"
_NAMES = "allow new names in the file that can run code when it is loaded"
_OPTIONS = (
    "target",
    "purge",
    "output",
    "backup",
    "in_place",
    "verify",
    "dry_run",
    "check_model",
    "check_rollback",
    "trust_checkpoint_code",
    "discard_changes",
    "copy_shared",
    "hard_link",
    "max_shard_size",
    "outputs",
    "expect_outputs",
    "tolerance",
)


def add_commands(adding: Any) -> None:
    """Add the commands to a parser."""
    add(adding, "upgrade", _upgrade, "bring checkpoints up to a target", _upgrade_arguments)
    add(adding, "downgrade", _downgrade, "take checkpoints back down to a target", _downgrade_arguments)
    both = "bring checkpoints to the heads: undo revisions that no script here has, then upgrade"
    add(adding, "sync", _sync, both, _sync_arguments)
    record = "record which revisions checkpoints have, without running anything"
    add(adding, "stamp", _stamp, record, _stamp_arguments)
    add(
        adding,
        "recover",
        _recover,
        "restore files on which an in-place run was interrupted",
        add_selection,
        add_workers,
        add_json,
    )
    add(
        adding,
        "compact",
        _compact,
        "rewrite files without the unused bytes that in-place runs left",
        add_selection,
        add_workers,
        _add_writing,
        add_json,
    )
    proven = "remove backups that the record proves; without --remove, only list them"
    add(adding, "clean", _clean, proven, _clean_arguments)


def _upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=_TARGET)
    _add_moving(parser)
    check = "first try the upgrade and its rollback on this file; write nothing unless the rollback restores it exactly"
    parser.add_argument("--check-rollback", action="store_true", help=check)
    parser.add_argument("--trust-checkpoint-code", action="store_true", help=_NAMES)
    _add_check_model(parser)
    _add_copy_shared(parser)
    add_outputs(parser)


def _downgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=_TARGET)
    _sync_arguments(parser)


def _sync_arguments(parser: argparse.ArgumentParser) -> None:
    _add_moving(parser)
    trust = f"run rollbacks that the checkpoint carries if no script here has them; {_NAMES}"
    parser.add_argument("--trust-checkpoint-code", action="store_true", help=trust)
    discard = "discard changes made after the upgrade to values that operations added, cast or set"
    parser.add_argument("--discard-changes", action="store_true", help=discard)
    _add_check_model(parser)
    _add_copy_shared(parser)


def _stamp_arguments(parser: argparse.ArgumentParser) -> None:
    revisions = "the revisions that the file has: head, heads, base, or revisions separated by commas"
    parser.add_argument("target", metavar="TARGET", help=revisions)
    _add_moving(parser)
    parser.add_argument(
        "--purge", action="store_true", help="first discard the record of the checkpoint, even if it is damaged"
    )


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    add_workers(parser)
    age = "backups made before: an age, for example 12h, 30d or 2w, or a date"
    parser.add_argument("--older-than", metavar="AGE", help=age)
    parser.add_argument("--larger-than", metavar="SIZE", help="backups of more bytes, for example 10GB")
    parser.add_argument("--keep", metavar="N", type=int, help="all backups but the N newest")
    parser.add_argument("--remove", action="store_true", help="remove the backups that meet all given conditions")
    parser.add_argument("--verify", action="store_true", help="first verify all checksums of the checkpoint")
    add_json(parser)


def _add_moving(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    add_workers(parser)
    _add_writing(parser)
    in_place = "write the changes into the file instead of copying it: for files too large to copy"
    parser.add_argument("--in-place", action="store_true", help=in_place)
    link = "folders of Hugging Face: share the files that do not change with the backup (hard links)"
    parser.add_argument("--hard-link", action="store_true", help=link)
    largest = "folders of Hugging Face: the most bytes of tensors in a file, for example 5GB"
    parser.add_argument("--max-shard-size", metavar="SIZE", help=largest)
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the plan and write nothing")
    add_json(parser)


def _add_copy_shared(parser: argparse.ArgumentParser) -> None:
    what = "write tensors that share memory (tied weights) one by one into a safetensors file, which cannot share it"
    parser.add_argument("--copy-shared", action="store_true", help=what)


def _add_check_model(parser: argparse.ArgumentParser) -> None:
    what = "do not compare the result with the manifest or with the project's model"
    parser.add_argument("--no-check-model", dest="check_model", action="store_false", help=what)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="PATH", help="write to PATH and leave the checkpoint unchanged")
    parser.add_argument("--no-backup", dest="backup", action="store_false", help="do not keep the old file")
    parser.add_argument("--verify", action="store_true", help="first verify all checksums of the file")


def _upgrade(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.upgrade import upgrade

    return _move(args, upgrade)


def _downgrade(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.downgrade import downgrade

    return _move(args, downgrade)


def _sync(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.sync import sync

    return _move(args, sync)


def _stamp(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.stamp import stamp

    return _move(args, stamp)


def _move(args: argparse.Namespace, command: Any) -> int:
    selection = selection_of(args)
    if not is_plain(args, selection):
        return _many(args, selection, output.print_result)
    from anemoi_ckpt_migrate.project.project import resolve_project

    options = _options(args) | {"project": resolve_project(args.config)}
    if options.get("expect_outputs") is not None and len(args.checkpoints) > 1:
        check_many_outputs(args)
    done: dict[str, str] = {}

    def move(checkpoint: str) -> None:
        # A link to another of the files is skipped: `-1` must undo one step of the file, not two.
        real = os.path.realpath(checkpoint)
        if real in done:
            output.warn([f"{checkpoint}: skipped, because it is the same file as {done[real]}"])
            return
        done[real] = checkpoint
        # Output of scripts must not mix with the lines of JSON.
        printed = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
        with printed, checkpoint_tree.progress(checkpoint, args.json) as progress:
            result = command(checkpoint, progress=progress, **options)
        output.print_result(result, args.json)

    return for_each(args, move)


def _recover(args: argparse.Namespace) -> int:
    selection = selection_of(args)
    if not is_plain(args, selection):
        return _many(args, selection, output.print_recovered, needs_project=False)
    from anemoi_ckpt_migrate.commands.recover import recover

    return for_each(args, lambda checkpoint: output.print_recovered(recover(checkpoint), args.json))


def _compact(args: argparse.Namespace) -> int:
    selection = selection_of(args)
    if not is_plain(args, selection):
        return _many(args, selection, output.print_compacted, needs_project=False)
    from anemoi_ckpt_migrate.commands.compact import compact

    def shrink(checkpoint: str) -> None:
        with checkpoint_tree.progress(checkpoint, args.json) as progress:
            result = compact(checkpoint, progress=progress, **_options(args))
        output.print_compacted(result, args.json)

    return for_each(args, shrink)


def _clean(args: argparse.Namespace) -> int:
    from anemoi_ckpt_migrate.commands.clean import clean
    from anemoi_ckpt_migrate.console.backup_table import print_cleaned

    names = ("older_than", "larger_than", "keep", "remove", "verify")
    options = {name: getattr(args, name) for name in names}
    selection = selection_of(args)
    if not is_plain(args, selection):
        from anemoi_ckpt_migrate.cli.batch import run_batch
        from anemoi_ckpt_migrate.console.backup_table import BackupTable

        job = job_of(args, "clean", options, needs_project=False)
        return run_batch(args, selection, job, lambda found: print_cleaned(found, args.json), BackupTable(args.remove))

    def remove(checkpoint: str) -> None:
        with checkpoint_tree.progress(checkpoint, args.json) as progress:
            cleaned = clean(checkpoint, progress=progress, **options)
        print_cleaned(cleaned, args.json)

    return for_each(args, remove)


def _many(
    args: argparse.Namespace, selection: Selection, show: Callable[[Any, bool], None], needs_project: bool = True
) -> int:
    """Run the command on many checkpoints."""
    from anemoi_ckpt_migrate.batch.migrate_all import check_target
    from anemoi_ckpt_migrate.cli.batch import run_batch
    from anemoi_ckpt_migrate.console.summary_table import SummaryTable

    is_one = selection.is_plain and len(selection.paths) == 1
    options = {name: value for name, value in _options(args).items() if name != "output" or is_one}
    job = job_of(args, args.command, options, needs_project)
    if args.command == "upgrade":
        check_target(args.target, job.project())
        check_many_outputs(args)
    return run_batch(args, selection, job, lambda result: show(result, args.json), SummaryTable(args.command))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for a command that have the same name on the command line."""
    return {name: getattr(args, name) for name in _OPTIONS if name in args}
