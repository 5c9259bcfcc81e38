"""The session of a command that writes a checkpoint: open it, try a plan in memory, prove the result, write it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.errors import (
    CannotApply,
    DamagedRecord,
    MigrateError,
    NewerRecord,
    NotApplied,
    NotThatMany,
    RecogniseFailed,
    Refused,
    Unrelated,
)
from anemoi_ckpt_migrate.manifests import manifest_file
from anemoi_ckpt_migrate.other_tools.find import find_tool
from anemoi_ckpt_migrate.other_tools.read_list import listed
from anemoi_ckpt_migrate.record import embed, record_copy
from anemoi_ckpt_migrate.record.record import Applied, LogEntry, MigrationsList, Record, Stash
from anemoi_ckpt_migrate.revisions.expand_squashed import expand_squashed_for
from anemoi_ckpt_migrate.runtime import locate_revision, record_entries, step_actions, trust, verify_rollback
from anemoi_ckpt_migrate.runtime.added_names import NameCheck, NewName
from anemoi_ckpt_migrate.runtime.executor import Action, Executor, Outcome, Settings
from anemoi_ckpt_migrate.runtime.model_check import ModelCheck
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.runtime.result import Result
from anemoi_ckpt_migrate.runtime.update_list import keeping
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, open_to_write
from anemoi_ckpt_migrate.scripts.discover import changed_since
from anemoi_ckpt_migrate.state.find_parameters import find_main, find_optimizers, is_pickled
from anemoi_ckpt_migrate.storage.backup_facts import facts_before
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.revisions.planner import Plan
    from anemoi_ckpt_migrate.revisions.targets import Target
    from anemoi_ckpt_migrate.runtime.output_options import OutputProof
    from anemoi_ckpt_migrate.storage import Checkpoint, Pickled, Written
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


class Run(NamedTuple):
    """A plan, with all that is needed to run it.

    Attributes
    ----------
    graph : Graph
        The revisions, as seen from the checkpoint.
    plan : Plan
        The plan.
    undone : tuple of Applied
        The revisions to undo, in order.
    kept : tuple of Applied
        The other revisions of the checkpoint.
    applied : tuple of Revision
        The revisions to apply after that, in order.
    actions : tuple of Action
        The action of each step.
    settings : Settings
        Settings for operations.
    model : ModelCheck
        The comparison with the expected model.
    names : NameCheck
        The check of the names that are added to the pickle.
    warnings : tuple of str
        Notes for the user.
    """

    graph: Graph
    plan: Plan
    undone: tuple[Applied, ...]
    kept: tuple[Applied, ...]
    applied: tuple[Revision, ...]
    actions: tuple[Action, ...]
    settings: Settings
    model: ModelCheck
    names: NameCheck
    warnings: tuple[str, ...]


class _Moved(NamedTuple):
    """The result of a plan: the content to write, notes for the user, names added to the pickle, and the outputs."""

    content: tuple[Pickled, dict[str, bytes | None]]
    notes: tuple[str, ...]
    names: tuple[NewName, ...]
    outputs: OutputProof | None


@dataclass(frozen=True)
class MigrationSession:
    """An open checkpoint that a command moves or stamps.

    Attributes
    ----------
    checkpoint : path
        The file, as the user named it.
    project : Project
        The project with the scripts.
    options : WriteOptions
        The options of the command.
    file : Checkpoint
        The open file.
    tree : object
        Its tree, without the record.
    record : Record
        Its record, or the one that was derived.
    notes : tuple of str
        How the record was derived, for the user.
    damaged : bool
        Whether the record of the file could not be read, and `record` is empty in its place.
    failure : RecogniseFailed or None
        The error of the project's `recognise`, with `WriteOptions.known_only`.
    """

    checkpoint: StrPath
    project: Project
    options: WriteOptions
    file: Checkpoint
    tree: Any
    record: Record
    notes: tuple[str, ...] = ()
    damaged: bool = False
    failure: RecogniseFailed | None = None

    def graph(self, wanted: Sequence[Target] = ()) -> Graph:
        """Return the revisions, as seen from the checkpoint that is to move to some targets."""
        return expand_squashed_for(self.project.graph, self.record, wanted, self.project.config.package)

    def run(self, command: str, target: str, graph: Graph, plan: Plan) -> Result:
        """Try a plan in memory, prove the result, and write it.

        Parameters
        ----------
        command, target : str
            The command and its target, for the log.
        graph : Graph
            The revisions, as seen from the checkpoint.
        plan : Plan
            Revisions to undo, then revisions to apply.

        Raises
        ------
        MigrateError
            Nothing was changed; the class of the error tells the reason.
        """
        run = self._prepared(graph, plan)
        tried = self.check_known(run.actions, run.settings) if self.options.known_only else None
        if plan.steps:
            run.model.before(self.tree, self.record)
        is_compared = self.options.outputs is not None and bool(plan.steps)
        notes, names = self._try_operations(run) if self.options.dry_run and not is_compared else ((), ())
        tree = self._proven(run) if self.options.check_rollback and plan.steps else self.tree
        if self.options.dry_run and is_compared:
            moved = self._moved(run, tree, command, target)
            found = self.unchanged(run.plan, (*run.warnings, *moved.notes), moved.names)
            return replace(found, outputs=moved.outputs)
        if self.options.dry_run or not plan.steps:
            outputs = self._compared(plan) if not plan.steps else None
            return replace(self.unchanged(run.plan, (*run.warnings, *notes), names), outputs=outputs)
        return self._write(run, tree, command, target, None if self.options.check_rollback else tried)

    def restore(self, graph: Graph, plan: Plan, earlier: Checkpoint) -> Result:
        """Restore an earlier state of the file, whose bytes it still has; run nothing.

        Parameters
        ----------
        graph, plan
            As for `run`.
        earlier : Checkpoint
            The state.
        """
        names = self._name_check(graph, plan).added(earlier.names)
        warnings = (*self.notes, *changed_since(graph, self.record))
        if self.options.dry_run:
            return self.unchanged(plan, warnings, names)
        if self.options.in_place:
            written = self.file.cut(earlier)
        else:
            written = earlier.copy(self.options.output, self.options.backup, self.options.progress)
        return replace(self._result(plan, warnings, written), restored=True, names=names)

    def write_record(self, plan: Plan, record: Record, stash: Stash) -> Result:
        """Write another record into the checkpoint; run nothing.

        Parameters
        ----------
        plan : Plan
            The heads before and after.
        record : Record
            The record.
        stash : dict of str to list
            The stash to store in it.
        """
        self._check_writable()
        executor = Executor(self.file, settings=Settings(optimizers=self.record.optimizers))
        outcome = executor.run(self.tree, _copied(stash))
        return self._save(plan, executor.content(outcome, _with_outcome(record, outcome)), self.notes)

    def planned(self, make: Callable[[], Plan]) -> Plan:
        """Return a plan. With `WriteOptions.known_only`, a checkpoint of another project needs none.

        Parameters
        ----------
        make : callable
            Makes the plan.

        Raises
        ------
        Unrelated
            There is none, and nothing ties the checkpoint to the project.
        MigrateError
            There is none.
        """
        try:
            return make()
        except (Refused, NotApplied, NotThatMany):
            if self.options.known_only:
                self.check_known()
            raise

    def check_known(self, actions: Sequence[Action] = (), settings: Settings | None = None) -> Outcome | None:
        """Refuse a checkpoint without a record that nothing ties to the project. No code of a script runs.

        A record ties it, or a list of another tool, or a manifest with its parameters at any revision, or the
        operations of the plan up to the first function. They have to fit its parameters, and must not fit if those have
        other names, as `op.Add` does. Operations on the tree, such as `op.SetItem`, and a merge tell nothing.

        Parameters
        ----------
        actions : sequence of Action
            The plan.
        settings : Settings, optional
            Settings for its operations.

        Returns
        -------
        Outcome or None
            The outcome of the whole plan, on a tree of its own, if it had to run and runs no functions.

        Raises
        ------
        Unrelated
            Nothing ties it.
        RecogniseFailed
            The project's `recognise` failed on it, although something else ties it.
        """
        if self._is_recorded:
            return None
        self.check_parameters()
        why, outcome = ("", None) if self._is_listed() else self._why_unknown(actions, settings or Settings())
        if why and self.failure is not None:
            why = f"{self.failure.where}: {self.failure.what}"
        if why:
            raise Unrelated(f"it has no record, and {why}")
        if self.failure is not None:
            raise self.failure
        return outcome

    def check_parameters(self) -> None:
        """Refuse a checkpoint without a record and without parameters.

        Raises
        ------
        Unrelated
            It has neither.
        """
        if not self._is_recorded and isinstance(find_main(self.tree, self.project.config.parameters), str):
            raise Unrelated("it has no record, and no parameters that can be found")

    @property
    def _is_recorded(self) -> bool:
        """Whether the checkpoint has a record, even a damaged one."""
        return bool(self.record.lineage or self.record.log or self.damaged)

    def _why_unknown(self, actions: Sequence[Action], settings: Settings) -> tuple[str, Outcome | None]:
        """Return why neither a manifest nor operations tie the checkpoint to the project; empty if they do.

        With it, return the outcome of the operations if there are no other actions.
        """
        if locate_revision.fits_anywhere(self.project, self.file, self.tree):
            return "", None
        first = next((at for at, action in enumerate(actions) if action.runs_code), len(actions))
        executor = Executor(self.file, actions[:first], settings)
        telling = any(action.is_about_parameters for action in actions[:first])
        fit_others = telling and self._fit_other_names(executor)  # first: an outcome is of the tree that was made last
        try:
            outcome = executor.run(embed.unrecorded(self.file)[0], _copied(self.record.stash))
        except CannotApply as error:
            return f"operations do not fit it ({error.faults[0]})", None
        if not telling or fit_others:
            return "neither operations nor a manifest tell if it is of this project", None
        return "", None if outcome.content or first < len(actions) else outcome

    def _is_listed(self) -> bool:
        """Return whether the checkpoint has a list of the tool whose migrations the scripts are, even an empty one."""
        graph, config = self.project.graph, self.project.config
        return bool(graph.known_as) and listed(find_tool(config.other_tool), self.tree) is not None

    def _fit_other_names(self, executor: Executor) -> bool:
        """Return whether operations fit the checkpoint even if its parameters have other names."""
        tree, _ = embed.unrecorded(self.file)
        main = find_main(tree, self.project.config.parameters)
        if isinstance(main, str) or is_pickled(main):
            return False
        values = list(main.content.values())
        main.content.clear()
        for number, value in enumerate(values):
            main.content[f"_{number}"] = value
        try:
            executor.run(tree, {}, all_faults=False)
        except CannotApply:
            return False
        return True

    def unchanged(self, plan: Plan, warnings: tuple[str, ...], names: tuple[NewName, ...] = ()) -> Result:
        """Return the result if there is nothing to do or to write; write a copy if one was asked for."""
        written = None
        if self.options.output is not None and not self.options.dry_run:
            written = self.file.copy(self.options.output, progress=self.options.progress)
        return replace(self._result(plan, warnings, written), names=names)

    def _prepared(self, graph: Graph, plan: Plan) -> Run:
        """Return a plan with its actions and checks."""
        config, trusted = self.project.config, self.options.trust_checkpoint_code
        entries = {entry.revision: entry for entry in self.record.lineage}
        undone = tuple(entries[step.revision] for step in plan.steps if step.direction == "downgrade")
        applied = tuple(graph[step.revision] for step in plan.steps if step.direction == "upgrade")
        trust.check_own_code(graph, undone, self.checkpoint, trusted)
        plan = replace(plan, steps=trust.marked(graph, plan.steps, entries))
        warnings = (*self.notes, *changed_since(graph, self.record))
        down = [step_actions.down(graph, entry, trusted) for entry in undone]
        up = [step_actions.up(revision) for revision in applied]
        gone = {entry.revision for entry in undone}
        kept = tuple(entry for entry in self.record.lineage if entry.revision not in gone)
        parameters = step_actions.parameters_of(undone, config.parameters)
        options = self.options
        settings = Settings(
            parameters, options.discard_changes, self.record.optimizers, options.copy_shared, self._model_order(graph)
        )
        actions = (*down, *up)
        runs_code = any(action.runs_code for action in actions)
        model = ModelCheck(self.project, graph, plan.end, self.file, self.options.check_model, self.record, runs_code)
        names = self._name_check(graph, plan)
        return Run(graph, plan, undone, kept, applied, actions, settings, model, names, warnings)

    def _model_order(self, graph: Graph) -> tuple[str, ...]:
        """Return the order of the model's parameters, where an optimizer needs it and the files do not keep it."""
        if self.file.keeps_order or not find_optimizers(self.tree):
            return ()
        from anemoi_ckpt_migrate.runtime.model_order import known_order

        return known_order(self.file, self.tree, self.project.config, graph, self.record.heads)

    def _name_check(self, graph: Graph, plan: Plan) -> NameCheck:
        trusted, allowed = self.project.config.trusted, self.options.trust_checkpoint_code
        return NameCheck(self.file, trusted, allowed, lambda: step_actions.class_names(graph, plan.steps))

    def _try_operations(self, run: Run) -> tuple[tuple[str, ...], tuple[NewName, ...]]:
        """Apply operations, up to the first function, to names, shapes and dtypes only.

        Returns
        -------
        tuple of tuple of str and tuple of NewName
            Notes for the user, and the names that are added to the pickle.
        """
        first = next((at for at, action in enumerate(run.actions) if action.runs_code), len(run.actions))
        if not first:
            return (), ()
        executor = Executor(self.file, run.actions[:first], run.settings)
        outcome = executor.run(self.tree, _copied(self.record.stash))
        notes = run.model.result(outcome) if first == len(run.actions) else []
        pickled, _ = executor.content(outcome, replace(self.record, stash=outcome.stash))
        return tuple(notes), run.names.added(dict.fromkeys(pickled.names, False))

    def _proven(self, run: Run) -> Any:
        """Try the rollbacks of a plan, and return the tree, loaded anew."""
        verify_rollback.check_reversible(run.applied)
        verify_rollback.prove(self.file, run.graph, self.record, run.applied, run.settings)
        tree, _ = embed.unrecorded(self.file)
        return tree

    def draft(self, command: str, target: str, graph: Graph, plan: Plan) -> Checkpoint:
        """Run a plan, and return its result as a checkpoint in memory; write nothing. Parameters are those of `run`."""
        run = self._prepared(graph, plan)
        if not plan.steps:
            return self.file
        run.model.before(self.tree, self.record)
        return self.file.draft(*self._moved(run, self.tree, command, target).content)

    def _write(self, run: Run, tree: Any, command: str, target: str, tried: Outcome | None) -> Result:
        """Run a plan unless it was tried before, check the result, and write it."""
        self._check_writable()  # first, because the functions may take long
        moved = self._moved(run, tree, command, target, tried)
        saved = self._save(run.plan, moved.content, (*run.warnings, *moved.notes), moved.names)
        return replace(saved, outputs=moved.outputs)

    def _moved(self, run: Run, tree: Any, command: str, target: str, tried: Outcome | None = None) -> _Moved:
        """Run a plan unless it was tried before, and check the result."""
        entries = record_entries.applied(run.applied)
        actions, migrations_list = self._following_list(run, tree, entries)
        executor = Executor(self.file, actions, run.settings)
        if tried is not None and len(actions) == len(run.actions):  # nothing follows a list
            outcome = tried
        else:
            outcome = executor.run(tree, _copied(self.record.stash))
        log = self.log_entry(command, target, run.plan, self.options.check_rollback)
        lineage = record_entries.with_undo(entries, run.graph, outcome.undone, self.project.config.parameters)
        notes = (*outcome.warnings, *record_entries.notes(run.graph, lineage, outcome), *run.model.result(outcome))
        record = _with_outcome(replace(self.record, migrations_list=migrations_list), outcome)
        content = executor.content(outcome, record.logged(log, (*run.kept, *lineage)))
        names = run.names.added(dict.fromkeys(content[0].names, False))
        outputs = self._compared(run.plan, content)
        if outputs is not None:
            log = replace(log, outputs=outputs.facts)
            content = executor.content(outcome, record.logged(log, (*run.kept, *lineage)))
        return _Moved(content, notes, names, outputs)

    def _compared(
        self, plan: Plan, content: tuple[Pickled, dict[str, bytes | None]] | None = None
    ) -> OutputProof | None:
        """Compare the outputs of the result with those before, if you asked for it and there is something to compare.

        Raises
        ------
        OutputsDiffer
            They differ by more than the tolerance.
        """
        options = self.options.outputs
        if options is None or (content is None and options.expected is None):
            return None
        from anemoi_ckpt_migrate.runtime.outputs import prove

        return prove(options, self.project.config.folder, self.file, content, plan)

    def log_entry(self, command: str, target: str, plan: Plan, proven: bool = False) -> LogEntry:
        """Return the log entry of a command that writes the checkpoint. Parameters are those of the function."""
        options, backup = self.options, None
        if options.backup and options.output is None and not options.in_place and self.file.replaces is not None:
            backup = facts_before(self.file.replaces)
        return record_entries.log_entry(command, target, plan, proven, backup)

    def _following_list(
        self, run: Run, tree: Any, entries: Sequence[Applied]
    ) -> tuple[list[Action], MigrationsList | None]:
        """Let the list of another tool follow each step."""
        undone = [entry.revision for entry in run.undone]
        lineages = [
            *record_entries.shrunk(self.record.lineage, undone),
            *record_entries.grown(run.kept, entries),
        ]
        return keeping(self.file, tree, self.record, run.actions, lineages)

    def _check_writable(self) -> None:
        if self.options.output is None:
            self.file.check_writable(self.options.in_place)

    def _save(
        self,
        plan: Plan,
        content: tuple[Pickled, dict[str, bytes | None]],
        warnings: tuple[str, ...],
        names: tuple[NewName, ...] = (),
    ) -> Result:
        options = self.options
        if options.in_place:
            written = self.file.write_in_place(*content)
        else:
            written = self.file.write(*content, options.output, options.backup, options.progress, options.folder)
        return replace(self._result(plan, warnings, written), recorded=True, names=names)

    def _result(self, plan: Plan, warnings: tuple[str, ...], written: Written | None) -> Result:
        return Result(
            os.fspath(self.file.path),
            plan.start,
            plan.end,
            plan.steps,
            None if written is None else os.fspath(written.path),
            None if written is None or written.backup is None else os.fspath(written.backup),
            self.options.dry_run,
            warnings,
        )


@contextmanager
def open_session(checkpoint: StrPath, project: Project, options: WriteOptions) -> Iterator[MigrationSession]:
    """Open a checkpoint to move it. If it has no record, derive one where the scripts recognise it.

    Parameters
    ----------
    checkpoint : path
        The file. All errors name it.
    project : Project
        The project with the scripts.
    options : WriteOptions
        The options of the command.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, or its record contradicts the scripts.
    """
    with _opened(checkpoint, project, options) as session:
        yield _recognised(session)


@contextmanager
def open_session_to_stamp(
    checkpoint: StrPath, project: Project, options: WriteOptions, purge: bool
) -> Iterator[MigrationSession]:
    """Open a checkpoint to stamp it. A record that cannot be read counts as empty.

    Parameters
    ----------
    checkpoint, project, options
        As for `open_session`.
    purge : bool
        Whether to discard the record, even one of a newer version.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    discarded = (DamagedRecord, NewerRecord) if purge else (DamagedRecord,)
    with _opened(checkpoint, project, options, discarded) as session:
        yield session


@contextmanager
def _opened(
    checkpoint: StrPath, project: Project, options: WriteOptions, discarded: tuple[type[MigrateError], ...] = ()
) -> Iterator[MigrationSession]:
    """Open a checkpoint, and read its tree and its record, which counts as empty after a `discarded` error."""
    with (
        open_to_write(checkpoint, options, project.config.trusted) as file,
        _begun(file, checkpoint, project, options, discarded) as session,
    ):
        yield session


@contextmanager
def session_on(
    file: Checkpoint, checkpoint: StrPath, project: Project, options: WriteOptions
) -> Iterator[MigrationSession]:
    """Begin a session on an open checkpoint, or on a draft of one.

    Parameters
    ----------
    file : Checkpoint
        The checkpoint.
    checkpoint, project, options
        As for `open_session`.

    Raises
    ------
    MigrateError
        As for `open_session`.
    """
    with _begun(file, checkpoint, project, options) as session:
        yield _recognised(session)


@contextmanager
def _begun(
    file: Checkpoint,
    checkpoint: StrPath,
    project: Project,
    options: WriteOptions,
    discarded: tuple[type[MigrateError], ...] = (),
) -> Iterator[MigrationSession]:
    tree, damaged = file.load(), False
    try:
        record = embed.take(tree, file.attachment(embed.ATTACHMENT))
    except discarded:
        record, damaged = Record(), True
    if not damaged:
        record_copy.check(file, record)
    record = record.of_chain(project.config.chain, project.config.other_tool)
    try:
        yield MigrationSession(checkpoint, project, options, file, tree, record, damaged=damaged)
    except CannotApply as error:
        raise CannotApply(error.faults, _hint(checkpoint, project, record)) from error.__cause__


def _recognised(session: MigrationSession) -> MigrationSession:
    """Derive a record if the checkpoint has none and the scripts recognise it.

    With `WriteOptions.known_only`, `recognise` is not asked about a checkpoint without parameters. If it fails on
    another one, `MigrationSession.check_known` decides if that is an error.
    """
    known_only = session.options.known_only
    if known_only:
        session.check_parameters()
    try:
        tree, record, notes = recognised(session.project, session.file, session.tree, session.record)
    except RecogniseFailed as error:
        if not known_only:
            raise
        return replace(session, tree=embed.unrecorded(session.file)[0], failure=error)
    return replace(session, tree=tree, record=record, notes=notes)


def _hint(path: StrPath, project: Project, record: Record) -> str:
    """Return a hint that another chain came last, or that a checkpoint without a record was taken to be at base."""
    last = record.log[-1].end if record.log else ()
    for other in record.others:
        if other.revision in last:
            chain = f"--chain {shlex.quote(other.chain)} " if other.chain else ""
            way = f"`ckpt-migrate {chain}downgrade base {shlex.quote(os.fspath(path))}`"
            own = "" if other.chain or not project.config.chain else ", without --chain"
            return f"another chain changed the checkpoint last; if that is the reason, {way} undoes it first{own}"
    if record.lineage or record.log or project.config.recogniser is not None or project.graph.known_as:
        return ""
    known = (project.config.versions[0] / manifest_file.NAME).exists()
    auto, does = ("auto", "finds") if known else ("REV", "records")
    way = f"`ckpt-migrate stamp {auto} {shlex.quote(os.fspath(path))}` {does} its revision"
    return f"it has no record, so it was taken to be at base: {way}"


def _copied(stash: Stash) -> Stash:
    """Return a copy of a stash that a run may change."""
    return {revision: list(values) for revision, values in stash.items()}


def _with_outcome(record: Record, outcome: Outcome) -> Record:
    """Return a record with what a run stashed and found."""
    return replace(record, stash=outcome.stash, optimizers=outcome.optimizers)
