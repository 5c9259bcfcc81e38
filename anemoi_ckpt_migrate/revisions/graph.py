"""The graph of revisions: parents, dependencies, branches. Pure: no files, no torch."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import AmbiguousTarget, UnknownTarget
from anemoi_ckpt_migrate.util.dataclass import dataclass, field, replace
from anemoi_ckpt_migrate.util.text import slug

if TYPE_CHECKING:
    from networkx import DiGraph


@dataclass(frozen=True)
class Revision:
    """One migration script, as far as it is known without running it.

    Attributes
    ----------
    id : str
        Its revision id.
    parents : tuple of str
        Its ``down_revision``; empty at the base, several at a merge.
    name : str
        First line of the docstring.
    depends_on, labels : tuple of str
        Dependencies: revisions to apply first that are not parents; branch labels that the script gives.
    versions : mapping of str to str
        As in `MigrationMetadata`.
    final : bool
        Whether it is a barrier.
    migrates, reversible : bool
        Whether it has a ``migrate``, and a ``rollback``.
    declared : bool
        Whether the script settles if it can be undone: it has a ``rollback``, or states that it has none, or all of its
        operations can be undone.
    signature : str
        For part of a squashed revision: digest of the original script.
    path : str
        The script.
    lines : mapping of str to int
        Line of the script where each of its names is set.
    replaces : tuple of Revision
        The parts of a squashed revision, in order.
    tail : str
        For part of a squashed revision, which has no script of its own: text to append to the script of the squashed
        revision to make it the script of the part.
    operations : tuple of Operation, or None
        The declared operations; None for a script with functions.
    sets_up : bool
        Whether it has a ``migrate_setup``.
    known_as : mapping of str to mapping
        The migrations of another tool that it stands for, by name, in order; with the digests of their scripts.
    """

    id: str
    parents: tuple[str, ...] = ()
    name: str = ""
    depends_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    final: bool = False
    migrates: bool = True
    reversible: bool = False
    declared: bool = False
    signature: str = ""
    path: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    replaces: tuple[Revision, ...] = ()
    tail: str = ""
    operations: tuple[Any, ...] | None = None
    sets_up: bool = False
    known_as: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def undone_by_operations(self) -> bool:
        """Whether its rollback is known only after it was applied: operations create it from the checkpoint itself."""
        return self.operations is not None or self.sets_up

    @property
    def needs(self) -> tuple[str, ...]:
        """All revisions that come right before it: parents and dependencies."""
        if not self.depends_on:
            return self.parents
        return self.parents + tuple(rev for rev in self.depends_on if rev not in self.parents)

    def line(self, name: str) -> int:
        """Return the line where the script sets a name, or 1."""
        return self.lines.get(name, 1)


def digraph_of(revisions: Iterable[Revision]) -> DiGraph[str]:
    """Return revisions as a graph of networkx; see `Graph.digraph`. It may have cycles, and unknown parents as nodes.

    Parameters
    ----------
    revisions : iterable of Revision
        Revisions with distinct ids.
    """
    from networkx import DiGraph  # takes 0.1 s, and few commands need it

    graph: DiGraph[str] = DiGraph()
    for revision in revisions:
        graph.add_node(revision.id, revision=revision)
        graph.add_edges_from(((needed, revision.id) for needed in sorted(revision.depends_on)), kind="dependency")
        graph.add_edges_from(((parent, revision.id) for parent in sorted(revision.parents)), kind="parent")
    return graph


class Graph:
    """The graph of all revisions.

    Parameters
    ----------
    revisions : iterable of Revision
        A set of revisions without faults; see `validate.faults`.
    expanded : collection of str
        Squashed revisions to replace by their parts.
    """

    def __init__(self, revisions: Iterable[Revision] = (), expanded: Iterable[str] = ()) -> None:
        self._scripts = sorted(revisions, key=lambda revision: revision.id)
        self._expanded = frozenset(expanded)
        known = resolved(self._scripts, self._expanded)
        if self._expanded:
            known.sort(key=lambda revision: revision.id)
        self._revisions = {revision.id: revision for revision in known}
        self._last = {script.id: script.replaces[-1].id for script in self._scripts if script.id in self._expanded}

    def __contains__(self, revision: object) -> bool:
        return revision in self._revisions

    def get(self, revision: str) -> Revision | None:
        """Return a revision; None if the id is unknown."""
        return self._revisions.get(revision)

    def __getitem__(self, revision: str) -> Revision:
        return self._revisions[revision]

    def __iter__(self) -> Iterator[Revision]:
        return iter(self._revisions.values())

    def __len__(self) -> int:
        return len(self._revisions)

    @cached_property
    def digraph(self) -> DiGraph[str]:
        """The graph in networkx, for algorithms of your own; it is built on first use.

        A node is the id of a revision, with the `Revision` as its attribute ``revision``. An edge leads from a revision
        to one that needs it; its attribute ``kind`` is ``"parent"`` or ``"dependency"``. Changes to it do not affect
        this graph.

        Examples
        --------
        >>> import networkx
        >>> graph = Graph([Revision("a1"), Revision("b2", ("a1",)), Revision("c3", ("b2",))])
        >>> networkx.shortest_path(graph.digraph, "a1", "c3")
        ['a1', 'b2', 'c3']
        """
        return digraph_of(self)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Revisions without children, sorted."""
        return self.tips(self._revisions)

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """Children of each revision, sorted; heads have no entry."""
        return _inverted(self, lambda revision: revision.parents)

    @cached_property
    def replaced(self) -> Mapping[str, str]:
        """The squashed revision for each of its parts that it replaces."""
        return {part.id: revision.id for revision in self for part in revision.replaces}

    def seen_from(self, applied: Iterable[str]) -> Graph:
        """Return the graph for a checkpoint: a squashed revision is replaced by its parts if the checkpoint has one."""
        squashed = {self.replaced[revision] for revision in applied if revision in self.replaced}
        return Graph(self._scripts, squashed | self._expanded) if squashed else self

    def opened(self) -> Graph:
        """Return the graph with every squashed revision replaced by its parts."""
        return self.seen_from(self.replaced)

    def standing(self, revision: str) -> str:
        """Return the revision that represents another in this graph: the squashed one for a part.

        The last part represents a squashed revision that is expanded.
        """
        return self.replaced.get(revision) or self._last.get(revision, revision)

    def closure(self, revisions: Iterable[str]) -> set[str]:
        """Return the given revisions and everything they need."""
        return _reached(revisions, self._needs)

    def leading_to(self, revisions: Iterable[str]) -> set[str]:
        """Return the given revisions and all their ancestors, without dependencies."""
        return _reached(revisions, self._parents)

    def above(self, revisions: Iterable[str]) -> set[str]:
        """Return the given revisions and everything that rests on them."""
        return _reached(revisions, self._dependents, known=self)

    def order(self, revisions: Iterable[str]) -> list[str]:
        """Sort revisions so that each comes after all its needs; ties are sorted by id."""
        chosen = set(revisions)
        needs = self._needs
        left = {rev: sum(map(chosen.__contains__, needs[rev])) for rev in chosen}
        dependents = self._dependents
        ready = [rev for rev, count in left.items() if not count]
        heapq.heapify(ready)
        found: list[str] = []
        while ready:
            found.append(heapq.heappop(ready))
            for dependent in dependents[found[-1]]:
                if dependent in left:
                    left[dependent] -= 1
                    if not left[dependent]:
                        heapq.heappush(ready, dependent)
        return found

    def tips(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Return the given revisions that are no parent of another given one, sorted: heads, as recorded."""
        chosen = set(revisions)
        parents = {parent for revision in chosen for parent in self._revisions[revision].parents}
        return tuple(sorted(chosen - parents))

    def highest(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Return the given revisions that no other given one needs, as parent or dependency, sorted."""
        chosen = set(revisions)
        return tuple(sorted(chosen.difference(*(self._needs[revision] for revision in chosen))))

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The revision that gives each label."""
        return {label: revision.id for revision in self for label in revision.labels}

    @cached_property
    def known_as(self) -> Mapping[str, str]:
        """The revision that stands for each migration of another tool, by its name there."""
        return {name: revision.id for revision in self for name in revision.known_as}

    def labels_of(self, revision: str) -> tuple[str, ...]:
        """Return the labels of the branches that a revision is on, sorted.

        All followers of a labelled revision inherit its label. So do the revisions before it, down to the fork of its
        branch. You can thus label any revision of a branch.
        """
        return self._named_by(self._marks[revision])

    def own_labels(self, head: str) -> tuple[str, ...]:
        """Return the labels of a head that no other head has, sorted."""
        return self._named_by(self._marks[head] & self._marks_of_one_head)

    @cached_property
    def branch_sizes(self) -> Mapping[str, int]:
        """The number of revisions on each labelled branch, by label, sorted."""
        digits: list[int] = []  # of the sizes in binary: each int has one bit per label
        for marks, count in Counter(self._marks.values()).items():  # few values: only labels and merges make new ones
            for start in _places(count):
                place, carried = start, marks
                while carried:
                    digits += [0] * (place + 1 - len(digits))
                    digits[place], carried = digits[place] ^ carried, digits[place] & carried
                    place += 1
        sizes = dict.fromkeys(sorted(self.labels), 0)
        for place, digit in enumerate(digits):
            for label in self._named_by(digit):
                sizes[label] += 1 << place
        return sizes

    def branch(self, name: str) -> set[str]:
        """Return the revisions of a branch: the named revision, its followers, and its ancestors down to the fork.

        Parameters
        ----------
        name : str
            A label of the branch, or one of its revisions.

        Raises
        ------
        UnknownTarget, AmbiguousTarget
            There is no such branch.
        """
        return self.followers(name) | self._trunk(self.find(name))

    def line(self, name: str) -> set[str]:
        """Return the revisions that ``NAME@`` chooses from: the named revision, its followers and all its ancestors.

        These are the branch and the path to it from the base. Dependencies are excluded. Parameters and errors are
        those of `branch`.
        """
        return self.followers(name) | self.leading_to([self.find(name)])

    def followers(self, name: str) -> set[str]:
        """Return the named revision and all its followers. Parameters and errors are those of `branch`."""
        return _reached([self.find(name)], self.children, known=self)

    def find(self, text: str, more: Iterable[str] = (), preferred: Collection[str] = ()) -> str:
        """Return the one revision that a text means.

        The first match counts: an id; a label; the name of another tool's migration; the start of an id; the name of a
        revision, ignoring case and punctuation. The id of a part means the squashed revision; if that one is expanded,
        its id means the last part.

        Parameters
        ----------
        text : str
            A full or partial id, a label or a name.
        more : iterable of str
            More ids to search.
        preferred : collection of str
            If several match, only these count.

        Raises
        ------
        UnknownTarget, AmbiguousTarget
            Nothing matches; several revisions match.
        """
        ids = {*self._revisions, *more}
        if text in ids:
            return text
        if text in self.labels:
            return self.labels[text]
        if text in self.known_as:
            return self.known_as[text]
        if self.standing(text) in ids:
            return self.standing(text)
        fitting = [revision for revision in sorted(ids) if revision.startswith(text)] or self._named(text)
        if len(fitting) > 1:
            fitting = [revision for revision in fitting if revision in preferred] or fitting
        if len(fitting) > 1:
            raise AmbiguousTarget(text, [self._titled(revision) for revision in fitting])
        if not fitting:
            raise self._unknown(text, ids)
        return fitting[0]

    @cached_property
    def _needs(self) -> Mapping[str, tuple[str, ...]]:
        return {revision.id: revision.needs for revision in self}

    @cached_property
    def _dependents(self) -> Mapping[str, Sequence[str]]:
        return _inverted(self, lambda revision: revision.needs)

    @cached_property
    def _parents(self) -> Mapping[str, tuple[str, ...]]:
        return {revision.id: revision.parents for revision in self}

    @cached_property
    def _bits(self) -> Mapping[str, int]:
        """One bit per label: sets would take quadratic space on a line with many labels."""
        return {label: 1 << place for place, label in enumerate(self.labels)}

    @cached_property
    def _label_at(self) -> Sequence[str]:
        """The label of each bit."""
        return tuple(self.labels)

    @cached_property
    def _marks(self) -> Mapping[str, int]:
        """The labels of the branches that each revision is on, as bits."""
        order = self.order(self._revisions) if self.labels else ()
        marks = dict.fromkeys(self._revisions, 0)
        given = {rev: sum(self._bits[label] for label in self[rev].labels) for rev in order}
        for rev in order:
            marks[rev] = given[rev]
            for parent in self[rev].parents:
                marks[rev] |= marks[parent]
        for rev in reversed(order):
            before = self._before(rev)
            if before is not None:
                given[before] |= given[rev]
                marks[before] |= given[rev]
        return marks

    @cached_property
    def _marks_of_one_head(self) -> int:
        """The labels that exactly one head has, as bits."""
        once = several = 0
        for head in self.heads:
            several |= once & self._marks[head]
            once |= self._marks[head]
        return once & ~several

    def _named_by(self, marks: int) -> tuple[str, ...]:
        return tuple(sorted(map(self._label_at.__getitem__, _places(marks))))

    def _before(self, revision: str) -> str | None:
        """Return the previous revision on the same branch: the only parent, unless that is a fork or a merge."""
        parents = self[revision].parents
        if len(parents) == 1 and len(self.children[parents[0]]) == 1 and len(self[parents[0]].parents) < 2:
            return parents[0]
        return None

    def _trunk(self, revision: str) -> set[str]:
        """Return all previous revisions on the same branch."""
        found, before = set(), self._before(revision)
        while before is not None:
            found.add(before)
            before = self._before(before)
        return found

    def _named(self, text: str) -> list[str]:
        wanted = slug(text)
        return [revision.id for revision in self if wanted and slug(revision.name) == wanted]

    def _unknown(self, text: str, ids: Iterable[str]) -> UnknownTarget:
        import difflib

        known = [*ids, *self.labels, "head", "heads", "base", "barrier"]
        names = {slug(revision.name): revision.name for revision in self}
        near = difflib.get_close_matches(text, known, n=2)
        near += [names[found] for found in difflib.get_close_matches(slug(text), names, n=2, cutoff=0.7)]
        return UnknownTarget(text, near)

    def _titled(self, revision: str) -> str:
        name = self[revision].name if revision in self else ""
        return f"{revision} ({name})" if name else revision


def resolved(scripts: Iterable[Revision], expanded: Iterable[str] = ()) -> list[Revision]:
    """Return revisions whose parents and dependencies are ids of the graph.

    A script may depend on a label. It may also follow a revision that has been squashed since, or a squashed revision
    that is expanded here.

    Parameters
    ----------
    scripts : iterable of Revision
        The revisions as read.
    expanded : iterable of str
        Squashed revisions to replace by their parts.
    """
    chosen, known = set(expanded), []
    meant: dict[str, str] = {}
    for script in scripts:
        if script.id in chosen:
            parts = _opened(script)
            known += parts
            meant[script.id] = parts[-1].id
            meant |= {label: part.id for part in parts for label in part.labels}
        else:
            known.append(script)
            meant |= dict.fromkeys(script.labels, script.id)
            meant |= {part.id: script.id for part in script.replaces}
    if not meant:
        return known
    return [_renamed(revision, meant) for revision in known]


def _opened(squashed: Revision) -> list[Revision]:
    """Return the parts of a squashed revision, with its parents and its labels."""
    inside = {part.id for part in squashed.replaces}
    parts = list(squashed.replaces)
    if set(squashed.parents) != {parent for part in parts for parent in part.parents} - inside:  # it was rebased since
        for place, part in enumerate(parts):
            if not part.parents or not inside.issuperset(part.parents):
                own = tuple(parent for parent in part.parents if parent in inside)
                parts[place] = replace(part, parents=own + squashed.parents)
    given = tuple(label for label in squashed.labels if not any(label in part.labels for part in parts))
    return [replace(parts[0], labels=parts[0].labels + given), *parts[1:]]


def _renamed(revision: Revision, meant: Mapping[str, str]) -> Revision:
    if not any(needed in meant for needed in revision.needs):
        return revision
    parents, depends_on = (
        tuple(dict.fromkeys(meant.get(needed, needed) for needed in needs))
        for needs in (revision.parents, revision.depends_on)
    )
    return replace(revision, parents=parents, depends_on=depends_on)


def _places(bits: int) -> Iterator[int]:
    """Yield the places of the bits that are set. Searching the digits as text skips many zeros at once."""
    digits = f"{bits:b}"
    at = digits.find("1") if bits else -1
    while at >= 0:
        yield len(digits) - 1 - at
        at = digits.find("1", at + 1)


def _inverted(revisions: Iterable[Revision], above: Callable[[Revision], Iterable[str]]) -> Mapping[str, Sequence[str]]:
    """Return the revisions that name each revision in `above`, in the order of `revisions`."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for revision in revisions:
        for needed in above(revision):
            found[needed].append(revision.id)
    return found


def _reached(start: Iterable[str], edges: Mapping[str, Iterable[str]], known: Graph | None = None) -> set[str]:
    inside = edges if known is None else known
    found: set[str] = set()
    waiting = [revision for revision in start if revision in inside]
    while waiting:
        revision = waiting.pop()
        if revision not in found:
            found.add(revision)
            waiting += edges[revision]
    return found
