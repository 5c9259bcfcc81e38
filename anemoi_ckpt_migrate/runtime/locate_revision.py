"""Locate the revision of an unstamped checkpoint: compare its parameters with the models at each revision."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.errors import (
    CannotApply,
    HasRecord,
    NothingInCommon,
    NotOnePlace,
    NoWayBack,
    Refused,
    UsageError,
)
from anemoi_ckpt_migrate.manifests import manifest_file, trace
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import CheckpointParameters, own_of
from anemoi_ckpt_migrate.manifests.known import ModelHistory, known_of, known_of_checkpoint
from anemoi_ckpt_migrate.operations.tree_operation import functions
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.runtime import step_actions
from anemoi_ckpt_migrate.runtime.executor import Action, Executor, Settings
from anemoi_ckpt_migrate.runtime.model_check import misfit_of
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.runtime.record_entries import stamped_entry
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.manifests.compare import StateDictDiff
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.record.record import Record
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage import Checkpoint

_SHOWN = 10


@dataclass(frozen=True)
class RevisionMatch:
    """The comparison of parameters with a model at one place in the history.

    Attributes
    ----------
    model : str
        The name of the model.
    revisions : tuple of str
        The heads at this place; empty for base.
    misfit : StateDictDiff
        The differences.
    """

    model: str
    revisions: tuple[str, ...]
    misfit: StateDictDiff

    @property
    def target(self) -> str:
        """The place, as `stamp` takes it."""
        return ",".join(self.revisions) or manifest_file.BASE


def place(project: Project, file: Checkpoint, tree: Any, record: Record) -> tuple[str, tuple[str, ...]]:
    """Locate the revision of a checkpoint by its parameters; without a manifest, as the scripts recognise it.

    Names and shapes have to match. If several places match, the order, the dtypes and the operations between these
    places decide, where they differ.

    Parameters
    ----------
    project : Project
        The project that holds the models.
    file : Checkpoint
        The open checkpoint.
    tree : object
        Its tree, without a record.
    record : Record
        Its record.

    Returns
    -------
    tuple of str and tuple of str
        A target for `stamp`, and notes for the user.

    Raises
    ------
    NotOnePlace
        It matches no place (the error names the nearest, or is `NothingInCommon`), or several (the error names the
        differences).
    Refused
        It already has a record, or has no parameters.
    UsageError
        There is no manifest, and the scripts do not recognise it.
    MigrationFailed, LedgerConflict, DamagedLedger
        There is no manifest; as for `recognised`.
    """
    if record.lineage:
        raise HasRecord(record.heads)
    known = known_of(project.config)
    if not known.models:
        return _recognised(project, file, tree, record)
    own = own_of(file, tree, project.config.parameters)
    if own is None:
        raise Refused("the parameters of the model cannot be found in it: set `parameters` in the configuration")
    fits = _fits(project, known, own, tree)
    project = replace(project, graph=project.graph.seen_from(rev for fit in fits for rev in fit.revisions))
    right = _narrowed(project, file, [fit for fit in fits if not fit.misfit.count])
    if len(right) == 1:
        return right[0].target, _unsure(project.graph, right[0], fits)
    if right:
        raise NotOnePlace(_several(file, right), [_told_apart(project.graph, fit, right) for fit in right][:_SHOWN])
    raise _none(project.graph, file, fits, own)


def _recognised(project: Project, file: Checkpoint, tree: Any, record: Record) -> tuple[str, tuple[str, ...]]:
    """Locate the revision of a checkpoint as `upgrade` does: there is no manifest."""
    _, found, notes = recognised(project, file, tree, record)
    if notes:
        return ",".join(found.heads) or manifest_file.BASE, notes
    chain = project.config.chain
    if chain:
        raise UsageError(
            f"the chain {chain} has no manifest, and does not recognise it: name its revision, "
            f"`ckpt-migrate --chain {chain} stamp REV {shlex.quote(os.fspath(file.path))}`"
        )
    raise UsageError("there is no manifest to compare with; `ckpt-migrate manifest --update` writes one")


def fits_anywhere(project: Project, file: Checkpoint, tree: Any) -> bool:
    """Return whether the parameters of a checkpoint are those of a model at a known state. No model is built for that.

    Parameters
    ----------
    project, file, tree
        As for `place`.
    """
    known = known_of(project.config)
    own = own_of(file, tree, project.config.parameters) if known.models else None
    if own is None:
        return False
    return any(not fit.misfit.count for fit in _everywhere(project, known, own)) or any(
        not fit.misfit.count for fit in _everywhere(project, known, own, ahead=True)
    )


def _fits(project: Project, known: ModelHistory, own: CheckpointParameters, tree: Any) -> list[RevisionMatch]:
    """Compare with all known places; if nothing matches, compare less strictly."""
    fits = list(_everywhere(project, known, own, tree))
    if all(fit.misfit.count for fit in fits):  # earlier states may be guesses: follow the revisions from here
        fits = list(_everywhere(project, known, own, tree, ahead=True))
    if all(fit.misfit.count for fit in fits):  # sizes may come from hyper-parameters that the code does not take
        fits = list(_everywhere(project, known, own)) or fits
    return fits


def _everywhere(
    project: Project, known: ModelHistory, own: CheckpointParameters, tree: Any = None, ahead: bool = False
) -> Iterator[RevisionMatch]:
    """Compare with all known places; without a tree, models have the sizes from the manifest."""
    for name, snapshot in known.models.items():
        try:
            own_sizes = tree is not None
            snapshots = (
                known_of_checkpoint(known, name, project.config, project.graph, tree) if own_sizes else known.of(name)
            )
        except UsageError:
            continue  # the current code does not take the old hyper-parameters
        shapes = tree is not None or not snapshot.sized
        for state in trace.everywhere(project.graph, snapshots):
            found = misfit_of(own, project.graph, snapshots, state) if ahead else own.misfit(state.items, shapes)
            yield RevisionMatch(name, state.revisions, found)


def _narrowed(project: Project, file: Checkpoint, fits: list[RevisionMatch]) -> list[RevisionMatch]:
    """Drop places that the order, the dtypes, or operations outside the parameters rule out."""
    for narrower in (
        [fit for fit in fits if not fit.misfit.moved],
        [fit for fit in fits if fit.misfit.exact],
    ):
        fits = narrower or fits
    places = {fit.target: fit for fit in fits}  # models that are equal at a place count once
    fits = list(places.values())
    graph = project.graph
    possible = [fit for fit in fits if all(_may_move(project, file, fit, near) for near in _nearest(graph, fit, fits))]
    return possible or fits


def _nearest(graph: Graph, fit: RevisionMatch, fits: Sequence[RevisionMatch]) -> list[RevisionMatch]:
    """Return the nearest candidate places above and below one."""
    there = {other.target: graph.closure(other.revisions) for other in fits}
    own = there[fit.target]
    above = sorted((other for other in fits if own < there[other.target]), key=lambda o: len(there[o.target]))
    below = sorted((other for other in fits if there[other.target] < own), key=lambda o: -len(there[o.target]))
    return [*above[:1], *below[:1]]


def _may_move(project: Project, file: Checkpoint, fit: RevisionMatch, other: RevisionMatch) -> bool:
    """Return whether a checkpoint could move from one place to another, as far as operations before a function show."""
    graph, settings = project.graph, Settings(project.config.parameters)
    here, there = graph.closure(fit.revisions), graph.closure(other.revisions)
    path = [(revision, True) for revision in graph.order(here - there)[::-1]]
    path += [(revision, False) for revision in graph.order(there - here)]
    actions: list[Action] = []
    for revision, back in path:
        action = _action(project, graph[revision], back)
        if action is None or action.runs_code:
            break
        actions.append(action)
    try:
        Executor(file, actions, settings).run(*embed.unrecorded(file))
    except CannotApply:
        return False
    return True


def _action(project: Project, revision: Revision, back: bool) -> Action | None:
    if not back:
        return step_actions.up(revision)
    entry = stamped_entry(revision, project.config.parameters)
    try:
        return None if entry.undo is None else step_actions.down(project.graph, entry)
    except NoWayBack:
        return None


def _unsure(graph: Graph, fit: RevisionMatch, fits: Sequence[RevisionMatch]) -> tuple[str, ...]:
    """Warn if a checkpoint may stand on the other side of adjacent functions, as they may not change parameters."""
    own = set(fit.revisions)
    known = {
        revision for other in fits if other.model == fit.model for revision in other.revisions or [manifest_file.BASE]
    }
    behind = [rev for rev in fit.revisions if not known.issuperset(graph[rev].needs or [manifest_file.BASE])]
    before = [rev.id for rev in graph if own.issuperset(rev.needs) and bool(own) == bool(rev.needs)]
    undecided = [*behind, *(rev for rev in before if rev not in known)]
    functions_of = ", ".join(rev for rev in undecided if _has_functions(graph[rev]))
    way = "check whether the other changes of these are in it, and if not, `stamp REV` it"
    sentence = f"the functions of {functions_of} cannot be followed, so they may or may not have run: {way}"
    return (sentence,) if functions_of else ()


def _has_functions(revision: Revision) -> bool:
    return revision.migrates if revision.operations is None else bool(functions(revision.operations))


def _several(file: Checkpoint, fits: Sequence[RevisionMatch]) -> str:
    shown = shlex.quote(os.fspath(file.path))
    way = f"choose one with `ckpt-migrate stamp REV {shown}`"
    return f"{len(fits)} revisions match its parameters equally well; {way}:"


def _told_apart(graph: Graph, fit: RevisionMatch, fits: Sequence[RevisionMatch]) -> str:
    """Name a place, and the visible effects of the revisions up to it."""
    before = [graph.closure(other.revisions) for other in fits if other is not fit]
    own = graph.closure(fit.revisions)
    lower = max((there for there in before if there < own), key=len, default=None)
    titles = ", ".join(f"{rev} ({graph[rev].name})" for rev in fit.revisions) or manifest_file.BASE
    since = "; ".join(_doing(graph[revision]) for revision in graph.order(own - lower)) if lower is not None else ""
    return f"{titles}, of the model {fit.model}{since and f', after {since}'}"


def _doing(revision: Revision) -> str:
    if not revision.operations:
        return f"the functions of {revision.id}" if revision.migrates and revision.operations is None else revision.id
    return ", ".join(f"op.{operation!r:.80}" for operation in revision.operations)


def _none(graph: Graph, file: Checkpoint, fits: Sequence[RevisionMatch], own: CheckpointParameters) -> NotOnePlace:
    """Return the error for a checkpoint that matches no known place, with ways to proceed."""
    shown, names = shlex.quote(os.fspath(file.path)), {item.name for item in own.items}
    by_hand = f"`ckpt-migrate stamp REV {shown}` records a revision without this comparison"
    nothing = "it has nothing in common with the known models of this project"
    if not fits:
        return NothingInCommon(f"{nothing}; {by_hand}", ())
    nearest = min(fits, key=lambda fit: fit.misfit.count)
    known = {fit.target for fit in fits if fit.model == nearest.model}
    unknown = [place for place in (manifest_file.BASE, *graph.order(rev.id for rev in graph)) if place not in known]
    gap, ways = "", [by_hand]
    if unknown:
        there = unknown[0] if len(unknown) == 1 else "REV"
        adds = f"`ckpt-migrate manifest {shlex.quote(nearest.model)} --update --from {shown} --at {there}`"
        gap = f"; {nearest.model} at {', '.join(together(unknown))} is unknown"
        ways = [f"if it is at that revision, {adds} records its parameters for `stamp auto`"]
    if all(len(fit.misfit.extra) == len(names) for fit in fits):
        return NothingInCommon(f"{nothing}{gap}; {', or '.join(dict.fromkeys([*ways, by_hand]))}", ())
    title = ", ".join(f"{rev} ({graph[rev].name})" for rev in nearest.revisions) or manifest_file.BASE
    near = f"no revision matches; the closest is {nearest.model} at {title}"
    sentences = nearest.misfit.sentences()
    more = [f"and {len(sentences) - _SHOWN} more"] if len(sentences) > _SHOWN else []
    return NotOnePlace(f"{near}{gap}; {ways[0]}; the differences:", [*sentences[:_SHOWN], *more])
