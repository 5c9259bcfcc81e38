"""The revisions and how they follow each other. Pure: no files, no torch.

networkx is imported where the graph is walked; to know the heads it is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import AmbiguousTarget, Fault, UnknownTarget

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Revision:
    """One migration script, as far as it is known without running it.

    Attributes
    ----------
    id : str
        Its revision id.
    parents : tuple of str
        What ``down_revision`` names; empty at the base, several at a merge.
    name : str
        First line of the docstring.
    depends_on, labels : tuple of str
        Revisions that must be applied first without being parents; names of the branch.
    versions : mapping of str to str
        As in `MigrationMetadata`.
    final : bool
        Whether it is a barrier.
    migrates, reversible : bool
        Whether it has a ``migrate``, and a ``rollback``.
    signature : str
        Digest of what the script does.
    path : str
        The script.
    lines : mapping of str to int
        Where in the script each of its names is set.
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
    signature: str = ""
    path: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """Everything that comes before it: parents and dependencies."""
        return self.parents + self.depends_on

    def line(self, name: str) -> int:
        """Return the line where the script sets a name, 1 where it does not."""
        return self.lines.get(name, 1)


class Graph:
    """The graph of all revisions.

    Parameters
    ----------
    revisions : iterable of Revision
        A set of revisions without faults; see `faults`.
    """

    def __init__(self, revisions: Iterable[Revision] = ()) -> None:
        self._revisions = {revision.id: revision for revision in sorted(revisions, key=lambda revision: revision.id)}

    def __contains__(self, revision: object) -> bool:
        return revision in self._revisions

    def __getitem__(self, revision: str) -> Revision:
        return self._revisions[revision]

    def __iter__(self) -> Iterator[Revision]:
        return iter(self._revisions.values())

    def __len__(self) -> int:
        return len(self._revisions)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Revisions without children, sorted."""
        return heads(self)

    def closure(self, revisions: Iterable[str]) -> set[str]:
        """Return the given revisions and everything that comes before them."""
        found: set[str] = set()
        waiting = [revision for revision in revisions if revision in self]
        while waiting:
            revision = waiting.pop()
            if revision not in found:
                found.add(revision)
                waiting += self[revision].needs
        return found

    def order(self, revisions: Iterable[str]) -> list[str]:
        """Sort revisions so that each comes after all that it needs; by id where that leaves a choice."""
        import networkx as nx

        chosen = self._digraph.subgraph(set(revisions))
        return list(nx.lexicographical_topological_sort(chosen))

    def tips(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Return those of the given revisions that are parent of none of them, sorted."""
        chosen = set(revisions)
        return heads(self[revision] for revision in chosen)

    def find(self, text: str, more: Iterable[str] = ()) -> str:
        """Return the id of the one revision whose id is, or starts with, a text.

        Parameters
        ----------
        text : str
            A full or partial id.
        more : iterable of str
            Ids to be looked at beside those of the graph.

        Raises
        ------
        UnknownTarget, AmbiguousTarget
            None fits; several fit.
        """
        ids = sorted({*self._revisions, *more})
        if text in ids:
            return text
        fitting = [revision for revision in ids if revision.startswith(text)]
        if len(fitting) > 1:
            raise AmbiguousTarget(text, [self._titled(revision) for revision in fitting])
        if not fitting:
            import difflib

            raise UnknownTarget(text, difflib.get_close_matches(text, [*ids, "head", "heads", "base", "barrier"], n=2))
        return fitting[0]

    @cached_property
    def _digraph(self) -> nx.DiGraph[str]:
        return digraph(self)

    def _titled(self, revision: str) -> str:
        name = self[revision].name if revision in self else ""
        return f"{revision} ({name})" if name else revision


def heads(revisions: Iterable[Revision]) -> tuple[str, ...]:
    """Return the revisions that are parent of no other one, sorted."""
    known = list(revisions)
    parents = {parent for revision in known for parent in revision.parents}
    return tuple(sorted({revision.id for revision in known} - parents))


def digraph(revisions: Iterable[Revision]) -> nx.DiGraph[str]:
    """Return the revisions as a networkx graph, with an edge from each to whatever needs it."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    for revision in revisions:
        graph.add_node(revision.id)
        graph.add_edges_from((parent, revision.id) for parent in revision.needs)
    return graph


def faults(revisions: Iterable[Revision], excused: Callable[[str], bool] = lambda rev: False) -> list[Fault]:
    """Return everything that keeps revisions from being a graph: duplicate ids, unknown parents, cycles.

    Parameters
    ----------
    revisions : iterable of Revision
        All that could be read.
    excused : callable, optional
        Tells of an unknown id whether it may belong to a script that could not be read.
    """
    known = list(revisions)
    found: list[Fault] = []
    first: dict[str, Revision] = {}
    for revision in known:
        if revision.id in first:
            other = first[revision.id].path
            message = f"revision {revision.id} has the id of {other}; give one of them another"
            found.append(Fault(revision.path, revision.line("revision"), message))
        first.setdefault(revision.id, revision)
    for revision in known:
        for word, needed in (("down_revision", revision.parents), ("depends_on", revision.depends_on)):
            for parent in needed:
                if parent not in first and not excused(parent):
                    found.append(
                        Fault(revision.path, revision.line(word), f"{word} names {parent}, which no script has")
                    )
    return found + _cycles(first)


def _cycles(revisions: Mapping[str, Revision]) -> list[Fault]:
    # Peel off whatever has nothing before it; on a graph without cycles nothing is left, and networkx not needed.
    import graphlib

    sorter = graphlib.TopologicalSorter({revision.id: revision.needs for revision in revisions.values()})
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return _name_cycles(revisions)
    return []


def _name_cycles(revisions: Mapping[str, Revision]) -> list[Fault]:
    import networkx as nx

    graph = digraph(revisions.values())
    found = []
    for members in nx.strongly_connected_components(graph):
        if len(members) > 1 or graph.has_edge(*2 * tuple(members)):
            names = sorted(members)
            first = revisions[names[0]]
            files = ", ".join(revisions[name].path for name in names[1:])
            message = f"revision {' and '.join(names)} come before themselves: a cycle"
            found.append(Fault(first.path, first.line("down_revision"), message + (f" with {files}" if files else "")))
    return found
