"""Output of results: lines of text for people, JSON for programs. Warnings and errors go to stderr."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import CannotPrint, MigrateError, shown_path
from anemoi_ckpt_migrate.util.text import plain, sized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from anemoi_ckpt_migrate.commands.compact import Compacted
    from anemoi_ckpt_migrate.commands.import_scripts import Import
    from anemoi_ckpt_migrate.commands.inspect import Inspection
    from anemoi_ckpt_migrate.commands.rebase import Rebased
    from anemoi_ckpt_migrate.commands.recover import Recovered
    from anemoi_ckpt_migrate.commands.release import Release
    from anemoi_ckpt_migrate.commands.revision import NewRevision
    from anemoi_ckpt_migrate.commands.squash import Squashed
    from anemoi_ckpt_migrate.project.scaffold import CreatedPath
    from anemoi_ckpt_migrate.runtime.result import Result

_LONGEST = 900  # letters of a sentence: names in it may come from hostile checkpoints


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Report failures of the output (a full disk, for example) in one sentence; a closed pipe passes through.

    Raises
    ------
    CannotPrint
        The output cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise CannotPrint(error.strerror or str(error)) from error


def flush() -> None:
    """Flush everything that was printed."""
    if sys.stdout is not None:
        with printing():
            sys.stdout.flush()


def silence() -> None:
    """Discard all further output: nobody reads it, and the interpreter would complain when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: MigrateError, as_json: bool, checkpoint: str | None = None, chain: str | None = None) -> None:
    """Print an error on stderr; if it is the answer about a checkpoint, also as JSON on stdout.

    Commands that it proposes are for the chain that the command is about.
    """
    flush()
    lines = chr(10) if error.lines else ""
    said = plain(str(error), keep=lines)
    if chain:
        said = re.sub(
            r"`ckpt-migrate (?!--chain |[^`]*` undoes it first, without --chain)",
            lambda _: f"`ckpt-migrate --chain {chain} ",
            said,
        )
    sys.stderr.write(f"ckpt-migrate: error: {said if lines or len(said) < _LONGEST else said[:_LONGEST] + '...'}\n")
    if as_json and checkpoint is not None:
        print_error(error, checkpoint)


def print_error(error: MigrateError, checkpoint: str) -> None:
    """Print an error about a checkpoint as JSON."""
    print_json({"checkpoint": checkpoint, "error": error.to_data()})


def print_laid(laid: Sequence[CreatedPath]) -> None:
    """Print the result of `init`."""
    print_created(laid)
    if any(item.done != "kept" for item in laid):
        say('next: ckpt-migrate revision "describe the change"')


def print_created(laid: Sequence[CreatedPath]) -> None:
    """Print a line for each file and folder of a project."""
    for item in laid:
        say(f"{item.done:8} {shown_path(os.fspath(item.path))}")


def print_revision(made: NewRevision, as_json: bool) -> None:
    """Print the result of `revision` or `merge`."""
    warn(made.warnings)
    if as_json:
        print_json({"revision": made.revision, "path": made.path, "parents": list(made.parents)})
    else:
        say(f"created {shown_path(made.path)}")


def print_import(made: Import, as_json: bool) -> None:
    """Print the result of `import-scripts`."""
    warn(f"{script.name}: {note}" for script in made.scripts for note in script.notes)
    if as_json:
        print_json(made.to_data())
        return
    for script in made.scripts:
        say(f"{script.done:8} {script.revision}  {script.name}: {shown_path(script.path)}")


def print_rebased(rebased: Rebased, as_json: bool) -> None:
    """Print the result of `rebase`."""
    if as_json:
        print_json(rebased.to_data())
        return
    before, after = _ids(rebased.before), _ids(rebased.after)
    done = f"already follows {after}" if before == after else f"now follows {after} (was {before})"
    say(f"{rebased.revision} {done}: {shown_path(rebased.path)}")
    for path in rebased.forgotten:
        say(f"removed {shown_path(path)}, the manifest of a revision that moved")


def print_squashed(squashed: Squashed, as_json: bool) -> None:
    """Print the result of `squash`."""
    if as_json:
        print_json(squashed.to_data())
        return
    say(f"created {shown_path(squashed.path)}, which replaces {', '.join(squashed.replaced)}")
    for path in squashed.removed:
        say(f"removed {shown_path(path)}")


def print_release(release: Release, as_json: bool) -> None:
    """Print the result of `release`."""
    if as_json:
        print_json(release.to_data())
        return
    count = len(release.revisions)
    say(f"{count} revision{'s' * (count != 1)} added as released to {shown_path(release.path)}")


def print_file(content: str, path: Path | None) -> None:
    """Print the content of a file, or write it."""
    if path is None:
        put(content, end="" if content.endswith("\n") else "\n")
        return
    from anemoi_ckpt_migrate.errors import CannotWrite

    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{path} could not be written ({error.strerror})") from error
    say(f"created {shown_path(str(path))}")


def print_result(result: Result, as_json: bool) -> None:
    """Print the result of a command that moved a checkpoint."""
    warn(f"{result.checkpoint}: {warning}" for warning in result.warnings)
    if as_json:
        print_json(result.to_data())
        return
    start, end = _ids(result.start), _ids(result.end)
    if result.start == result.end and not result.steps:
        copied = f", copied to {shown_path(result.written)}" if result.written else ", nothing to do"
        copied = ", record written again" if result.recorded else copied
        say(f"{result.checkpoint}: already at {end}{copied}{_dry(result) if result.recorded else ''}")
        _say_outputs(result)
        _say_backup(result.backup)
        return
    say(f"{result.checkpoint}: {start} -> {end}{_dry(result)}")
    for step in result.steps:
        note = "" if step.reversible else "  (irreversible)"
        note += "  (code from the checkpoint)" if step.carried else ""
        say(f"  {step.direction} {step.revision}  {step.name}{note}")
    for name in result.names:
        if name.dangerous:
            say(f"  the file will newly name {name.name}, which is dangerous: loading the file could run any code")
    if result.restored:
        say("  restored the previous content of the file; no rollback had to run")
    _say_outputs(result)
    if result.written not in (None, result.checkpoint):
        say(f"  written to {shown_path(result.written or '')}")
    _say_backup(result.backup)


def _dry(result: Result) -> str:
    return " (dry run, nothing written)" if result.dry_run else ""


def _say_outputs(result: Result) -> None:
    if result.outputs is not None:
        say(f"  {result.outputs.sentence}")


def _say_backup(backup: str | None) -> None:
    if backup is not None:
        say(f"  the old file is kept as {backup}")


def print_recovered(recovered: Recovered, as_json: bool) -> None:
    """Print the result of `recover`."""
    if as_json:
        print_json(recovered.to_data())
    elif recovered.removed is None:
        say(f"{recovered.checkpoint}: nothing to recover, no run was interrupted")
    elif recovered.completed:
        say(f"{recovered.checkpoint}: completed the interrupted run: the new folder has its name")
    else:
        removed = f" ({sized(recovered.removed)} of an interrupted run removed)" if recovered.removed else ""
        say(f"{recovered.checkpoint}: the file is whole again{removed}")


def print_compacted(compacted: Compacted, as_json: bool) -> None:
    """Print the result of `compact`."""
    if as_json:
        print_json(compacted.to_data())
        return
    if compacted.written is None:
        say(f"{compacted.checkpoint}: nothing to gain, every byte is in use")
        return
    say(f"{compacted.checkpoint}: {sized(compacted.before)} -> {sized(compacted.after)}")
    if compacted.written != compacted.checkpoint:
        say(f"  written to {shown_path(compacted.written)}")
    _say_backup(compacted.backup)


def print_inspection(found: Inspection, as_json: bool, depth: int) -> None:
    """Print the content of a checkpoint."""
    warn(f"{found.checkpoint}: {warning}" for warning in found.warnings)
    if as_json:
        print_json(found.to_data())
    else:
        from anemoi_ckpt_migrate.console.checkpoint_tree import picture

        with printing():
            picture(found, depth)
    if found.damaged:
        names = ", ".join(damage.record for damage in found.damaged)
        flush()
        sys.stderr.write(plain(f"ckpt-migrate: error: {found.checkpoint}: damaged (wrong checksum): {names}") + "\n")


def _ids(heads: Iterable[str]) -> str:
    return ", ".join(heads) or "base"


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        said = plain(warning)
        sys.stderr.write(f"ckpt-migrate: warning: {said if len(said) < _LONGEST else said[:_LONGEST] + '...'}\n")


def say(text: str) -> None:
    """Print a line."""
    put(plain(text))


def show(text: str, end: str = "\n") -> None:
    """Print a text to somebody at a terminal, on stderr."""
    sys.stderr.write(plain(text) + end)
    sys.stderr.flush()


def put(text: str, end: str = "\n") -> None:
    """Print text unchanged."""
    with printing():
        print(text, end=end)


def print_json(data: Any) -> None:
    """Print a line of JSON."""
    import json

    put(json.dumps(data))
