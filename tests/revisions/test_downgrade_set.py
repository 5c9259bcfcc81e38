"""What a downgrade undoes, on graphs that are drawn: the record says what is there, the scripts what they know of it."""

from __future__ import annotations

import pytest

from anemoi_ckpt_migrate.errors import (
    BarrierInTheWay,
    MigrateError,
    NotApplied,
    NotThatMany,
    SeveralHeads,
    SplitByTarget,
    UsageError,
)
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import downgrade_set
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.targets import parse


def record(*entries: Applied) -> Record:
    """The record of a checkpoint that got these, in this order."""
    return Record(tuple(sorted(entry.revision for entry in entries)), entries)


def of(graph: Graph, revisions: str) -> Record:
    """The record of a checkpoint that got these revisions as the scripts have them."""
    found = (graph[rev] for rev in revisions.split())
    return record(*(Applied(r.id, r.parents, r.depends_on, versions=r.versions, final=r.final) for r in found))


def undone(graph: Graph, there: Record, text: str) -> str:
    gone = downgrade_set.undone(graph, there, parse(text), "pkg")
    return " ".join(sorted(gone))


#  a - b - c - d      left is on c
#   \
#    - e - f          right is on e; f depends on c
FORKED = Graph(
    [
        Revision("a"),
        Revision("b", ("a",)),
        Revision("c", ("b",), labels=("left",)),
        Revision("d", ("c",)),
        Revision("e", ("a",), labels=("right",)),
        Revision("f", ("e",), depends_on=("c",)),
    ]
)
ALL = of(FORKED, "a b c e d f")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("base", "a b c d e f"),
        ("barrier", "a b c d e f"),
        ("heads", ""),
        ("-1", "f"),
        ("-3", "d e f"),
        ("-6", "a b c d e f"),
        ("c", "d"),
        ("b", "c d f"),
        ("left@b", "c d f"),
        ("right@a", "e f"),
        ("left@-1", "d"),
        ("left@-2", "c d f"),
        ("right@-1", "f"),
        ("right@base", "a b c d e f"),
        ("left@head", ""),
        ("left@head-1", "d"),
        ("right@head-2", "e f"),
        ("base+2", "c d e f"),
        ("base+6", ""),
        ("a+1", "c d e f"),
        ("c-1", "c d f"),
        ("c-3", "a b c d e f"),
        ("left@b+1", "d"),
        ("left@a+1", "c d f"),
        ("right@a+2", ""),
        ("left@c-2", "b c d f"),
        ("d@base+1", "b c d f"),  # e rests on a alone
    ],
)
def test_what_each_target_undoes(text: str, gone: str) -> None:
    assert undone(FORKED, ALL, text) == gone


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("-7", NotThatMany, "-7 goes too far: only 6 revisions are left in that direction; write `downgrade base`"),
        ("left@-5", NotThatMany, "only 4 revisions are left in that direction; write `downgrade left@base`"),
        ("c+2", NotThatMany, "c+2 goes too far: only 1 revision is left in that direction"),
        ("c-4", NotThatMany, "c-4 goes too far: only 3 revisions are left in that direction"),
        ("left@c+2", NotThatMany, "left@c+2 goes too far: only 1 revision is left"),
        ("right@e-3", NotThatMany, "right@e-3 goes too far: only 2 revisions are left"),
        ("base+7", NotThatMany, "only 6 revisions are left"),
        ("base-1", NotThatMany, "base-1 goes too far: no revision is left"),
        ("+1", UsageError, "+1 goes up: write `upgrade +1`"),
        ("left@+2", UsageError, "left@+2 goes up: write `upgrade left@+2`"),
        ("head", SeveralHeads, "write `left@head`, `right@head`"),
        ("head-1", SeveralHeads, "write `left@head-1`, `right@head-1`"),
    ],
)
def test_what_each_target_refuses(text: str, kind: type[MigrateError], says: str) -> None:
    with pytest.raises(kind) as refused:
        undone(FORKED, ALL, text)
    assert says in str(refused.value)


def test_what_is_not_there_cannot_be_gone_down_to() -> None:
    some = of(FORKED, "a b")
    for text in ("c", "left@c", "left@head", "c+1"):
        with pytest.raises(NotApplied, match=r"the checkpoint does not have [cd]"):
            undone(FORKED, some, text)
    with pytest.raises(NotThatMany, match="right@-1 goes too far: no revision is left"):
        undone(FORKED, some, "right@-1")  # a is of both branches, and the checkpoint is on the other


#  a - F - b - G - c      F and G are barriers, of versions 1.0 and 2.0
BARRED = Graph(
    [
        Revision("a"),
        Revision("F", ("a",), final=True, versions={"pkg": "1.0"}),
        Revision("b", ("F",)),
        Revision("G", ("b",), final=True, versions={"pkg": "2.0"}),
        Revision("c", ("G",)),
    ]
)


@pytest.mark.parametrize(
    ("there", "text", "says"),
    [
        ("G c", "-3", "barrier G () is in the way: the checkpoint can be downgraded as far as G"),
        ("G c", "b", "downgraded as far as G (`downgrade barrier`); pkg before 2.0 cannot use it"),
        ("F b", "a", "downgraded as far as F (`downgrade barrier`); pkg before 1.0 cannot use it"),
    ],
)
def test_below_a_barrier_nobody_goes(there: str, text: str, says: str) -> None:
    with pytest.raises(BarrierInTheWay) as refused:
        undone(BARRED, of(BARRED, there), text)
    assert says in str(refused.value)


def test_down_to_the_barrier_that_it_has() -> None:
    assert undone(BARRED, of(BARRED, "F b"), "barrier") == "b"
    assert undone(BARRED, of(BARRED, "G c"), "G") == "c"
    assert downgrade_set.applied_revisions(BARRED, of(BARRED, "G c")) == {*"aFbGc"}


#  a - S - d      S is b1 - b2 - b3, of versions 1.1, 1.2 and 1.3
PARTS = tuple(Revision(f"b{n}", (f"b{n - 1}",) if n > 1 else ("a",), versions={"pkg": f"1.{n}"}) for n in (1, 2, 3))


@pytest.mark.parametrize(("below", "way"), [("a", "write S or a"), ("", "write S or base")])
def test_inside_of_what_came_as_one_step_is_no_place(below: str, way: str) -> None:
    above = tuple(below.split())
    whole = Revision("S", above, replaces=PARTS, versions={"pkg": "1.3"})
    graph = Graph([*map(Revision, above), whole, Revision("d", ("S",))])
    there = of(graph, f"{below} S d")
    for text in ("b1", "b2", "pkg<1.3", "pkg<1.2"):
        with pytest.raises(SplitByTarget) as refused:
            undone(graph, there, text)
        assert str(refused.value) == f"{text} is part of S, which the checkpoint got as one step; {way} instead"
    assert undone(graph, there, "b3") == undone(graph, there, "S") == undone(graph, there, "pkg<1.4") == "d"


def test_revisions_that_only_the_record_knows_are_of_a_branch_too() -> None:
    """
    a - b - u - v      side is on b; u and v, from newer code, have no script here
    c
    """
    graph = Graph([Revision("a"), Revision("b", ("a",), labels=("side",)), Revision("c")])
    there = record(
        Applied("a"), Applied("b", ("a",)), Applied("u", ("b",)), Applied("c"), Applied("v", ("u",), depends_on=("c",))
    )
    assert undone(graph, there, "side@-1") == "v"
    assert undone(graph, there, "side@-2") == "u v"
    assert undone(graph, there, "b") == undone(graph, there, "heads") == "u v"
    assert undone(graph, there, "-2") == "c v"
    assert downgrade_set.tips(graph, there.lineage) == ("c", "v")
    assert downgrade_set.astray(graph, there) == {"u", "v"}


def test_what_the_scripts_place_elsewhere_by_now() -> None:
    """
    was applied:  a - b - c       d        the scripts:  a - b       d - c
    """
    graph = Graph([Revision("a"), Revision("b", ("a",)), Revision("c", ("d",)), Revision("d")])
    there = record(Applied("a"), Applied("b", ("a",)), Applied("c", ("b",)), Applied("d"))
    assert downgrade_set.tips(graph, there.lineage) == ("b", "c")  # by the scripts
    assert undone(graph, there, "a") == "b c"  # c rests on b by the record
    assert undone(graph, there, "-1") == "c d"  # and on d by the scripts
    assert downgrade_set.astray(graph, there) == {"c"}  # it came before d


def test_astray_is_what_rests_on_what_is_astray() -> None:
    """
    a - b - c      by now nothing is called a, and b follows n
    F - d          F is a barrier, above x
    """
    graph = Graph(
        [
            Revision("b", ("n",)),
            Revision("n"),
            Revision("c", ("b",)),
            Revision("F", ("x",), final=True),
            Revision("x"),
            Revision("d", ("F",)),
        ]
    )
    there = record(
        Applied("a"), Applied("F", ("x",), final=True), Applied("b", ("a",)), Applied("c", ("b",)), Applied("d", ("F",))
    )
    assert downgrade_set.astray(graph, there) == {"a", "b", "c"}


def test_one_of_two_chosen_places_may_rest_on_the_other() -> None:
    """
    a      b, a root of its own, depends on a: both are heads
    """
    graph = Graph([Revision("a"), Revision("b", depends_on=("a",)), Revision("c", ("a",), depends_on=("b",))])
    assert undone(graph, of(graph, "a b"), "a") == ""
    assert undone(graph, of(graph, "a b c"), "a") == "c"
    assert undone(graph, of(graph, "a b c"), "b") == ""
