"""Shared code of the commands that write."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.errors import (
    AmbiguousTarget,
    CannotApply,
    DamagedRecord,
    NewerRecord,
    UnknownTarget,
    UsageError,
)
from anemoi_ckpt_migrate.manifests import manifest_file
from anemoi_ckpt_migrate.other_tools import match_revisions
from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, LogEntry, Record
from anemoi_ckpt_migrate.revisions import graph, resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Plan, Step
from anemoi_ckpt_migrate.runtime import carried_code, executor
from anemoi_ckpt_migrate.runtime.added_names import NameCheck, NewName
from anemoi_ckpt_migrate.scripts.discover import is_unchanged
from anemoi_ckpt_migrate.scripts.source import signature_of, source_of
from anemoi_ckpt_migrate.storage import Checkpoint, Written, check_whole, open_checkpoint, recover
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, naming

DAMAGED = Record()
"""Stands for a record that cannot be read."""


@dataclass(frozen=True)
class Options:
    """Options for writing.

    Attributes
    ----------
    output : Path or None
        Write to this path, and leave the checkpoint unchanged.
    backup : bool
        Keep the old file.
    in_place : bool
        Append new data to the file, and do not move existing data.
    verify : bool
        Verify the whole file first.
    dry_run : bool
        Plan only; write nothing.
    progress : callable or None
        Called from time to time with the number of bytes copied.
    """

    output: Path | None = None
    backup: bool = True
    in_place: bool = False
    verify: bool = False
    dry_run: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.in_place and self.output is not None:
            raise UsageError("--in-place writes to the checkpoint, --output to another file: leave out one")


@dataclass(frozen=True)
class Result:
    """The result of a run on a checkpoint, or of a plan with `dry_run`.

    Attributes
    ----------
    checkpoint : str
        The file.
    start, end : tuple of str
        Its heads before and after.
    steps : tuple of Step
        The steps that ran, in order.
    written, backup : str or None
        The new file, and where the old one is kept.
    dry_run : bool
        Whether the run only planned and wrote nothing.
    warnings : tuple of str
        Notes for the user.
    recorded : bool
        Whether the record changes, even if the heads do not: `stamp` stores the current state of the scripts.
    restored : bool
        Whether the previous bytes, still in the file, were restored without running a rollback.
    names : tuple of NewName
        Classes and functions that the new pickle names, and the old one does not. With `dry_run`, only names that
        operations add; names that functions add are not known.
    """

    checkpoint: str
    start: tuple[str, ...]
    end: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    written: str | None = None
    backup: str | None = None
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    recorded: bool = False
    restored: bool = False
    names: tuple[NewName, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "from": list(self.start),
            "to": list(self.end),
            "steps": [{"revision": s.revision, "name": s.name, "direction": s.direction} for s in self.steps],
            "written": self.written,
            "backup": self.backup,
            "dry_run": self.dry_run,
            "new_names": [name._asdict() for name in self.names],
        }


@contextmanager
def reading(
    path: StrPath, project: Project, options: Options, stamping: bool = False, purge: bool = False
) -> Iterator[tuple[Checkpoint, Any, Record]]:
    """Open a checkpoint, and yield it with its tree and record. All errors name the checkpoint."""
    with naming(path):
        check_whole(path)
        if options.output is None and not options.dry_run:
            recover(Path(path))
        with open_checkpoint(path, project.config.trusted) as file:
            if options.verify:
                file.verify(options.progress)
            tree = file.load()
            try:
                record = embed.take(tree, file.attachment(embed.ATTACHMENT))
                record = record.of_chain(project.config.chain, project.config.other_tool)
            except (DamagedRecord, NewerRecord) as error:
                if not (purge or (stamping and isinstance(error, DamagedRecord))):
                    raise
                record = DAMAGED
            try:
                yield file, tree, record
            except CannotApply as error:
                raise CannotApply(error.faults, _hint(path, project, record)) from error.__cause__


def _hint(path: StrPath, project: Project, record: Record) -> str:
    """Return a hint that a checkpoint without a record was taken to be at base."""
    if record.lineage or record.log or project.config.recogniser is not None or project.graph.known_as:
        return ""
    known = (project.config.versions[0] / manifest_file.NAME).exists()
    auto, does = ("auto", "finds") if known else ("REV", "records")
    way = f"`ckpt-migrate stamp {auto} {shlex.quote(os.fspath(path))}` {does} its revision"
    return f"it has no record, so it was taken to be at base: {way}"


def seen_from(graph: Graph, record: Record, wanted: Sequence[targets.Target] = (), package: str | None = None) -> Graph:
    """Return the graph for a checkpoint that is to move to some targets.

    A squashed group counts as one revision, unless the checkpoint has a part of it or a target names a part.
    """
    applied = [entry.revision for entry in record.lineage]
    whole = {part.id for rev in applied if rev in graph for part in graph[rev].replaces}
    parts = [part for target in wanted for part in inside(graph, target, package) if part not in whole]
    return graph.seen_from([*applied, *parts])


def inside(graph: Graph, target: targets.Target, package: str | None) -> list[str]:
    """Return the parts of squashed revisions that a target names."""
    if isinstance(target, targets.Released):
        return [graph[rev].replaces[0].id for rev in resolve.split_by(graph, target, package)]
    place = target.target if isinstance(target, targets.OnBranch) else target
    start = place.start if isinstance(place, targets.Beyond) else place
    if not isinstance(start, targets.Id) or not graph.replaced or start.text in graph:
        return []
    try:
        found = graph.opened().find(start.text)
    except (UnknownTarget, AmbiguousTarget):
        return []  # resolving the target raises the error
    return [found] if found in graph.replaced and start.text not in graph.labels else []


def unchanged(file: Checkpoint, plan: Plan, options: Options, warnings: tuple[str, ...]) -> Result:
    """Return the result when there is nothing to do; writes a copy if one was asked for."""
    written = None
    if options.output is not None and not options.dry_run:
        written = file.copy(options.output, progress=options.progress)
    return result_of(file, plan, options, warnings, written)


def write(
    file: Checkpoint,
    tree: Any,
    record: Record,
    plan: Plan,
    actions: Sequence[executor.Action],
    settings: executor.Settings,
    after: Callable[[executor.RunContext], Record],
    options: Options,
    warnings: tuple[str, ...],
    names: NameCheck | None = None,
) -> Result:
    """Run a plan and write the result, after checking the names that it adds.

    Raises the errors of the command.
    """
    if options.output is None:
        file.check_writable(options.in_place)  # first, because the functions may take long
    stash = {revision: list(values) for revision, values in record.stash.items()}

    settings = replace(settings, optimizers=record.optimizers)
    noted: list[str] = []

    def remembered(walk: executor.RunContext) -> Record:
        made = replace(after(walk), stash=walk.state.stash, optimizers=walk.state.orders)
        noted.extend(walk.warnings)
        return made

    pickled, attachments = executor.run(file, tree, stash, actions, settings, remembered)
    added = () if names is None else names.added(dict.fromkeys(pickled.names, False))
    if options.in_place:
        written = file.write_in_place(pickled, attachments)
    else:
        written = file.write(pickled, attachments, options.output, options.backup, options.progress)
    return replace(result_of(file, plan, options, (*warnings, *noted), written), recorded=True, names=added)


def foresee(
    file: Checkpoint,
    tree: Any,
    record: Record,
    actions: Sequence[executor.Action],
    settings: executor.Settings,
    check: Callable[[executor.RunContext], list[str]],
    names: NameCheck,
) -> tuple[list[str], tuple[NewName, ...]]:
    """Apply operations, up to the first function, to names, shapes and dtypes only.

    Parameters
    ----------
    check : callable
        Called with the walk if no action runs a function; returns notes.
    names : NameCheck
        The check of the names that are added to the pickle.

    Returns
    -------
    tuple of list of str and tuple of NewName
        The notes of `check`, and the names that are added.

    Raises
    ------
    CannotApply
        The operations do not fit the checkpoint; the error lists all faults.
    DangerousNames
        The operations add names that are not allowed.
    """
    first = next((at for at, action in enumerate(actions) if action.runs_code), len(actions))
    if not first:
        return [], ()
    settings = replace(settings, optimizers=record.optimizers)
    walk = executor.walked(file, tree, dict(record.stash), actions[:first], settings)
    found = check(walk) if first == len(actions) else []
    embed.put(walk.state.tree, replace(record, stash=walk.state.stash))  # raises if the tree has no place for it
    return found, names.added(dict.fromkeys(file.pickled(walk.state.tree).names, False))


def result_of(
    file: Checkpoint, plan: Plan, options: Options, warnings: tuple[str, ...], written: Written | None
) -> Result:
    """Return the result of a run on a checkpoint."""
    return Result(
        os.fspath(file.path),
        plan.start,
        plan.end,
        plan.steps,
        None if written is None else os.fspath(written.path),
        None if written is None or written.backup is None else os.fspath(written.backup),
        options.dry_run,
        warnings,
    )


def applied_of(revision: Revision, module: Any) -> Applied:
    """Describe a revision for the record; with the loaded script, the rollback is also stored by value."""
    undo = None
    if revision.reversible and not revision.undone_by_operations:
        undo = carried_code.carry(source_of(revision), module)
    return Applied(
        revision.id,
        revision.parents,
        revision.depends_on,
        revision.name,
        signature_of(revision),
        dict(revision.versions),
        revision.final,
        undo,
        known_as=match_revisions.noted_as(revision, {}),
    )


def log_entry(command: str, target: str, plan: Plan, proven: bool = False) -> LogEntry:
    """Return the log entry of a command."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    steps = tuple(step.revision for step in plan.steps)
    return LogEntry(now, command, target, plan.start, plan.end, steps, __version__, proven)


def changed_since(scripts: graph.Graph, record: Record) -> tuple[str, ...]:
    """Return warnings about applied revisions whose scripts have changed.

    Raises
    ------
    MigrationFailed
        A script cannot be read.
    """
    return tuple(
        f"the script of {entry.revision} ({entry.name}) has changed since it was applied: "
        f"{scripts[entry.revision].path} (`ckpt-migrate stamp` accepts it as it is)"
        for entry in record.lineage
        if entry.revision in scripts and not is_unchanged(scripts[entry.revision], entry)
    )
