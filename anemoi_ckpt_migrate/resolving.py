"""What a target means on a graph: the revisions that a checkpoint at this target has. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from anemoi_ckpt_migrate import releases, targets
from anemoi_ckpt_migrate.errors import NoRelease, NotOnBranch, NotThatMany, SeveralHeads, UsageError
from anemoi_ckpt_migrate.graph import Graph


def state(graph: Graph, target: targets.Target, package: str | None = None) -> set[str]:
    """Return the revisions that a checkpoint has which is at a target: the target, and all that comes before it.

    Parameters
    ----------
    graph : Graph
        All revisions.
    target : targets.Target
        Any that does not depend on a checkpoint: not ``barrier``, ``current``, ``+N``, ``-N``.
    package : str, optional
        The tracked package, to which a specifier has to refer.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NotThatMany, NoRelease, UsageError
        The target means nothing, or several things.
    """
    if isinstance(target, targets.Released):
        return had_by(graph, target, package)
    if isinstance(target, targets.OnBranch):
        return _on_branch(graph, target)
    return _placed(graph, target, graph.heads)


def resolve(graph: Graph, target: targets.Target, package: str | None = None) -> tuple[str, ...]:
    """Return the revisions that a target stands for, without those that come before them.

    Parameters and errors are those of `state`.
    """
    place = target.target if isinstance(target, targets.OnBranch) else target
    found = state(graph, target, package)  # which also checks the target
    if isinstance(place, targets.Id):
        return (graph.find(place.text),)
    if place in (targets.Named("head"), targets.Named("heads")):
        return heads_of_branch(graph, target.branch) if isinstance(target, targets.OnBranch) else graph.heads
    return graph.tips(found)


def one(graph: Graph, target: targets.Target, package: str | None = None) -> str:
    """Return the one revision that a target stands for.

    Parameters and errors are those of `state`; a `UsageError` if it stands for none or several.
    """
    found = resolve(graph, target, package)
    if len(found) != 1:
        several = f"several revisions: {', '.join(found)}" if found else "no revision"
        raise UsageError(f"the target stands for {several}; name one")
    return found[0]


def head(graph: Graph, heads: Sequence[str], branch: str = "", steps: int = 0) -> tuple[str, ...]:
    """Return the one head there is, if any.

    Parameters
    ----------
    graph : Graph
        All revisions.
    heads : sequence of str
        Those that are meant.
    branch : str
        The branch whose they are, if they are not all there are.
    steps : int
        How many steps towards it, or before it, were asked for.

    Raises
    ------
    SeveralHeads
        There are several; the error says what to write instead.
    """
    if len(heads) > 1:
        instead = [name_of_head(graph, found, steps) for found in heads]
        everything = None if steps else f"{branch}@heads" if branch else "heads"
        raise SeveralHeads(heads, instead, everything)
    return tuple(heads)


def name_of_head(graph: Graph, revision: str, steps: int = 0) -> str:
    """Return how a user may name a head: by a label that no other head has, else by its id.

    Parameters
    ----------
    graph : Graph
        All revisions.
    revision : str
        The head.
    steps : int
        Name so many steps towards it (positive), or what is so many before it (negative), instead.
    """
    others = [other for other in graph.heads if other != revision]
    if not others and steps <= 0:
        return f"head{steps:+}" if steps else "head"
    own = [label for label in graph.labels_of(revision) if not graph.branches[label].intersection(others)]
    if steps > 0:
        return f"{own[0] if own else revision}@{steps:+}"
    before = f"{steps:+}" if steps else ""
    return f"{own[0]}@head{before}" if own else f"{revision}{before}"


def heads_of_branch(graph: Graph, branch: str) -> tuple[str, ...]:
    """Return the heads of a branch.

    Raises
    ------
    UnknownTarget, AmbiguousTarget
        There is no such branch.
    """
    members = graph.branch(branch)
    return tuple(revision for revision in graph.heads if revision in members)


def had_by(graph: Graph, target: targets.Released, package: str | None) -> set[str]:
    """Return the revisions that the newest release that fits a specifier had.

    A revision without a noted version is among them if one is that needs it; one whose version fits is not if it
    needs one whose version does not.

    Raises
    ------
    UsageError
        The specifier is not about the tracked package, or there is none.
    NoRelease
        No revision notes a version of the package.
    """
    if package is None:
        raise UsageError(
            f"{target.package}{target.specifier} is about a package, but none is tracked here; "
            "set `package` in the configuration"
        )
    if not releases.same_package(package, target.package):
        raise UsageError(f"{target.package} is not the tracked package, that is {package}")
    noted = {revision.id: _noted(revision.versions, package) for revision in graph}
    if not any(noted.values()):
        raise NoRelease(package)
    fits = _remembering(releases.had(target.package, target.specifier))
    late = graph.above(rev for rev, version in noted.items() if version and not fits(version))
    return graph.closure(rev for rev, version in noted.items() if version and rev not in late)


def _noted(versions: Mapping[str, str], package: str) -> str | None:
    if package in versions:
        return versions[package]
    return next((version for name, version in versions.items() if releases.same_package(name, package)), None)


def _remembering(fits: Callable[[str], bool]) -> Callable[[str], bool]:
    """Ask only once about each version: thousands of revisions note a few."""
    answers: dict[str, bool] = {}

    def asked(version: str) -> bool:
        if version not in answers:
            answers[version] = fits(version)
        return answers[version]

    return asked


def _on_branch(graph: Graph, target: targets.OnBranch) -> set[str]:
    members, place = graph.branch(target.branch), target.target
    if isinstance(place, targets.Relative):
        raise UsageError(f"{target.branch}@{place.steps:+} depends on where a checkpoint is")
    _check_on_branch(graph, target.branch, members, place)
    first = [rev for rev in members if members.isdisjoint(graph[rev].parents)]
    base = graph.closure(needed for rev in first for needed in graph[rev].needs) - graph.above(members)
    return _placed(graph, place, heads_of_branch(graph, target.branch), base, target.branch)


def _check_on_branch(graph: Graph, branch: str, members: Collection[str], place: targets.Target) -> None:
    start = place.start if isinstance(place, targets.Beyond) else place
    if isinstance(start, targets.Id):
        revision = graph.find(start.text)
        if revision not in members:
            raise NotOnBranch(revision, branch)


def _placed(
    graph: Graph, place: targets.Target, heads: Sequence[str], base: Collection[str] = frozenset(), branch: str = ""
) -> set[str]:
    """Return what a checkpoint has that is at a place, where these are the heads, and that is the base."""
    if isinstance(place, targets.Id):
        return graph.closure([graph.find(place.text)])
    if isinstance(place, targets.Beyond):
        return _beyond(graph, place, heads, base, branch)
    if place == targets.Named("head"):
        return graph.closure(head(graph, heads, branch))
    if place == targets.Named("heads"):
        return graph.closure(heads)
    if place == targets.Named("base"):
        return set(base)
    raise UsageError("this target depends on where a checkpoint is")


def _beyond(graph: Graph, place: targets.Beyond, heads: Sequence[str], base: Collection[str], branch: str) -> set[str]:
    """Count steps from a place, in the order in which they would run."""
    if place.start == targets.Named("head") and place.steps < 0:
        start = graph.closure(head(graph, heads, branch, place.steps))
    else:
        start = _placed(graph, place.start, heads, base, branch)
    if place.steps < 0:
        order = graph.order(start)
        if -place.steps > len(order):
            raise NotThatMany(shown(place, branch), len(order))
        return set(order[: place.steps])
    ahead = [found for found in heads if start <= graph.closure([found])]
    steps = graph.order(graph.closure(head(graph, ahead, branch)) - start)
    if place.steps > len(steps):
        raise NotThatMany(shown(place, branch), len(steps))
    return start.union(steps[: place.steps])


def shown(place: targets.Beyond, branch: str = "") -> str:
    """Spell a place as the user wrote it."""
    start = place.start.text if isinstance(place.start, targets.Id) else place.start.word
    return f"{branch}{'@' * bool(branch)}{start}{place.steps:+}"


def split_by(graph: Graph, target: targets.Released, package: str | None) -> list[str]:
    """Return the squashed revisions of which a release had a part only.

    Parameters and errors are those of `had_by`.
    """
    had = had_by(graph.opened(), target, package)
    parts = {revision.id: {part.id for part in revision.replaces} for revision in graph if revision.replaces}
    return [rev for rev, ids in parts.items() if ids & had and ids - had]


def between(graph: Graph, start: Iterable[str] | None, end: set[str] | None) -> list[str]:
    """Return the revisions from some up to others, in order; both ends are among them.

    Parameters
    ----------
    graph : Graph
        All revisions.
    start : iterable of str or None
        Where to begin: all that rests on one of these; None for the beginning.
    end : set of str or None
        What a checkpoint has that is at the end; None for everything.
    """
    wanted = {revision.id for revision in graph} if end is None else end
    return graph.order(wanted if start is None else wanted & graph.above(start))
