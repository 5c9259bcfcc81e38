"""The commands that write a checkpoint: upgrade, downgrade, stamp."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import executor, planner, recorder, resolving, rollbacks, targets
from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.checkpoints import Checkpoint, Written, open_checkpoint, recover
from anemoi_ckpt_migrate.commands.project import Project, StrPath, opened
from anemoi_ckpt_migrate.commands.writing import Options, Progress, checked_output, naming
from anemoi_ckpt_migrate.errors import (
    DamagedRecord,
    MigrationFailed,
    NewerRecord,
    UntrustedCode,
)
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.planner import Plan, Step
from anemoi_ckpt_migrate.record import Applied, LogEntry, Record
from anemoi_ckpt_migrate.scripts import loader
from anemoi_ckpt_migrate.scripts.functions import Function, load_module, load_source
from anemoi_ckpt_migrate.scripts.sources import signature_of, source_of

_MOST_KEPT = 100
_DAMAGED = Record()  # stands for a record that cannot be read


@dataclass(frozen=True)
class Result:
    """What was done to a checkpoint, or with `dry_run` would be.

    Attributes
    ----------
    checkpoint : str
        The file.
    start, end : tuple of str
        Its heads before and after.
    steps : tuple of Step
        What was run, in order.
    written, backup : str or None
        The new file, and where the old one is kept.
    dry_run : bool
        Whether nothing was written because nothing was to be.
    warnings : tuple of str
        What the user should know.
    recorded : bool
        Whether the record changes, though the heads may not: a stamp notes what the scripts say by now.
    restored : bool
        Whether the way back was to the very bytes of before, still in the file, and no rollback was run.
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

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "from": list(self.start),
            "to": list(self.end),
            "steps": [{"revision": s.revision, "name": s.name, "direction": s.direction} for s in self.steps],
            "written": self.written,
            "backup": self.backup,
            "dry_run": self.dry_run,
        }


def upgrade(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Bring a checkpoint up to a target.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        ``head``, ``heads``, ``barrier``, ``+N``, ``REV+N``, ``LABEL@TARGET``, a specifier of the tracked package, a
        full or partial revision id, a label or a name.
    project : Project or path, optional
        Whose scripts; by default those of the current folder's project.
    output : path, optional
        Write there, and leave the checkpoint as it is.
    backup : bool
        Keep the old file beside the new one.
    in_place : bool
        Write what is new at the end of the file and move nothing, however large it is. The old file is in the new one,
        for `downgrade` to go back to, and there is no backup. What is no longer used stays until `compact`.
    verify : bool
        Check the CRC of all that the file holds before anything is done.
    dry_run : bool
        Only plan.
    progress : callable, optional
        Told how many bytes were copied, from time to time.

    Returns
    -------
    Result
        Without steps if the target was reached already.

    Raises
    ------
    MigrateError
        Nothing was changed; the kind of error says why.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with _reading(checkpoint, found, options) as (file, tree, record):
        graph = _seen_from(found.graph, record, [wanted])
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        warnings = loader.changed_since(graph, record)
        if dry_run or not plan.steps:
            return _unchanged(file, plan, options, warnings)
        revisions = [graph[step.revision] for step in plan.steps]
        actions = [_action(revision, "migrate") for revision in revisions]
        applied = [_applied(revision, _carried_module(revision)) for revision in revisions]
        after = record.logged(_entry("upgrade", target, plan), (*record.lineage, *applied))
        return _write(file, tree, plan, actions, after, options, warnings)


def downgrade(
    checkpoint: StrPath,
    target: str,
    *,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    trust_checkpoint_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Take a checkpoint back down to a target.

    Parameters
    ----------
    target : str
        ``base``, ``barrier``, ``-N`` (the last N applied), ``REV-N``, ``LABEL@TARGET``, a specifier of the tracked
        package, a full or partial revision id, a label or a name.
    trust_checkpoint_code : bool
        Run the rollbacks that the checkpoint carries, for revisions that no script here knows.

    The others are those of `upgrade`, as are the result and the errors.
    """
    found, wanted = opened(project), targets.parse(target)
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with _reading(checkpoint, found, options) as (file, tree, record):
        graph, kept = _seen_from(found.graph, record), _kept(file, record)
        plan = planner.plan_downgrade(graph, record, wanted, found.config.package, [then for then, _ in kept])
        undone = {step.revision for step in plan.steps}
        left = tuple(entry for entry in record.lineage if entry.revision not in undone)
        earlier = next((before for then, before in kept if then == left), None)
        foreign = [step.revision for step in plan.steps if step.carried]
        if foreign and not trust_checkpoint_code and earlier is None:
            raise UntrustedCode(foreign, os.fspath(checkpoint))
        warnings = loader.changed_since(graph, record)
        if dry_run or not plan.steps:
            return _unchanged(file, plan, options, warnings)
        if earlier is not None:
            return replace(_result(file, plan, options, warnings, _back(file, earlier, options)), restored=True)
        entries = {entry.revision: entry for entry in record.lineage}
        actions = [_rollback(graph, entries[step.revision], step) for step in plan.steps]
        after = record.logged(_entry("downgrade", target, plan), left)
        return _write(file, tree, plan, actions, after, options, warnings)


def stamp(
    checkpoint: StrPath,
    target: str | Sequence[str],
    *,
    purge: bool = False,
    project: Project | StrPath | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Say what a checkpoint is, without running anything.

    Parameters
    ----------
    target : str or sequence of str
        ``head``, ``heads``, ``base`` or revisions; several are separated by commas. What the checkpoint has on branches
        that have nothing to do with them stays.
    purge : bool
        Forget first what the checkpoint remembers, whatever it is.

    The others are those of `upgrade`, as are the result and the errors. A damaged record is replaced.
    """
    found = opened(project)
    wanted = [one for text in ([target] if isinstance(target, str) else target) for one in targets.parse_several(text)]
    options = Options(checked_output(output), backup, in_place, verify, dry_run, progress)
    with _reading(checkpoint, found, options, stamping=True, purge=purge) as (file, tree, record):
        graph = _seen_from(found.graph, Record() if purge else record, wanted)
        revisions = planner.plan_stamp(graph, record, wanted, found.config.package, purge)
        heads = graph.tips(revision.id for revision in revisions)
        plan = Plan(record.heads, heads, ())
        lineage = _stamped(graph, record, revisions, wanted, found.config.package, purge)
        same = record.heads == heads and [e.signature for e in record.lineage] == [e.signature for e in lineage]
        recorded = not same or record is _DAMAGED
        if dry_run or not recorded:
            return replace(_unchanged(file, plan, options, ()), recorded=recorded)
        told = target if isinstance(target, str) else ",".join(target)
        after = record.logged(_entry("stamp", told, plan), lineage)
        return _write(file, tree, plan, [], after, options, ())


def _seen_from(graph: Graph, record: Record, wanted: Sequence[targets.Target] = ()) -> Graph:
    """Return the graph as it is for a checkpoint that is to go somewhere.

    What is squashed counts as one, unless the checkpoint has a part of it, or is to have one.
    """
    applied = [entry.revision for entry in record.lineage]
    parts = [place for target in wanted for place in _inside(graph, target)]
    whole = {part.id for rev in applied if rev in graph for part in graph[rev].replaces}
    return graph.seen_from([*applied, *(part for part in parts if part not in whole)])


def _inside(graph: Graph, target: targets.Target) -> Sequence[str]:
    """Return what a target may mean that other scripts stand for."""
    if isinstance(target, targets.Released):
        return list(graph.replaced)
    place = target.target if isinstance(target, targets.OnBranch) else target
    start = place.start if isinstance(place, targets.Beyond) else place
    return [start.text] if isinstance(start, targets.Id) else []


def _stamped(
    graph: Graph,
    record: Record,
    revisions: Sequence[Revision],
    wanted: Sequence[targets.Target],
    package: str | None,
    purge: bool,
) -> tuple[Applied, ...]:
    """Describe what a stamped checkpoint has: what was told as the scripts have it, all else as it was recorded."""
    told = {rev for target in wanted for rev in resolving.state(graph, target, package)}
    before = {} if purge else {entry.revision: entry for entry in record.lineage if entry.revision not in told}
    return tuple(before.get(revision.id) or _applied(revision, None) for revision in revisions)


@contextmanager
def _reading(
    path: StrPath, project: Project, options: Options, stamping: bool = False, purge: bool = False
) -> Iterator[tuple[Checkpoint, Any, Record]]:
    """Open a checkpoint, its tree and its record; whatever goes wrong says which checkpoint it is about."""
    with naming(path):
        if options.output is None and not options.dry_run:
            recover(Path(path))
        with open_checkpoint(path, project.config.trusted) as file:
            if options.verify:
                file.verify(options.progress)
            tree = file.load()
            try:
                record = recorder.take(tree, file.attachment(recorder.ATTACHMENT))
            except (DamagedRecord, NewerRecord) as error:
                if not (purge or (stamping and isinstance(error, DamagedRecord))):
                    raise
                record = _DAMAGED
            yield file, tree, record


def _kept(file: Checkpoint, record: Record) -> list[tuple[tuple[Applied, ...], Checkpoint]]:
    """Find what the file was before it was written in place, oldest first, with the lineage of then.

    Only as far back as it was moved up and down since, and nothing else: what was stamped cannot be undone.
    """
    found: list[tuple[tuple[Applied, ...], Checkpoint]] = []
    earlier = file.earlier()
    for _ in range(_MOST_KEPT):
        if earlier is None:
            break
        before = recorder.take(earlier.load(), earlier.attachment(recorder.ATTACHMENT))
        since = record.log[len(before.log) :]
        earlier.release()
        if record.log[: len(before.log)] != before.log or any(entry.command == "stamp" for entry in since):
            break
        if before.lineage != record.lineage:
            found.insert(0, (before.lineage, earlier))
        earlier = earlier.earlier()
    return found


def _back(file: Checkpoint, earlier: Checkpoint, options: Options) -> Written:
    """Give the file the bytes that it had."""
    if options.in_place:
        return file.cut(earlier)
    return earlier.copy(options.output, options.backup, options.progress)


def _unchanged(file: Checkpoint, plan: Plan, options: Options, warnings: tuple[str, ...]) -> Result:
    written = None
    if options.output is not None and not options.dry_run:
        written = file.copy(options.output, progress=options.progress)
    return _result(file, plan, options, warnings, written)


def _write(
    file: Checkpoint,
    tree: Any,
    plan: Plan,
    actions: list[executor.Action],
    after: Record,
    options: Options,
    warnings: tuple[str, ...],
) -> Result:
    if options.output is None:
        file.check_writable(options.in_place)  # before the functions run, which may take long
    pickled, attachments = executor.run(file, tree, actions, after)
    if options.in_place:
        written = file.write_in_place(pickled, attachments)
    else:
        written = file.write(pickled, attachments, options.output, options.backup, options.progress)
    return replace(_result(file, plan, options, warnings, written), recorded=True)


def _result(
    file: Checkpoint, plan: Plan, options: Options, warnings: tuple[str, ...], written: Written | None
) -> Result:
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


def _action(revision: Revision, name: str) -> executor.Action:
    def load() -> Function:
        function: Function = getattr(load_module(revision), name, None)  # type: ignore[assignment]
        if not callable(function):
            raise MigrationFailed(revision.path, None, f"`{name}` is not a function")
        return function

    return executor.Action(load, name, revision.path)


def _rollback(graph: Graph, entry: Applied, step: Step) -> executor.Action:
    if not step.carried:
        return _action(graph[step.revision], "rollback")
    return executor.Action(lambda: rollbacks.carried(entry), "rollback", rollbacks.shown_carried(entry.revision))


def _carried_module(revision: Revision) -> Any:
    """Run a script under the name that it has in a checkpoint: where it lies here is nobody's business there."""
    try:
        return load_source(source_of(revision), revision.id, rollbacks.shown_carried(revision.id))
    except MigrationFailed as error:
        raise MigrationFailed(revision.path, error.line, error.what) from error.__cause__


def _applied(revision: Revision, module: Any) -> Applied:
    """Describe a revision for the record; with the module of its script, the rollback goes by value too."""
    undo = None
    if revision.reversible:
        undo = rollbacks.carry(source_of(revision), module)
    return Applied(
        revision.id,
        revision.parents,
        revision.depends_on,
        revision.name,
        signature_of(revision),
        dict(revision.versions),
        revision.final,
        undo,
    )


def _entry(command: str, target: str, plan: Plan) -> LogEntry:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    steps = tuple(step.revision for step in plan.steps)
    return LogEntry(now, command, target, plan.start, plan.end, steps, __version__)
