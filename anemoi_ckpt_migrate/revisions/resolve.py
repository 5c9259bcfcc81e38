"""Find the revisions that a target means on a graph. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.errors import NoRelease, NotOnBranch, NotThatMany, SeveralHeads, UsageError
from anemoi_ckpt_migrate.revisions import releases, targets
from anemoi_ckpt_migrate.revisions.graph import Graph


def state(graph: Graph, target: targets.Target, package: str | None = None) -> set[str]:
    """Return the revisions of a checkpoint at a target: the target and everything before it.

    Parameters
    ----------
    graph : Graph
        All revisions.
    target : targets.Target
        Any target that does not depend on a checkpoint: not ``barrier``, ``current``, ``+N``, ``-N``.
    package : str, optional
        The tracked package, which a specifier has to name.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NotThatMany, NoRelease, UsageError
        The target means nothing, or several revisions.
    """
    if isinstance(target, targets.Released):
        return had_by(graph, target, package)
    if isinstance(target, targets.OnBranch):
        return _on_branch(graph, target)
    return _placed(graph, target, graph.heads)


def resolve(graph: Graph, target: targets.Target, package: str | None = None) -> tuple[str, ...]:
    """Return the revisions that a target names, without those before them.

    Parameters and errors are those of `state`.
    """
    place = target.target if isinstance(target, targets.OnBranch) else target
    found = state(graph, target, package)  # which also checks the target
    if isinstance(place, targets.Id):
        return (found_on(graph, place.text, target.branch if isinstance(target, targets.OnBranch) else ""),)
    if place in (targets.Named("head"), targets.Named("heads")):
        return heads_of_branch(graph, target.branch) if isinstance(target, targets.OnBranch) else graph.heads
    return graph.tips(found) if isinstance(target, targets.Released) else graph.highest(found)


def one(graph: Graph, target: targets.Target, package: str | None = None) -> str:
    """Return the one revision that a target names.

    Parameters and errors are those of `state`; also a `UsageError` if it names none or several.
    """
    try:
        found = resolve(graph, target, package)
    except SeveralHeads as error:
        raise SeveralHeads(error.heads, error.names, None, error.joined) from None
    if len(found) != 1:
        several = f"several revisions: {', '.join(found)}" if found else "no revision"
        raise UsageError(f"the target means {several}; name exactly one")
    return found[0]


def found_on(graph: Graph, text: str, branch: str = "", more: Iterable[str] = ()) -> str:
    """Return the one revision that a text names, on the line of a branch if one is given.

    Parameters
    ----------
    graph : Graph
        All revisions.
    text : str
        A full or partial id, a label or a name.
    branch : str
        A label or a revision; empty for none.
    more : iterable of str
        More ids to search.

    Raises
    ------
    UnknownTarget, AmbiguousTarget, NotOnBranch
        Nothing matches; several revisions match; the match is not on the branch.
    """
    if not branch:
        return graph.find(text, more)
    line = graph.line(branch)
    found = graph.find(text, more, preferred=line)
    if found not in line:
        raise NotOnBranch(found, branch)
    return found


def head(graph: Graph, heads: Sequence[str], branch: str = "", place: str = "") -> tuple[str, ...]:
    """Return the only head; empty if there is none.

    Parameters
    ----------
    graph : Graph
        All revisions.
    heads : sequence of str
        The candidates.
    branch : str
        The branch of the heads, if they are not all heads of the graph.
    place : str
        A place relative to the head, as the user wrote it: ``head-2``, ``+3`` or ``REV+3``; empty for the head.

    Raises
    ------
    SeveralHeads
        There are several heads; the error lists alternatives to write.
    """
    if len(heads) > 1:
        instead = [name_of_head(graph, found, place) for found in heads]
        everything = None if place else f"{branch}@heads" if branch else "heads"
        raise SeveralHeads(heads, instead, everything, joined_by(graph, heads))
    return tuple(heads)


def joined_by(graph: Graph, heads: Sequence[str]) -> str:
    """Return the arguments with which `merge` joins the given heads and no others."""
    return "" if len(heads) == len(graph.heads) else f"{' '.join(heads)} "


def name_of_head(graph: Graph, revision: str, place: str = "") -> str:
    """Return how a user can name a head: by a label that no other head has, else by its id.

    Parameters
    ----------
    graph : Graph
        All revisions.
    revision : str
        The head.
    place : str
        Name this place relative to the head instead: as for `head`.
    """
    if len(graph.heads) == 1 and not place:
        return "head"
    own = graph.own_labels(revision)[:1]
    if place:
        return f"{own[0] if own else revision}@{place}"
    return f"{own[0]}@head" if own else revision


def heads_of_branch(graph: Graph, branch: str) -> tuple[str, ...]:
    """Return the heads of a branch.

    Raises
    ------
    UnknownTarget, AmbiguousTarget
        There is no such branch.
    """
    followers = graph.followers(branch)
    return tuple(revision for revision in graph.heads if revision in followers)


def had_by(graph: Graph, target: targets.Released, package: str | None) -> set[str]:
    """Return the revisions in the newest release that fits a specifier.

    A revision without a noted version is included if an included revision needs it. A revision with a fitting version
    is excluded if it needs one whose version does not fit.

    Raises
    ------
    UsageError
        The specifier names another package, or no package is tracked.
    NoRelease
        No revision notes a version of the package.
    """
    if package is None:
        raise UsageError(
            f"{target.package}{target.specifier} names a package, but this project tracks none; "
            "set `package` in the configuration"
        )
    if not releases.same_package(package, target.package):
        raise UsageError(f"this project tracks {package}, not {target.package}")
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
    """Cache the answer for each version: thousands of revisions note only a few versions."""
    answers: dict[str, bool] = {}

    def asked(version: str) -> bool:
        if version not in answers:
            answers[version] = fits(version)
        return answers[version]

    return asked


def _on_branch(graph: Graph, target: targets.OnBranch) -> set[str]:
    branch, place = target.branch, target.target
    if isinstance(place, targets.Relative):
        raise UsageError(f"{branch}@{place.steps:+} counts from the revision of a checkpoint; use a revision here")
    return _placed(graph, place, heads_of_branch(graph, branch), branch)


def _placed(graph: Graph, place: targets.Target, heads: Sequence[str], branch: str = "") -> set[str]:
    """Return the revisions of a checkpoint at a place, on a branch if one is given; `heads` are its heads."""
    if isinstance(place, targets.Id):
        return graph.closure([found_on(graph, place.text, branch)])
    if isinstance(place, targets.Beyond):
        return _beyond(graph, place, heads, branch)
    if place == targets.Named("head"):
        return graph.closure(head(graph, heads, branch))
    if place == targets.Named("heads"):
        return graph.closure(heads)
    if place == targets.Named("base"):
        return set()
    raise UsageError("this target depends on the revision of a checkpoint; use a revision here")


def _beyond(graph: Graph, place: targets.Beyond, heads: Sequence[str], branch: str) -> set[str]:
    """Count steps from a place, in the order of an upgrade; on a branch, only along its line."""
    counted = graph.line(branch) if branch else graph
    if place.steps < 0:
        if place.start == targets.Named("head"):
            start = graph.closure(head(graph, heads, branch, shown(place)))
        else:
            start = _placed(graph, place.start, heads, branch)
        below = [rev for rev in graph.order(start) if rev in counted]
        if -place.steps > len(below):
            raise NotThatMany(shown(place, branch), len(below))
        return start - graph.above(below[place.steps :])
    start = _placed(graph, place.start, heads, branch)
    over = graph.highest(start)
    ahead = [found for found in heads if graph.closure([found]).issuperset(over)]
    steps = [rev for rev in shared_steps(graph, start, ahead) if rev in counted]
    if place.steps > len(steps):
        head(graph, ahead, branch, shown(place))
        raise NotThatMany(shown(place, branch), len(steps))
    return start | graph.closure(steps[: place.steps])


def shared_steps(graph: Graph, applied: set[str], heads: Sequence[str]) -> list[str]:
    """Return the steps that all given heads share, in order; all steps, if there is one head.

    The list ends at the fork: before the first step that leads to one head and does not rest on all shared steps.

    Parameters
    ----------
    graph : Graph
        All revisions.
    applied : set of str
        Revisions that are already applied, with all their needs.
    heads : sequence of str
        The candidates.
    """
    if not heads:
        return []
    shared = set.intersection(*(graph.closure([head]) for head in heads))
    apart = graph.leading_to(heads) - shared - applied
    first = [rev for rev in apart if apart.isdisjoint(graph[rev].parents)]
    return graph.order(shared.intersection(*(graph.closure([rev]) for rev in first)) - applied)


def shown(place: targets.Beyond, branch: str = "") -> str:
    """Format a place as the user wrote it."""
    start = place.start.text if isinstance(place.start, targets.Id) else place.start.word
    return f"{branch}{'@' * bool(branch)}{start}{place.steps:+}"


def split_by(graph: Graph, target: targets.Released, package: str | None) -> list[str]:
    """Return the squashed revisions of which a release had only some parts.

    Parameters and errors are those of `had_by`.
    """
    had = had_by(graph.opened(), target, package)
    parts = {revision.id: {part.id for part in revision.replaces} for revision in graph if revision.replaces}
    return [rev for rev, ids in parts.items() if ids & had and ids - had]


def between(graph: Graph, start: Iterable[str], end: set[str] | None, line: Collection[str] | None = None) -> list[str]:
    """Return the revisions from some up to others, in order, both ends included.

    Parameters
    ----------
    graph : Graph
        All revisions.
    start : iterable of str
        The lower end: everything that rests on one of these, except revisions below another one; empty for the base.
    end : set of str or None
        The revisions of a checkpoint at the upper end; None for everything.
    line : collection of str, optional
        The revisions to choose from, if the range begins on a branch.
    """
    wanted = {revision.id for revision in graph} if end is None else end
    begin = set(start)
    if begin:
        wanted = (wanted & graph.above(begin)) - (graph.closure(begin) - begin)
    return graph.order(wanted if line is None else wanted.intersection(line))


def line_of(graph: Graph, target: targets.Target | None) -> set[str] | None:
    """Return the revisions that a target chooses from: those of `Graph.line` for a branch; None for all.

    Raises
    ------
    UnknownTarget, AmbiguousTarget
        There is no such branch.
    """
    return graph.line(target.branch) if isinstance(target, targets.OnBranch) else None
