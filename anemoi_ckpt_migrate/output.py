"""How results look: lines of text for people, JSON for programs. Warnings and errors go to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import FaultyScripts, MigrateError, shown_path
from anemoi_ckpt_migrate.plain import plain, sized

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.inspecting import Inspection
    from anemoi_ckpt_migrate.commands.mending import Compacted, Recovered
    from anemoi_ckpt_migrate.commands.moving import Result
    from anemoi_ckpt_migrate.commands.project import NewRevision
    from anemoi_ckpt_migrate.commands.reading import Current, Head, History, HistoryEntry, Shown
    from anemoi_ckpt_migrate.config import Laid

_LONGEST = 900  # a sentence: names come from checkpoints, and those from anywhere


def flush() -> None:
    """Bring everything out that was printed."""
    if sys.stdout is not None:
        sys.stdout.flush()


def silence() -> None:
    """Print to nowhere from now on: nobody reads it, and the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: MigrateError, as_json: bool, checkpoint: str | None = None) -> None:
    """Print an error; as JSON too, on stdout, where it is the answer about a checkpoint."""
    flush()
    lines = chr(10) if isinstance(error, FaultyScripts) else ""
    said = plain(str(error), keep=lines)
    sys.stderr.write(f"ckpt-migrate: error: {said if lines or len(said) < _LONGEST else said[:_LONGEST] + '...'}\n")
    if as_json and checkpoint is not None:
        kind = {"type": type(error).__name__, "message": error.sentence}
        _print_json({"checkpoint": checkpoint, "error": kind})


def print_laid(laid: Sequence[Laid]) -> None:
    """Print what `init` did."""
    for item in laid:
        _say(f"{item.done:8} {shown_path(os.fspath(item.path))}")
    if any(item.done != "kept" for item in laid):
        _say('next: ckpt-migrate revision "what changes"')


def print_revision(made: NewRevision, as_json: bool) -> None:
    """Print what `revision` made."""
    _warn(made.warnings)
    if as_json:
        _print_json({"revision": made.revision, "path": made.path, "parents": list(made.parents)})
    else:
        _say(f"created {shown_path(made.path)}")


def print_result(result: Result, as_json: bool) -> None:
    """Print what was done to a checkpoint."""
    _warn(f"{result.checkpoint}: {warning}" for warning in result.warnings)
    if as_json:
        _print_json(result.to_data())
        return
    start, end = _ids(result.start), _ids(result.end)
    if result.start == result.end and not result.steps:
        copied = f", copied to {shown_path(result.written)}" if result.written else ", nothing to do"
        copied = ", recorded anew" if result.recorded else copied
        _say(f"{result.checkpoint}: already at {end}{copied}{_dry(result) if result.recorded else ''}")
        _say_backup(result.backup)
        return
    _say(f"{result.checkpoint}: {start} -> {end}{_dry(result)}")
    for step in result.steps:
        note = "" if step.reversible else "  (irreversible)"
        note += "  (code from the checkpoint)" if step.carried else ""
        _say(f"  {step.direction} {step.revision}  {step.name}{note}")
    if result.restored:
        _say("  the bytes of then were still in the file: no rollback was run")
    if result.written not in (None, result.checkpoint):
        _say(f"  written to {shown_path(result.written or '')}")
    _say_backup(result.backup)


def _dry(result: Result) -> str:
    return " (dry run, nothing written)" if result.dry_run else ""


def _say_backup(backup: str | None) -> None:
    if backup is not None:
        _say(f"  the old file is kept as {backup}")


def print_recovered(recovered: Recovered, as_json: bool) -> None:
    """Print what `recover` did."""
    if as_json:
        _print_json(recovered.to_data())
    elif recovered.removed is None:
        _say(f"{recovered.checkpoint}: nothing to recover, no run was interrupted")
    else:
        _say(f"{recovered.checkpoint}: the old file is back ({sized(recovered.removed)} of an interrupted run removed)")


def print_compacted(compacted: Compacted, as_json: bool) -> None:
    """Print what `compact` did."""
    if as_json:
        _print_json(compacted.to_data())
        return
    if compacted.written is None:
        _say(f"{compacted.checkpoint}: nothing to gain, every byte is in use")
        return
    _say(f"{compacted.checkpoint}: {sized(compacted.before)} -> {sized(compacted.after)}")
    if compacted.written != compacted.checkpoint:
        _say(f"  written to {shown_path(compacted.written)}")
    _say_backup(compacted.backup)


def print_current(found: Current, as_json: bool) -> None:
    """Print where a checkpoint stands."""
    _warn(f"{found.checkpoint}: {warning}" for warning in found.warnings)
    if as_json:
        _print_json(found.to_data())
        return
    note = {True: " (head)", False: " (not at head)", None: ""}[found.at_head]
    if not found.heads:
        _say(f"{found.checkpoint}: base{'' if found.recorded else ', it carries no record'}{note}")
    for head in found.heads:
        _say(f"{found.checkpoint}: {_head_line(head)}{note}")


def print_inspection(found: Inspection, as_json: bool, depth: int) -> None:
    """Print what is in a checkpoint."""
    _warn(f"{found.checkpoint}: {warning}" for warning in found.warnings)
    if found.facts.interrupted:
        _warn([f"{found.checkpoint}: a run in place was interrupted, this is the file of before; `recover` it"])
    if as_json:
        _print_json(found.to_data())
    else:
        from anemoi_ckpt_migrate.pictures import picture

        picture(found, depth)
    if found.damaged:
        names = ", ".join(damage.record for damage in found.damaged)
        flush()
        sys.stderr.write(plain(f"ckpt-migrate: error: {found.checkpoint}: damaged, by their CRCs: {names}") + "\n")


def print_history(history: History, as_json: bool) -> None:
    """Print all revisions, newest first."""
    _warn(history.warnings)
    if as_json:
        _print_json([entry.to_data() for entry in history.entries])
        return
    width = max((len(entry.revision) for entry in history.entries), default=0)
    for entry in history.entries:
        mark = {True: "* ", False: "  ", None: ""}[entry.applied]
        parents = ", ".join(entry.parents) or "base"
        _say(f"{mark}{entry.revision:{width}}  {entry.name}  <- {parents}{_notes(entry)}")
    if not history.entries:
        _say("there are no revisions yet")


def print_heads(heads: Sequence[Head], as_json: bool) -> None:
    """Print the heads."""
    if as_json:
        _print_json([head.to_data() for head in heads])
        return
    for head in heads:
        _say(_head_line(head))
    if not heads:
        _say("there are no revisions yet")


def print_shown(shown: Shown, as_json: bool) -> None:
    """Print one revision in full."""
    if as_json:
        _print_json(shown.to_data())
        return
    _say(f"revision  {shown.revision}{'  (barrier)' if shown.final else ''}")
    _say(f"name      {shown.name}")
    _say(f"parents   {', '.join(shown.parents) or 'none, this is a base'}")
    _say(f"versions  {', '.join(f'{name} {version}' for name, version in shown.versions.items()) or 'none noted'}")
    _say(f"rollback  {_rollback(shown)}")
    _say(f"from      {shown.checkpoint or shown_path(shown.path or '')}")
    source = "the checkpoint carries no source of it" if shown.source is None else shown.source.rstrip()
    print(f"\n{plain(source, keep=chr(10) + chr(9))}")


def _head_line(head: Head) -> str:
    labels = f"  [{', '.join(head.labels)}]" if head.labels else ""
    return f"{head.revision}  {head.name}{labels}{'  (barrier)' if head.final else ''}"


def _notes(entry: HistoryEntry) -> str:
    notes = [
        "head" if entry.head else "",
        "barrier" if entry.final else "",
        "" if entry.reversible or entry.final else "irreversible",
        "" if entry.known else "no script here",
    ]
    said = ", ".join(filter(None, notes))
    return f"  ({said})" if said else ""


def _rollback(shown: Shown) -> str:
    if shown.final:
        return "none: nothing crosses a barrier"
    if not shown.reversible:
        return "none: irreversible"
    if shown.checkpoint is None:
        return "in the script"
    by = f"; if that cannot be run, on {shown.pickled_by} the function pickled beside it is" if shown.pickled_by else ""
    return f"carried by the checkpoint, as the source below{by}"


def _ids(heads: Iterable[str]) -> str:
    return ", ".join(heads) or "base"


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"ckpt-migrate: warning: {plain(warning)}\n")


def _say(text: str) -> None:
    print(plain(text))


def _print_json(data: Any) -> None:
    print(json.dumps(data))
