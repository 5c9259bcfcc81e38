"""Derive the parameters of a model at a revision from known states and declarative operations. Pure: no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.simulate import Model
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.util import gc_pause
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace


@dataclass(frozen=True)
class UnknownState:
    """The reason why the state of a model is unknown.

    Attributes
    ----------
    revision : str
        The revision that cannot be passed; empty if nothing is known at all.
    why : str
        The reason.
    back : bool
        Whether the revision would have to be undone: the model is known after it, but not before.
    fits : bool
        False if operations do not fit the model.
    """

    revision: str
    why: str
    back: bool = False
    fits: bool = True


class _Stopped(Exception):
    """A revision cannot be passed; the caller adds its id to the gap."""

    def __init__(self, why: str, gap: UnknownState | None = None) -> None:
        super().__init__(why)
        self.gap = gap or UnknownState("", why)


class _Unfit(_Stopped):
    """Operations do not fit the model."""


class _Walk:
    """Applies revisions to parameters. From those that it returned last, it goes on without reading them again."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Item, ...], Model] | None = None

    def moved(
        self, graph: Graph, items: tuple[Item, ...], undone: Sequence[str], applied: Sequence[str]
    ) -> tuple[Item, ...]:
        """Return the parameters after some revisions are undone and others applied."""
        steps = [*((graph[revision], True) for revision in undone), *((graph[revision], False) for revision in applied)]
        model: Model | None = None  # most revisions leave parameters alone
        for revision, back in steps:
            try:
                operations = _operations(revision, back)
                if operations and model is None:
                    model, self._last = self._model(items), None
                for operation in operations:
                    if model is not None and not model.apply(operation):
                        # An inverse is only as complete as the operation's description of the earlier state. The model
                        # may still fit.
                        raise (
                            _Stopped("its operations do not describe the whole earlier state")
                            if back
                            else _Unfit(f"its operations do not fit: {model.faults[0]}")
                        )
            except _Stopped as stopped:
                raise _Stopped(
                    str(stopped), UnknownState(revision.id, str(stopped), back, not isinstance(stopped, _Unfit))
                ) from None
        if model is None:
            return items
        found = model.items
        self._last = found, model
        return found

    def _model(self, items: tuple[Item, ...]) -> Model:
        return self._last[1] if self._last is not None and self._last[0] is items else Model(items)


def derived(
    graph: Graph, known: Sequence[Snapshot], revisions: Iterable[str], walk: _Walk | None = None
) -> Snapshot | UnknownState:
    """Return the state of a model at revisions.

    Parameters
    ----------
    graph : Graph
        The revisions.
    known : sequence of Snapshot
        The known states of the model; the nearest is tried first.
    revisions : iterable of str
        The revisions; none for base.

    Returns
    -------
    Snapshot or UnknownState
        The state; or, if it cannot be derived from any known state, the obstacle on the way from the nearest one.
    """
    wanted = tuple(revisions)
    graph = _seen(graph, known, wanted)
    foreign = [revision for revision in _standing(graph, wanted) if revision not in graph]
    if foreign:  # a checkpoint may have revisions without a script
        return UnknownState("", f"no script here has {foreign[0]}")
    there = _all_of(graph, wanted)
    gaps, walk = [], walk or _Walk()
    for have, one in _starts(graph, known, there):
        try:
            items = walk.moved(graph, one.items, graph.order(have - there)[::-1], graph.order(there - have))
        except _Stopped as stopped:
            gaps.append(stopped.gap)
        else:
            return Snapshot(wanted, items, one.sized)
    return gaps[0] if gaps else UnknownState("", "the manifest does not have it")


def ahead(
    graph: Graph, known: Sequence[Snapshot], revisions: Iterable[str], items: Iterable[Item]
) -> tuple[tuple[Item, ...], tuple[Item, ...]] | None:
    """Upgrade parameters and a known state of the model to the revisions of both, and return both results.

    Where an upgrade makes several sizes or names equal, an earlier state can only be guessed. Upgrading both avoids
    this.

    Parameters
    ----------
    revisions : iterable of str
        The revisions of the parameters; none for base.
    items : iterable of Item
        The parameters.

    Returns
    -------
    pair of tuple of Item, or None
        The two results; None if no later state is known, or it cannot be reached.
    """
    wanted = tuple(revisions)
    graph = _seen(graph, known, wanted)
    there = _all_of(graph, wanted)
    for have, one in _starts(graph, known, there):
        try:
            theirs = _Walk().moved(graph, one.items, [], graph.order(there - have))
            if have <= there:
                return None
            return _Walk().moved(graph, tuple(items), [], graph.order(have - there)), theirs
        except _Stopped:
            continue
    return None


def _starts(graph: Graph, known: Iterable[Snapshot], there: Set[str]) -> list[tuple[set[str], Snapshot]]:
    """Return known states with their revisions, the nearest first; starts below come first, as upgrades are exact."""
    found = [(_all_of(graph, one.revisions), one) for one in known if _is_in(graph, one)]
    return sorted(found, key=lambda start: (len(start[0] ^ there), len(start[0] - there)))


@gc_pause.paused()
def everywhere(graph: Graph, known: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the known states of a model at all revisions, the newest first: all heads together first, base last."""
    graph = _seen(graph, known, ())
    told = {names: replace(one, revisions=names) for one in known for names in [_standing(graph, one.revisions)]}
    order = graph.order(revision.id for revision in graph)
    found: dict[str, Snapshot] = {}
    walk = _Walk()
    # One step each: first upgrade from the states before, which is exact; fill gaps by undoing from the states after.
    for revision in order:
        needs = graph[revision].needs
        state: Snapshot | UnknownState | None = told.get((revision,))
        if state is None and len(needs) == 1:
            state = _next(graph, found.get(needs[0]), revision, [], [revision], walk)
        elif state is None:
            bases = [one for one in known if not one.revisions]
            before = [found[need] for need in needs if need in found] if needs else bases
            state = derived(graph, before, [revision], walk)
        if isinstance(state, Snapshot):
            found[revision] = state
    for revision in reversed(order):
        if revision not in found:
            children = [child for child in graph.children[revision] if child in found]
            only = (child for child in children if tuple(graph[child].needs) == (revision,))
            state = next(filter(None, (_next(graph, found[each], revision, [each], [], walk) for each in only)), None)
            if state is None:
                state = derived(graph, [*(found[child] for child in children), *known], [revision], walk)
            if isinstance(state, Snapshot):
                found[revision] = state
    first = [found[revision] for revision in order if not graph[revision].needs and revision in found]
    base = told.get(()) or derived(graph, [*first, *known], (), walk)
    states = [found[revision] for revision in reversed(order) if revision in found]
    several = [derived(graph, [*known, *states], graph.heads)] if len(graph.heads) > 1 else []
    return [state for state in (*several, *states, base) if isinstance(state, Snapshot)]


def _next(
    graph: Graph, one: Snapshot | None, revision: str, undone: Sequence[str], applied: Sequence[str], walk: _Walk
) -> Snapshot | None:
    """Return the state at a revision that is one step from a known state; None if it cannot be derived."""
    try:
        return None if one is None else Snapshot((revision,), walk.moved(graph, one.items, undone, applied), one.sized)
    except _Stopped:
        return None


def _seen(graph: Graph, known: Iterable[Snapshot], wanted: Iterable[str]) -> Graph:
    """Return the graph, with squashed revisions split up where a known or requested revision is a part of one."""
    named = [*wanted, *(revision for one in known for revision in one.revisions)]
    return graph.seen_from(named) if any(revision in graph.replaced for revision in named) else graph


def _is_in(graph: Graph, snapshot: Snapshot) -> bool:
    return all(revision in graph for revision in _standing(graph, snapshot.revisions))


def _standing(graph: Graph, revisions: Iterable[str]) -> tuple[str, ...]:
    """Return revisions by their ids in this graph: a squashed one is its last part where it is split up."""
    return tuple(revision if revision in graph else graph.standing(revision) for revision in revisions)


def _all_of(graph: Graph, revisions: Iterable[str]) -> set[str]:
    return graph.closure(_standing(graph, revisions))


def _operations(revision: Revision, back: bool) -> list[Any]:
    """Return the operations of a revision on parameters, or their inverses."""
    if revision.final:
        raise _Stopped("it is a barrier")
    if revision.operations is None and revision.migrates:
        raise _Stopped("it has functions, and only operations can be followed")
    found = []
    for operation in revision.operations or ():
        if operation.reaches_parameters:
            raise _Stopped(f"it runs `{operation.migrate}`, and only operations can be followed")
        if not operation.on_parameters:
            continue
        inverse = operation.inverse() if back else operation
        if inverse is None:
            raise _Stopped(f"{operation!r:.80} does not describe the earlier state")
        found.append(inverse)
    return found[::-1] if back else found


def is_before(graph: Graph, snapshot: Snapshot, revisions: Iterable[str]) -> bool:
    """Return whether revisions include all revisions of a snapshot."""
    wanted = tuple(revisions)
    graph = _seen(graph, [snapshot], wanted)
    if any(revision not in graph for revision in _standing(graph, (*snapshot.revisions, *wanted))):
        return False
    return _all_of(graph, snapshot.revisions) <= _all_of(graph, wanted)


def same(one: Snapshot, other: Snapshot) -> bool:
    """Return whether two snapshots hold the same parameters, at any revisions."""
    return replace(one, revisions=(), sized=False) == replace(other, revisions=(), sized=False)
