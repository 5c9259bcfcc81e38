"""Write down the history of checkpoints afterwards: revisions and manifests, from an example of each state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.commands import propose_operations
from anemoi_ckpt_migrate.commands.adopt_examples import Example, check_different, read_example
from anemoi_ckpt_migrate.commands.manifest import resolved, update_manifest
from anemoi_ckpt_migrate.commands.revision import revision, unsure
from anemoi_ckpt_migrate.errors import DamagedManifest, NotOnePlace, Refused, UsageError
from anemoi_ckpt_migrate.manifests.compare import misfit
from anemoi_ckpt_migrate.manifests.drift import drift, gone
from anemoi_ckpt_migrate.manifests.known import known_of
from anemoi_ckpt_migrate.manifests.manifest_file import BASE, Snapshot
from anemoi_ckpt_migrate.project.config import Config
from anemoi_ckpt_migrate.project.project import Project, open_project, resolve_project
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.runtime import locate_revision
from anemoi_ckpt_migrate.runtime.verify_rollback import why_skipped
from anemoi_ckpt_migrate.storage.path_arguments import StrPath
from anemoi_ckpt_migrate.util.text import numbered, plain

CREATED, KEPT, PROPOSED = "created", "kept", "proposed"
DEFAULT_MODEL = "model"
_SHOWN = 5


@dataclass(frozen=True)
class AdoptedState:
    """A state of the model.

    Attributes
    ----------
    checkpoint : str
        Its example.
    revisions : tuple of str or None
        The revisions where the model has it; empty for base, None if a dry run did not write them.
    parameters : int
        The number of its parameters.
    """

    checkpoint: str
    revisions: tuple[str, ...] | None
    parameters: int

    @property
    def place(self) -> str:
        """The revisions as text."""
        return "new" if self.revisions is None else ", ".join(self.revisions) or BASE

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        revisions = None if self.revisions is None else list(self.revisions)
        return {"checkpoint": self.checkpoint, "revisions": revisions, "parameters": self.parameters}


@dataclass(frozen=True)
class AdoptedStep:
    """The way from one state to the next.

    Attributes
    ----------
    old, new : str
        The examples of both states.
    name : str
        The name of the revision.
    done : str
        ``created``; ``kept`` if a script did it already; ``proposed`` in a dry run.
    revisions, paths : tuple of str
        The revisions, usually one, and their scripts; empty in a dry run.
    operations : tuple of str
        Their operations, as lines of a script.
    guesses : int
        The number of guesses among these that are not checked yet: their comments are still in the script.
    doubts : tuple of str
        What to do before checkpoints are stamped; empty if nothing.
    warnings : tuple of str
        Other notes for the author.
    """

    old: str
    new: str
    name: str
    done: str
    revisions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    guesses: int = 0
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        data = {name: value for name, value in vars(self).items() if name != "warnings"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


@dataclass(frozen=True)
class AdoptedHistory:
    """The states of a model, and the revisions between them.

    Attributes
    ----------
    model : str
        The name of the model in the manifest.
    states : tuple of AdoptedState
        The states, the oldest first.
    steps : tuple of AdoptedStep
        The steps between them.
    config : str
        The configuration of the project.
    warnings : tuple of str
        Notes about the whole.
    """

    model: str
    states: tuple[AdoptedState, ...]
    steps: tuple[AdoptedStep, ...]
    config: str
    warnings: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """What to do before checkpoints are stamped."""
        return tuple(doubt for step in self.steps for doubt in step.doubts)

    @property
    def written(self) -> bool:
        """Whether all of it is written down."""
        return all(state.revisions is not None for state in self.states)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "model": self.model,
            "config": self.config,
            "states": [state.to_data() for state in self.states],
            "steps": [step.to_data() for step in self.steps],
            "written": self.written,
            "doubts": list(self.doubts),
        }


def adopt_history(
    examples: Sequence[StrPath],
    *,
    names: Sequence[str] = (),
    rev_ids: Sequence[str] = (),
    model: str | None = None,
    at: str | None = None,
    accept_guesses: bool = False,
    accept_losses: bool = False,
    dry_run: bool = False,
    project: Project | StrPath | None = None,
) -> AdoptedHistory:
    """Write a revision for each step between examples, and the manifest of each state. No checkpoint changes.

    A second call finds what the first one wrote: a script counts as the step between two examples if it turns the
    parameters of the one into those of the other. So an interrupted call is completed by the same call.

    Parameters
    ----------
    examples : sequence of path
        A checkpoint of each state, the oldest first.
    names, rev_ids : sequence of str
        The name and the id of the revision of each step; by default made from the examples, and random.
    model : str, optional
        The model; by default the only one of the project.
    at : str, optional
        The revision of the first example; by default that of its record, or the one that the manifest finds, or base.
    accept_guesses, accept_losses : bool
        Whether operations that are guesses, or that lose values, are no doubts.
    dry_run : bool
        Write nothing.
    project : Project or path, optional
        The project; by default that of the current folder.

    Returns
    -------
    AdoptedHistory
        The states and steps. As long as it has `doubts`, no checkpoint should be stamped.

    Raises
    ------
    UsageError
        There are too few examples, two of the same state, or arguments that do not go together.
    Refused
        The first example is at no revision of the project; or a script does not lead from one example to the next, or
        not back.
    MigrateError
        An example or the project cannot be read, or a script cannot be written.
    """
    found = resolve_project(project)
    _check_number(examples, names, rev_ids)
    chosen = _model(found.config, model)
    states = [read_example(path, found) for path in examples]
    check_different(states)
    writer = _Writer(found, chosen, tuple(states), dry_run, accept_guesses, accept_losses)
    place: tuple[str, ...] | None = _start(found, chosen, states[0], at)
    writer.keep_state(states[0], place)
    places, steps = [place], []
    for number, (old, new) in enumerate(pairwise(states)):
        name = names[number] if number < len(names) else default_name(old.path, new.path)
        step = writer.step(old, new, place, name, rev_ids[number] if number < len(rev_ids) else None)
        place = step.revisions[-1:] or None
        writer.keep_state(new, place)
        places.append(place)
        steps.append(step)
    warnings = () if place is None else tuple(writer.code_differs(states[-1], place))
    listed = [AdoptedState(each.path, there, len(each.own.items)) for each, there in zip(states, places, strict=True)]
    return AdoptedHistory(chosen, tuple(listed), tuple(steps), os.fspath(found.config.path), warnings)


def default_name(old: str, new: str) -> str:
    """Return a name for a revision, made from the paths of two examples.

    Examples
    --------
    >>> default_name("2023/last.ckpt", "2024/last.ckpt")
    '2023/last to 2024/last'
    """
    one, other = Path(old), Path(new)
    if one.stem != other.stem:
        return plain(f"{one.stem} to {other.stem}")
    near = [f"{path.parent.name}/{path.stem}" for path in (one, other)]
    if near[0] != near[1]:
        return plain(" to ".join(near))
    return plain(f"{old} to {new}")


def _check_number(examples: Sequence[StrPath], names: Sequence[str], rev_ids: Sequence[str]) -> None:
    """Check that there is something to derive, and not more names than steps."""
    if len(examples) < 2:
        way = "give one checkpoint of each state, the oldest first"
        alone = "`ckpt-migrate manifest MODEL --update --from CKPT --at base` records a single state"
        raise UsageError(f"adopt needs at least two examples: {way}; {alone}")
    steps = len(examples) - 1
    for option, given in (("--name", names), ("--rev-id", rev_ids)):
        if len(given) > steps:
            between = f"{numbered(len(examples), 'example')} have {numbered(steps, 'step')} between them"
            raise UsageError(f"{between}, but {option} is given {len(given)} times")


def _model(config: Config, name: str | None) -> str:
    """Return the model that the examples are of."""
    known = known_of(config).models
    there = sorted({*config.models, *known})
    if name is None and len(there) > 1:
        raise UsageError(f"the project has several models ({', '.join(there)}): name that of the examples with --model")
    if name is not None and config.models and name not in there:
        raise UsageError(f"the project has no model {name!r}, only {', '.join(there)}")
    return name or (there[0] if there else DEFAULT_MODEL)


def _start(project: Project, model: str, example: Example, at: str | None) -> tuple[str, ...]:
    """Return the revisions of the first example: one, or none for base."""
    found = _place(project, model, example, at)
    if len(found) > 1:
        way = "join them with `ckpt-migrate merge NAME`, and begin with an example at the merge"
        raise Refused(f"it has several heads ({', '.join(found)}): {way}").about(example.path)
    return found


def _place(project: Project, model: str, example: Example, at: str | None) -> tuple[str, ...]:
    if at is not None:
        given = resolved(project, at)
        _check_record(example, given)
        return given
    if example.record.lineage or not len(project.graph):
        return example.record.heads
    snapshot = known_of(project.config).models.get(model)
    if snapshot is None or gone(project.graph, snapshot):
        return ()  # as for every checkpoint without a record
    try:
        with example.opened(project) as (file, tree):
            target, _ = locate_revision.place(project, file, tree, example.record)
    except NotOnePlace as error:
        way = "the first example has to be at a revision of this project; name that with --at, or begin with another"
        raise Refused(f"{error.sentence}\n    {way}").about(example.path) from error
    return resolved(project, target)


def _check_record(example: Example, place: tuple[str, ...]) -> None:
    """Refuse an example whose record says something else."""
    heads = example.record.heads
    if example.record.lineage and heads != place:
        raise Refused(
            f"its record has {', '.join(heads)}, but its place here is {', '.join(place) or BASE}; "
            "give another example of that state, or `ckpt-migrate stamp --purge` this one"
        ).about(example.path)


@dataclass(frozen=True)
class _Writer:
    """Writes scripts and manifests, where they are not there already."""

    given: Project
    model: str
    examples: tuple[Example, ...]
    dry_run: bool
    accept_guesses: bool
    accept_losses: bool

    @property
    def project(self) -> Project:
        """The project with all scripts that are there by now."""
        return self.given if self.dry_run else open_project(self.given.config.path)

    def keep_state(self, example: Example, place: tuple[str, ...] | None) -> None:
        """Record the state of an example in the manifest, unless it is known."""
        if place is None:
            return
        _check_record(example, place)
        project = self.project
        known = known_of(project.config)
        there = known.models.get(self.model)
        if there is not None and not gone(project.graph, there):
            state = known.at(self.model, project.graph, place)
            if isinstance(state, Snapshot) and example.is_like(state.items, shapes=not state.sized):
                return
        if not self.dry_run:
            self._check_base(example, place, project.graph, there)
            update_manifest([self.model], checkpoint=example.path, at=",".join(place) or BASE, project=project)

    def _check_base(self, example: Example, place: tuple[str, ...], graph: Graph, there: Snapshot | None) -> None:
        """Refuse to replace a manifest at the same revisions: it may be right, and the example wrong.

        Exception: nothing was migrated yet, and the manifest has the state of another example, usually of the last one.
        """
        if there is None or there.revisions != place:
            return
        begins = not len(graph) and any(each.is_like(there.items) for each in self.examples)
        if not begins:
            wrong = misfit(example.own.items, there.items).sentences()[:_SHOWN]
            way = f"`ckpt-migrate manifest {self.model} --update --from {example.path} --at {','.join(place) or BASE}`"
            raise Refused(
                f"the manifest has another state of {self.model} at {', '.join(place) or BASE} ({', '.join(wrong)}); "
                f"if the example is right, {way} records it"
            ).about(example.path)

    def step(
        self, old: Example, new: Example, place: tuple[str, ...] | None, name: str, rev_id: str | None
    ) -> AdoptedStep:
        """Find or write the step from one example to the next."""
        project = self.project
        path = None if place is None else self._existing(project, old, new, place)
        if path is None and self.dry_run:
            return self._proposed(old, new, name)
        if path is not None:
            return self._checked(project, old, new, path, KEPT)
        head = (place or ("base",))[-1] if len(project.graph) else None
        made = revision(name, rev_id=rev_id, head=head, autogenerate=(old.path, new.path), project=project)
        step = self._checked(self.project, old, new, (made.revision,), CREATED)
        known = unsure(step.guesses, len(step.operations))  # which its doubts say
        return replace(step, warnings=tuple(each for each in made.warnings if each != known))

    def _existing(self, project: Project, old: Example, new: Example, place: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the revisions that lead from one example to the next; None if none follows.

        Raises
        ------
        Refused
            Revisions follow, but none of them leads there.
        """
        graph = project.graph.seen_from(place)
        reasons, failed = [], set[str]()
        for path in _paths(graph, place):
            if failed.isdisjoint(path):
                left, applies = old.differences(project, [graph[each] for each in path], new)
                if not left:
                    return path
                reasons.append((graph[path[-1]], left))
                failed |= set() if applies else {path[-1]}
        if not reasons:
            return None
        first, left = reasons[0]
        where = ", ".join(place) or BASE
        unsure = f"; if {old.path} is not at {where}, name its revision with --at" if not old.record.lineage else ""
        raise Refused(
            f"{first.path} follows {where}, but does not turn {old.path} into {new.path} ({'; '.join(left[:_SHOWN])}): "
            f"correct or remove it, and run the same command again{unsure}"
        )

    def _proposed(self, old: Example, new: Example, name: str) -> AdoptedStep:
        """Return the step that would be written."""
        made = propose_operations.generate(old.path, new.path, self.given)
        lines = tuple(line.removesuffix(",") for line in made.lines if not line.startswith("#"))
        doubts = (f"{name}: {_guesses(made.uncertain)}",) if made.uncertain and not self.accept_guesses else ()
        return AdoptedStep(
            old.path, new.path, name, PROPOSED, (), (), lines, made.uncertain, doubts, warnings=made.warnings
        )

    def _checked(self, project: Project, old: Example, new: Example, path: tuple[str, ...], done: str) -> AdoptedStep:
        """Return a step whose scripts are there, after they led from one example to the next, and back."""
        graph = project.graph.seen_from(path)
        revisions = [graph[each] for each in path]
        left, _ = old.differences(project, revisions, new) if done == CREATED else ((), True)
        if left:
            raise Refused(
                f"{revisions[-1].path} was written, but does not turn {old.path} into {new.path} yet "
                f"({'; '.join(left[:_SHOWN])}): correct it, and run the same command again"
            )
        doubts = list(self._doubts(revisions))
        lossy = [each for each in revisions if _loses(each)]
        if not lossy:
            old.prove_rollback(project, revisions)
        guesses = sum(_guesses_of(each) for each in revisions)
        operations = tuple(f"op.{one!r}" for each in revisions for one in each.operations or ())
        names, scripts = ", ".join(each.name for each in revisions), tuple(each.path for each in revisions)
        return AdoptedStep(old.path, new.path, names, done, path, scripts, operations, guesses, tuple(doubts))

    def _doubts(self, revisions: Sequence[Revision]) -> Iterator[str]:
        for each in revisions:
            guesses = _guesses_of(each)
            if guesses and not self.accept_guesses:
                yield f"{each.path}: {_guesses(guesses)}"
            if _loses(each) and not self.accept_losses:
                keep = "set keep=True, or `rollback = None` below `operations`"
                yield f"{each.path}: it cannot be undone, because it loses values: {keep}, or give --accept-losses"

    def code_differs(self, example: Example, place: tuple[str, ...]) -> Iterator[str]:
        """Compare the last example with the model of the code, and record that if they are the same."""
        project = self.project
        config = project.config
        if self.model not in config.models or self.dry_run:
            return
        try:
            found = drift(config, project.graph, known_of(config), self.model)
        except (UsageError, DamagedManifest) as error:
            yield f"the last example was not compared with the model {self.model} of the code: {error.sentence}"
            return
        if example.is_like(found.built.items, shapes=not found.built.sized):
            if not found.as_expected and found.heads == place:
                update_manifest([self.model], project=project)  # the code also knows which tensors are buffers
            return
        yield (
            f"{example.path}, the last example, differs from the model {self.model} of the code: if the order of the "
            f"examples is right, `ckpt-migrate revision NAME --autogenerate --model {self.model}` writes the last step"
        )


def _paths(graph: Graph, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the ways from a place to the revisions after it, the shortest first, as far as no barrier is crossed."""
    below = graph.closure(place)
    after = graph.above(place) if place else {each.id for each in graph}
    ways = [tuple(graph.order(graph.closure([each]) - below)) for each in graph.order(after - below)]
    for way in sorted(ways, key=len):
        if not any(graph[each].final for each in way):
            yield way


def _guesses_of(revision: Revision) -> int:
    """Return how many operations in a script are marked as guesses."""
    return propose_operations.guesses_in(Path(revision.path).read_text(encoding="utf-8", errors="replace"))


def _guesses(count: int) -> str:
    which = "1 operation is a guess" if count == 1 else f"{count} operations are guesses"
    return f"{which}: correct what is wrong, and remove the comments `check it`, or give --accept-guesses"


def _loses(revision: Revision) -> bool:
    """Return whether a revision cannot be undone, and does not say that this is intended."""
    return not revision.reversible and not why_skipped(revision)
