"""The graph alone: no files, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import AmbiguousTarget, UnknownTarget
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.validate import faults
from tests.support.graphs import closure, histories, tips
from tests.support.work import growth


def graph(**parents: str) -> Graph:
    """Make a graph: ``graph(b="a", d="b c")``."""
    return Graph(Revision(rev, tuple(above.split())) for rev, above in parents.items())


def test_heads_and_order() -> None:
    r"""
    a - b - d - e
     \     /
      - c -        f
    """
    made = graph(a="", b="a", c="a", d="b c", e="d", f="")
    assert made.heads == ("e", "f")
    assert made.order("edcba") == ["a", "b", "c", "d", "e"]
    assert made.closure(["c"]) == {"a", "c"}
    assert made.tips(["a", "b", "c"]) == ("b", "c")
    assert (len(made), "a" in made, "x" in made) == (6, True, False)


def test_a_script_that_says_nothing_more() -> None:
    bare = Revision("a")
    assert (bare.parents, bare.depends_on, bare.labels, bare.replaces, bare.needs) == ((), (), (), (), ())
    assert (bare.final, bare.migrates, bare.reversible, bare.declared) == (False, True, False, False)
    assert (bare.operations, bare.sets_up, bare.undone_by_operations) == (None, False, False)
    assert Revision("a", sets_up=True).undone_by_operations
    assert Revision("a", operations=()).undone_by_operations


def test_ids_are_found_by_their_start() -> None:
    made = graph(abc="", abd="", xyz="", xy="")
    assert made.find("abc") == made.find("abc") == "abc"
    assert made.find("xyz") == "xyz"
    assert made.find("xy") == "xy"  # all of an id wins over the start of another
    with pytest.raises(AmbiguousTarget) as ambiguous:
        made.find("ab")
    assert ambiguous.value.candidates == ("abc", "abd")
    with pytest.raises(UnknownTarget) as unknown:
        made.find("abe")
    assert set(unknown.value.near) == {"abc", "abd"}


@given(histories())
def test_order_puts_everything_after_what_it_needs(revisions: list[Revision]) -> None:
    made = Graph(revisions)
    order = made.order(revision.id for revision in revisions)
    assert sorted(order) == sorted(revision.id for revision in revisions)
    place = {rev: index for index, rev in enumerate(order)}
    assert all(place[parent] < place[revision.id] for revision in revisions for parent in revision.needs)
    assert order == Graph(reversed(revisions)).order(reversed(order))  # whatever order they were loaded in
    assert set(made.heads) == tips(revisions, set(order))


@given(histories(), st.data())
def test_closure_is_plain_set_algebra(revisions: list[Revision], data: st.DataObject) -> None:
    made = Graph(revisions)
    ids = sorted(revision.id for revision in revisions)
    wanted = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    assert made.closure(wanted) == closure(revisions, wanted)
    assert set(made.tips(wanted)) == tips(revisions, wanted)


@given(histories(), st.data())
def test_sound_graphs_have_no_faults_and_broken_ones_do(revisions: list[Revision], data: st.DataObject) -> None:
    assert faults(revisions) == []
    if not revisions:
        return
    # An edge from a revision to something at or after it closes a cycle, wherever it is.
    by_id = {revision.id: revision for revision in revisions}
    victim = data.draw(st.sampled_from(revisions))
    later = sorted(rev for rev in by_id if victim.id in closure(revisions, [rev]))
    end = data.draw(st.sampled_from(later))
    broken = Revision(victim.id, (*victim.parents, end))
    (fault,) = faults([broken if revision is victim else revision for revision in revisions])
    assert "a cycle" in fault.message
    assert victim.id in fault.message


def test_a_cycle_in_the_middle() -> None:
    """a - b - c - d, and b comes after c too"""
    revisions = [Revision("a", path="a.py"), Revision("b", ("a", "c"), path="b.py", lines={"down_revision": 7})]
    revisions += [Revision("c", ("b",), path="c.py"), Revision("d", ("c",), path="d.py")]
    (fault,) = faults(revisions)
    assert str(fault) == "b.py:7: revision b is part of a cycle: it needs c, which needs b (with c.py)"


def test_faults_name_the_file_that_is_wrong() -> None:
    revisions = [Revision("a", ("zz",), path="1.py"), Revision("a", path="2.py"), Revision("b", depends_on=("y",))]
    found = [(fault.path, fault.line, fault.message) for fault in faults(revisions)]
    assert found == [
        ("2.py", 1, "revision a has the same id as 1.py; give one of them another id"),
        ("1.py", 1, "down_revision names zz, which no script has"),
        ("", 1, "depends_on names y, which no script has"),
    ]
    assert len(faults(revisions, lambda rev: rev in "zzy")) == 1


def test_every_order_of_loading_gives_the_same_plan() -> None:
    r"""
    a - b - d
     \     /
      - c -
    """
    revisions = [Revision("a"), Revision("b", ("a",)), Revision("c", ("a",)), Revision("d", ("b", "c"))]
    orders = {tuple(Graph(loaded).order("abcd")) for loaded in itertools.permutations(revisions)}
    assert orders == {("a", "b", "c", "d")}


def squashed(*parts: Revision, parents: str = "", labels: str = "") -> Revision:
    """S stands for some revisions; `parents` and `labels` are its own."""
    return Revision("S", tuple(parents.split()), labels=tuple(labels.split()), replaces=parts)


def shape(graph: Graph) -> dict[str, str]:
    """Each revision with what it needs: parents, then dependencies."""
    return {revision.id: " ".join(revision.needs) for revision in graph}


def test_what_follows_a_part_follows_the_whole() -> None:
    r"""
    a - S - d        S is b - c; d was written after c
                     e depends on the label of b
    """
    whole = squashed(Revision("b", ("a",), labels=("fuse",)), Revision("c", ("b",)), parents="a", labels="fuse")
    made = Graph([Revision("a"), whole, Revision("d", ("c",)), Revision("e", depends_on=("fuse",))])
    assert shape(made) == {"a": "", "S": "a", "d": "S", "e": "S"}
    assert shape(made.seen_from(["d"])) == shape(made)
    opened = made.seen_from(["a", "b"])
    assert shape(opened) == {"a": "", "b": "a", "c": "b", "d": "c", "e": "b"}
    assert list(shape(opened)) == sorted(shape(opened))
    assert (made.standing("c"), opened.standing("c"), opened.standing("S")) == ("S", "c", "c")


def test_a_diamond_that_was_squashed_and_rebased_opens_at_its_new_place() -> None:
    r"""
    a - b - c - e        S is all but a and y, and was put after x
     \     \   /
      y     - d
       \     /
        -----          d follows y too
    """
    parts = [Revision("b", ("a",)), Revision("c", ("b",)), Revision("d", ("b", "y")), Revision("e", ("c", "d"))]
    others = [Revision("a"), Revision("x"), Revision("y", ("a",))]
    there = Graph([*others, squashed(*parts, parents="a y")]).opened()
    assert shape(there) == {"a": "", "b": "a", "c": "b", "d": "b y", "e": "c d", "x": "", "y": "a"}
    moved = Graph([*others, squashed(*parts, parents="x")]).opened()
    assert shape(moved) == {"a": "", "b": "x", "c": "b", "d": "b x", "e": "c d", "x": "", "y": "a"}


def test_a_first_revision_that_was_squashed_and_rebased_opens_at_its_new_place() -> None:
    """x - S        S is b - c, and b had no parent"""
    whole = squashed(Revision("b"), Revision("c", ("b",)), parents="x")
    assert shape(Graph([Revision("x"), whole]).opened()) == {"b": "x", "c": "b", "x": ""}


def test_labels_of_a_squashed_revision_stay_where_they_were() -> None:
    """S is b - c; c gave the label old, and S got the label new"""
    whole = squashed(Revision("b"), Revision("c", ("b",), labels=("old",)), labels="old new")
    assert Graph([whole]).labels == {"old": "S", "new": "S"}
    assert Graph([whole]).opened().labels == {"new": "b", "old": "c"}


@given(histories())
def test_networkx_finds_the_same(revisions: list[Revision]) -> None:
    """
    a -- b -- d      an edge leads from a revision to one that needs it: -- as parent, .. as dependency
      `- c ..'
    """
    graph = Graph(revisions)
    found = graph.digraph
    assert set(found) == {revision.id for revision in graph}
    assert networkx.is_directed_acyclic_graph(found)
    for revision in graph:
        assert found.nodes[revision.id]["revision"] is revision
        assert {revision.id, *networkx.ancestors(found, revision.id)} == graph.closure([revision.id])
        assert {revision.id, *networkx.descendants(found, revision.id)} == graph.above([revision.id])
        parents = {before for before, _, kind in found.in_edges(revision.id, data="kind") if kind == "parent"}
        assert parents == set(revision.parents)
    assert list(networkx.lexicographical_topological_sort(found)) == graph.order(found)


def labelled(shape: str, count: int) -> Graph:
    """Make a graph with a label on each revision: a line, a root with many branches, or diamonds in a row."""
    ids = [f"r{number:05}" for number in range(count)]

    def parents(number: int) -> tuple[str, ...]:
        if number == 0:
            return ()
        if shape == "branches":
            return (ids[0],)
        if shape == "line" or number % 3 == 1:
            return (ids[number - 1],)
        return (ids[number - 2],) if number % 3 == 2 else (ids[number - 2], ids[number - 1])

    return Graph(Revision(rev, parents(number), labels=(f"l{number}",)) for number, rev in enumerate(ids))


@pytest.mark.parametrize("shape", ["line", "branches", "diamonds"])
def test_the_sizes_of_branches_are_counted(shape: str) -> None:
    made = labelled(shape, 30)
    assert made.branch_sizes == {label: len(made.branch(label)) for label in sorted(made.labels)}


@pytest.mark.parametrize("shape", ["line", "branches", "diamonds"])
def test_the_work_for_labels_grows_with_the_revisions(shape: str) -> None:
    def heads(count: int) -> Callable[[], object]:
        made = labelled(shape, count)
        return lambda: [(made.labels_of(head), made.own_labels(head)) for head in made.heads]

    def sizes(count: int) -> Callable[[], object]:
        made = labelled(shape, count)
        return lambda: made.branch_sizes

    assert growth(heads, 100) < 1.4
    assert growth(sizes, 100) < 1.6  # the digits of the sizes grow too
