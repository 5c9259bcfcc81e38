"""Write down the history of checkpoints afterwards: revisions and manifests, from an example of each state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.commands.adopt_examples import Example, check_different, read_example
from anemoi_ckpt_migrate.commands.adopt_result import AdoptedHistory, AdoptedState, AdoptedStep
from anemoi_ckpt_migrate.commands.adopt_steps import HistoryWriter
from anemoi_ckpt_migrate.commands.manifest import resolved
from anemoi_ckpt_migrate.errors import NotOnePlace, Refused, UsageError
from anemoi_ckpt_migrate.manifests.drift import gone
from anemoi_ckpt_migrate.manifests.known import known_of
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.runtime import locate_revision
from anemoi_ckpt_migrate.scripts import create
from anemoi_ckpt_migrate.util.text import numbered, plain

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

DEFAULT_MODEL = "model"


def adopt_history(
    examples: Sequence[StrPath],
    *,
    names: Sequence[str] = (),
    rev_ids: Sequence[str] = (),
    model: str | None = None,
    at: str | None = None,
    version_path: StrPath | None = None,
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
    version_path : path, optional
        The folder for new scripts, if the project has several.
    accept_guesses, accept_losses : bool
        Whether operations that are guesses or add zeros, or that lose values, are no doubts.
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
    chosen = _model(found.config, model)
    states = read_examples(examples, names, rev_ids, found)
    writer = HistoryWriter(found, chosen, tuple(states), dry_run, accept_guesses, accept_losses, version_path)
    place: tuple[str, ...] | None = _start(writer, states, at)
    places, steps = [place], list[AdoptedStep]()
    for number, (old, new) in enumerate(pairwise(states)):
        name = names[number] if number < len(names) else default_name(old.path, new.path)
        step = writer.step(old, new, place, name, rev_ids[number] if number < len(rev_ids) else None)
        place = step.revisions[-1:] or None
        if not any(each.doubts for each in steps):  # the state after a script is known only once that is final
            writer.record_state(old, places[-1])
        places.append(place)
        steps.append(step)
    is_final = place is not None and not any(each.doubts for each in steps)
    if is_final:
        writer.record_state(states[-1], place)
    warnings = () if place is None or not is_final else tuple(writer.code_differs(states[-1], place))
    listed = [AdoptedState(each.path, there, len(each.own.items)) for each, there in zip(states, places, strict=True)]
    return AdoptedHistory(chosen, tuple(listed), tuple(steps), os.fspath(found.config.path), warnings)


def read_examples(
    examples: Sequence[StrPath], names: Sequence[str], rev_ids: Sequence[str], project: Project
) -> list[Example]:
    """Read the examples, and check them as far as that needs no comparison of contents.

    Raises
    ------
    UsageError
        There are too few, two are of the same state, or there are more names or ids than steps, or wrong ones.
    MigrateError
        One of them cannot be read.
    """
    _check_number(examples, names, rev_ids)
    for name in names:
        create.check_name(name)
    for rev_id in rev_ids:
        create.check_id(rev_id)
    states = [read_example(path, project) for path in examples]
    check_different(states)
    return states


def default_name(old: str, new: str) -> str:
    """Return a name for a revision, made from the parts in which the paths of two examples differ.

    Examples
    --------
    >>> default_name("runs/2023/last.ckpt", "runs/2024/last.ckpt")
    '2023 to 2024'
    """
    one, other = Path(old).with_suffix("").parts, Path(new).with_suffix("").parts
    while one[:1] == other[:1] and one:
        one, other = one[1:], other[1:]
    while one[-1:] == other[-1:] and one:
        one, other = one[:-1], other[:-1]
    return plain(f"{'/'.join(one)} to {'/'.join(other)}" if one and other else f"{old} to {new}")


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


def _start(writer: HistoryWriter, examples: Sequence[Example], at: str | None) -> tuple[str, ...]:
    """Return the revisions of the first example: one, or none for base."""
    found = _place(writer, examples, at)
    if len(found) > 1:
        way = "join them with `ckpt-migrate merge NAME`, and begin with an example at the merge"
        raise Refused(f"it has several heads ({', '.join(found)}): {way}").about(examples[0].path)
    return found


def _place(writer: HistoryWriter, examples: Sequence[Example], at: str | None) -> tuple[str, ...]:
    project, (example, *later) = writer.given, examples
    if at is not None:
        given = resolved(project, at)
        example.check_record(given)
        return given
    if example.record.lineage or not len(project.graph):
        return example.record.heads
    snapshot = known_of(project.config).models.get(writer.model)
    if snapshot is None or gone(project.graph, snapshot):
        return ()  # as for every checkpoint without a record
    if not snapshot.revisions and any(each.is_like(snapshot.items) for each in later):
        return ()  # the manifest was written before there was a history
    try:
        with example.opened(project) as (file, tree):
            target, _ = locate_revision.place(project, file, tree, example.record)
    except NotOnePlace as error:
        if writer.leads(example, later[0], ()):
            return ()  # the manifest may not lead back there
        way = "the first example has to be at a revision of this project; name that with --at, or begin with another"
        raise Refused(f"{error.sentence}\n    {way}").about(example.path) from error
    return resolved(project, target)
