"""Output of the commands about revisions, and about the places of checkpoints among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.console.output import print_json, put, say, warn
from anemoi_ckpt_migrate.errors import shown_path
from anemoi_ckpt_migrate.util.text import numbered, plain

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.branches import Branches, Head
    from anemoi_ckpt_migrate.commands.check_result import Checked
    from anemoi_ckpt_migrate.commands.current import Current
    from anemoi_ckpt_migrate.commands.history import History
    from anemoi_ckpt_migrate.commands.manifest import Manifest
    from anemoi_ckpt_migrate.commands.show import Shown
    from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry

_MOST = 5


def print_current(found: Current, as_json: bool, verbose: bool = False) -> None:
    """Print the place of a checkpoint in the history."""
    warn(f"{found.checkpoint}: {warning}" for warning in found.warnings)
    if as_json:
        print_json(found.to_data())
        return
    note = {True: " (head)", False: " (not at head)", None: ""}[found.at_head]
    if not found.heads:
        say(f"{found.checkpoint}: base{'' if found.recorded else ', without a record'}{note}")
    for head in found.heads:
        say(f"{found.checkpoint}: {_head_line(head)}{note}{', recognised but not recorded' * found.recognised}")
        _say_path(head.path if verbose else None)
    for entry in found.log if verbose else ():
        count = len(entry.steps)
        steps = f", {count} step{'s' * (count != 1)}" if count else ""
        proven = ", rollback verified" * entry.proven + ", outputs compared" * (entry.outputs is not None)
        say(f"    {entry.time}  {entry.command} {entry.target}{steps}{proven}, by ckpt-migrate {entry.tool}")


def print_history(history: History, as_json: bool, graph: bool = False, verbose: bool = False) -> None:
    """Print revisions, newest first, as a list or a drawing."""
    warn(history.warnings)
    if as_json:
        print_json([entry.to_data() for entry in history.entries])
        return
    if graph:
        from anemoi_ckpt_migrate.revisions.draw_text import as_text

        for line in as_text(history.entries, lambda entry: plain(_described(entry))):
            put(line)
    else:
        width = max((len(entry.revision) for entry in history.entries), default=0)
        for entry in history.entries:
            mark = {True: "* ", False: "  ", None: ""}[entry.applied]
            parents = ", ".join(entry.parents) or "base"
            say(f"{mark}{entry.revision:{width}}  {entry.name}  <- {parents}{_notes(entry)}")
            for line in _details(entry) if verbose else ():
                say(f"    {line}")
    if not history.entries:
        say("there are no revisions yet")


def print_heads(heads: Sequence[Head], as_json: bool, verbose: bool = False) -> None:
    """Print the heads."""
    if as_json:
        print_json([head.to_data() for head in heads])
        return
    for head in heads:
        say(_head_line(head))
        _say_path(head.path if verbose else None)
    if not heads:
        say("there are no revisions yet")


def print_branches(branches: Branches, as_json: bool, verbose: bool = False) -> None:
    """Print the branches with labels, and the revisions where branches part."""
    if as_json:
        print_json(branches.to_data())
        return
    for branch in branches.labelled:
        heads = f"head{'s' * (len(branch.heads) != 1)} {', '.join(branch.heads)}"
        say(f"{branch.label}: {branch.revisions} revision{'s' * (branch.revisions != 1)}, {heads}")
    for point in branches.points:
        say(f"{_head_line(point.revision)}, followed by")
        _say_path(point.revision.path if verbose else None)
        for child in point.children:
            say(f"  -> {_head_line(child)}")
            _say_path(child.path if verbose else None)
    if not branches.labelled and not branches.points:
        say("there are no branches")


def print_checked(checked: Checked, as_json: bool) -> None:
    """Print the result of `check`. Problems are its answer, so they go to stdout."""
    if as_json:
        print_json(checked.to_data())
        return
    for problem in checked.problems:
        say(str(problem))
        for line in problem.details:
            say(f"    {line}")
    for proof in checked.proofs:
        shown = shown_path(proof.checkpoint)
        for why, skipped in groupby(proof.skipped, lambda each: each.why):
            names = [f"{revision} ({name})" for revision, name, _ in skipped]
            more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
            say(f"{shown}: not tested: {', '.join(names[:_MOST])}{more}: {why}")
        if not (proof.up or proof.down):
            why = "" if proof.skipped else ", because it has no revisions and there are none to apply"
            say(f"{shown}: no rollback was tested{why}")
    _say_outputs(checked)
    looked_at = f"{checked.revisions} revision{'s' * (checked.revisions != 1)}"
    if checked.checkpoints:
        looked_at += f" and {checked.checkpoints} checkpoint{'s' * (checked.checkpoints != 1)}"
    if checked.models:
        looked_at += f", {checked.models} model{'s' * (checked.models != 1)}"
    count = len(checked.problems)
    say(f"{looked_at}: {f'{count} problem' + 's' * (count != 1) if count else 'no problems'}")


def _say_outputs(checked: Checked) -> None:
    """Print the outputs that were compared or recorded, and facts that are no problems."""
    for proof in checked.outputs:
        say(f"{shown_path(proof.checkpoint)}: {proof.sentence}")
    for kept in checked.recorded:
        say(f"{shown_path(kept.checkpoint)}: outputs of {kept.function} written to {shown_path(kept.file)}")
    for note in checked.notes:
        say(note)


def print_manifests(found: Sequence[Manifest], as_json: bool) -> None:
    """Print the state of models; for a written manifest, only the changes without a migration."""
    if as_json:
        print_json([each.to_data() for each in found])
        return
    for each in found:
        items, place = each.snapshot.items, ", ".join(each.snapshot.revisions) or "base"
        count = f"{len(items)} parameter{'s' * (len(items) != 1)}"
        if each.written is not None:
            say(f"{each.model} at {place}: {count}, written to {shown_path(each.written)}")
            for change in each.changes:
                say(f"    without a migration: {change}")
            continue
        say(f"{each.model} at {place}: {count}{', which depend on hyper-parameters' * each.snapshot.sized}")
        width = max((len(item.name) for item in items), default=0)
        for item in items:
            say(f"    {item.name:{width}}  {item.dtype}  {list(item.shape)}")
    if not found:
        say("there is no manifest yet; `ckpt-migrate manifest --update` writes one")


def print_shown(shown: Shown, as_json: bool) -> None:
    """Print one revision in full."""
    if as_json:
        print_json(shown.to_data())
        return
    say(f"revision  {shown.revision}{'  (barrier)' if shown.final else ''}")
    say(f"name      {shown.name}")
    say(f"parents   {', '.join(shown.parents) or 'none, this is a base'}")
    if shown.depends_on:
        say(f"needs     {', '.join(shown.depends_on)}")
    if shown.labels:
        say(f"labels    {', '.join(shown.labels)}")
    if shown.replaces:
        say(f"replaces  {', '.join(shown.replaces)}")
    say(f"versions  {', '.join(f'{name} {version}' for name, version in shown.versions.items()) or 'none noted'}")
    if shown.sets_up:
        say("setup     migrate_setup: classes and modules that were moved or removed")
    say(f"rollback  {_rollback(shown)}")
    say(f"from      {shown.checkpoint or shown_path(shown.path or '')}")
    source = "the checkpoint has no source of it" if shown.source is None else shown.source.rstrip()
    put(f"\n{plain(source, keep=chr(10) + chr(9))}")


def _head_line(head: Head) -> str:
    labels = f"  [{', '.join(head.labels)}]" if head.labels else ""
    return f"{head.revision}  {head.name}{labels}{'  (barrier)' if head.final else ''}"


def _say_path(path: str | None) -> None:
    if path is not None:
        say(f"    {shown_path(path)}")


def _described(entry: HistoryEntry) -> str:
    """Return the text beside a revision in a drawing."""
    labels = f"  [{', '.join(entry.labels)}]" if entry.labels else ""
    return f"{entry.revision}  {entry.name}{labels}{_notes(entry)}"


def _details(entry: HistoryEntry) -> Iterator[str]:
    """Yield the further lines about a revision that ``--verbose`` prints."""
    if entry.labels:
        yield f"labels    {', '.join(entry.labels)}"
    if entry.versions:
        yield f"versions  {', '.join(f'{name} {version}' for name, version in entry.versions.items())}"
    if entry.path:
        yield f"script    {shown_path(entry.path)}"


def _notes(entry: HistoryEntry) -> str:
    notes = [
        f"the checkpoint is here{', recognised but not recorded' * entry.recognised}" if entry.here else "",
        numbered(entry.checkpoints, "checkpoint") if entry.checkpoints else "",
        "head" if entry.head else "",
        f"needs {', '.join(entry.depends_on)}" if entry.depends_on else "",
        "barrier" if entry.final else "",
        "setup" if entry.sets_up else "",
        "" if entry.reversible or entry.final else "irreversible",
        "" if entry.known else "no script here",
    ]
    said = ", ".join(filter(None, notes))
    return f"  ({said})" if said else ""


def _rollback(shown: Shown) -> str:
    if shown.final:
        return "none: no checkpoint crosses a barrier"
    if not shown.reversible:
        return "none: irreversible"
    if shown.checkpoint is None:
        return "in the script"
    by = f"; if that fails, {shown.pickled_by} can run the pickled function beside it" if shown.pickled_by else ""
    return f"in the checkpoint, with the source below{by}"
