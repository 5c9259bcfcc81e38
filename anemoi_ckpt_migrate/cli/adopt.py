"""The command that adopts checkpoints whose history was never written down: arguments, questions, exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from anemoi_ckpt_migrate.cli.batch import run_batch
from anemoi_ckpt_migrate.cli.common import add_json
from anemoi_ckpt_migrate.cli.selection import add_choice, add_recursive, add_workers, job_of, selection_of
from anemoi_ckpt_migrate.commands.adopt_history import adopt_history, default_name, read_examples
from anemoi_ckpt_migrate.commands.adopt_result import PROPOSED, AdoptedHistory
from anemoi_ckpt_migrate.console import output
from anemoi_ckpt_migrate.console.adopt_table import AdoptTable, print_history
from anemoi_ckpt_migrate.errors import PENDING, NoConfiguration, UsageError
from anemoi_ckpt_migrate.project.project import Project, init, open_project, planned_project

_CHOICES = ("recursive", "exclude", "include", "newer_than", "part", "null", "allow_empty")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    examples = "a checkpoint of each state of the model, the oldest first"
    parser.add_argument("examples", metavar="CKPT", nargs="+", help=examples)
    stamp = (
        "stamp this checkpoint, or with -r all that are found below this folder, if it fits a state; may be repeated"
    )
    parser.add_argument("--stamp", metavar="PATH", dest="checkpoints", action="append", default=[], help=stamp)
    parser.set_defaults(needs_checkpoint=False)
    add_recursive(parser, "-r")
    add_choice(parser)
    _add_answers(parser)
    add_workers(parser)
    parser.add_argument(
        "--no-backup", dest="backup", action="store_false", help="do not keep the old files of stamped ones"
    )
    parser.add_argument("--in-place", action="store_true", help="write stamps into the files instead of copying these")
    parser.add_argument("-n", "--dry-run", action="store_true", help="print what would be done, and write nothing")
    add_json(parser)


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers to questions, which it asks at a terminal")
    group.add_argument("--init", action="store_true", help="make the current folder a project, if there is none")
    name = "the name of the revision of the first step, of the second, ... (default: made from the paths)"
    group.add_argument("--name", metavar="NAME", action="append", default=[], help=name)
    ids = "the id of the revision of the first step, of the second, ... (default: random ones)"
    group.add_argument("--rev-id", metavar="ID", action="append", default=[], help=ids)
    group.add_argument("--model", metavar="NAME", help="the model in the manifest (default: the only one)")
    at = "the revision of the first example (default: that of its record, or as its parameters tell, or base)"
    group.add_argument("--at", metavar="REV", help=at)
    folder = "the folder of new scripts, if the project has several"
    group.add_argument("--version-path", metavar="DIR", help=folder)
    guesses = (
        "go on although operations are guesses or add zeros (default: stop until the comments above them are removed)"
    )
    group.add_argument("--accept-guesses", action=argparse.BooleanOptionalAction, default=None, help=guesses)
    losses = "go on although operations lose values (default: stop until the script settles that)"
    group.add_argument("--accept-losses", action=argparse.BooleanOptionalAction, default=None, help=losses)


def run(args: argparse.Namespace) -> int:
    """Run the command, and return the exit code."""
    questions = _Questions(not args.json)
    _check_choices(args)
    project = _project(args, questions)
    names = _names(args, project, questions)
    history = _written(args, project, names)
    if history.doubts and questions.asks and not args.dry_run:
        history = _reviewed(args, history, names, questions)
    print_history(history, args.json)
    if history.doubts:
        if not args.dry_run:
            output.warn(["no checkpoint was stamped yet: look at the scripts, and run the same command again"])
        return PENDING
    if not args.checkpoints and args.from_file is None and history.written and not args.dry_run:
        folder = questions.text("A folder with checkpoints to stamp, with all below it (Enter for none)", "")
        args.checkpoints, args.recursive = [folder] if folder else [], bool(folder)
    return _stamp(args, history)


def _stamp(args: argparse.Namespace, history: AdoptedHistory) -> int:
    """Stamp the chosen checkpoints."""
    if not args.checkpoints and args.from_file is None:
        if not args.json:
            output.say("next: `ckpt-migrate stamp auto -r FOLDER`, or --stamp FOLDER -r")
        return 0
    selection = selection_of(args)
    if not history.written:
        output.warn(["the files of --stamp are compared with the states once these are written, not in this dry run"])
        return 0
    options = {
        "target": "auto",
        "keep_record": True,
        "backup": args.backup,
        "in_place": args.in_place,
        "dry_run": args.dry_run,
    }
    args.config = history.config
    job = job_of(args, "stamp", options)
    table = AdoptTable(history, args.dry_run)
    return run_batch(args, selection, job, lambda result: output.print_result(result, args.json), table)


def _check_choices(args: argparse.Namespace) -> None:
    """Refuse options that choose checkpoints, if there are none to choose from."""
    if args.checkpoints or args.from_file is not None:
        return
    for name in _CHOICES:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} is about the checkpoints to stamp: name them with --stamp")


def _project(args: argparse.Namespace, questions: _Questions) -> Project:
    """Return the project; make one if there is none and that is wanted.

    Raises
    ------
    UsageError
        There is none, and `--init` is not given.
    """
    try:
        return open_project(args.config)
    except NoConfiguration as error:
        if args.config is not None:
            raise
        if not args.init and not questions.yes("There is no project here. Make the current folder one?", True):
            raise UsageError("there is no project here or above: --init makes the current folder one") from error
    planned = planned_project()
    if args.dry_run:
        return planned
    read_examples(args.examples, args.name, args.rev_id, planned)  # bad input makes no project
    laid = init()
    if not args.json:
        output.print_created(laid)
    return open_project()


def _names(args: argparse.Namespace, project: Project, questions: _Questions) -> list[str]:
    """Return the names of the revisions; ask for those that are to be written."""
    names: list[str] = list(args.name)
    if not questions.asks or args.dry_run or len(names) >= len(args.examples) - 1:
        return names
    planned = _written(args, project, names, dry_run=True)
    for step in planned.steps[len(names) :]:
        usual = default_name(step.old, step.new)
        asked = step.done == PROPOSED
        names.append(questions.text(f"The change from {step.old} to {step.new}", usual) if asked else usual)
    return names


def _written(
    args: argparse.Namespace,
    project: Project,
    names: Sequence[str],
    guesses: bool = False,
    losses: bool = False,
    dry_run: bool = False,
) -> AdoptedHistory:
    return adopt_history(
        args.examples,
        names=names,
        rev_ids=args.rev_id,
        model=args.model,
        at=args.at,
        version_path=args.version_path,
        accept_guesses=guesses or bool(args.accept_guesses),
        accept_losses=losses or bool(args.accept_losses),
        dry_run=dry_run or args.dry_run,
        project=project,
    )


def _reviewed(
    args: argparse.Namespace, history: AdoptedHistory, names: Sequence[str], questions: _Questions
) -> AdoptedHistory:
    """Show the operations that are in doubt, and ask whether to accept them."""
    for step in history.steps:
        if step.doubts:
            questions.show(f"{', '.join(step.paths)}:")
            for operation in step.operations:
                questions.show(f"    {operation}")
    for doubt in history.doubts:
        questions.show(doubt)
    unsure, loses = any(step.unchecked for step in history.steps), any(step.loses for step in history.steps)
    guesses = args.accept_guesses is None and unsure and questions.yes("Are all of these operations right?", False)
    losses = args.accept_losses is None and loses and questions.yes("Go on although values may be lost?", False)
    return _written(args, open_project(history.config), names, guesses, losses) if guesses or losses else history


class _Questions:
    """Asks at a terminal, on the standard error; elsewhere each question has its default answer."""

    def __init__(self, wanted: bool) -> None:
        self.asks = wanted and sys.stdin is not None and sys.stdin.isatty()

    def show(self, text: str) -> None:
        """Show a line that belongs to a question."""
        if self.asks:
            output.show(text)

    def text(self, question: str, default: str) -> str:
        """Return a line, or the default."""
        shown = f" [{default}]" if default else ""
        return self._ask(f"{question}{shown}: ", lambda answer: answer or default) if self.asks else default

    def yes(self, question: str, default: bool) -> bool:
        """Return whether the answer is yes; False if nobody is asked."""
        choice = "[Y/n]" if default else "[y/N]"
        if not self.asks:
            return False
        answer = self._ask(f"{question} {choice} ", str.lower)
        return default if not answer else answer in ("y", "yes")

    @staticmethod
    def _ask(prompt: str, read: Callable[[str], str]) -> str:
        output.flush()
        output.show(prompt, end="")
        line = sys.stdin.readline()
        if not line:  # the terminal was closed
            raise KeyboardInterrupt
        return read(line.strip())
