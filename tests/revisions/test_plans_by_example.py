"""Plans on graphs that are drawn: what can be undone, what a record contradicts, how far a barrier lets one go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anemoi_ckpt_migrate.errors import (
    BarrierInTheWay,
    HistoryConflict,
    Irreversible,
    NotThatMany,
    UnknownRecorded,
    UsageError,
)
from anemoi_ckpt_migrate.record.record import Applied, Record, Undo
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import (
    Plan,
    Step,
    behind_barriers,
    check_recorded,
    lineage_of,
    plan_downgrade,
    plan_stamp,
    plan_sync,
    plan_upgrade,
)
from anemoi_ckpt_migrate.revisions.targets import parse


def record(*entries: Applied) -> Record:
    """The record of a checkpoint that got these, in this order; its heads are those without a child."""
    parents = {parent for entry in entries for parent in entry.parents}
    return Record(tuple(sorted(entry.revision for entry in entries if entry.revision not in parents)), entries)


def of(graph: Graph, revisions: str) -> Record:
    """The record of a checkpoint that got these revisions as the scripts have them."""
    found = (graph[rev] for rev in revisions.split())
    return record(*(Applied(r.id, r.parents, r.depends_on, r.name, final=r.final) for r in found))


def ids(plan: Plan) -> str:
    return " ".join(step.revision for step in plan.steps)


CODE, DATA = Undo("def rollback"), Undo("", operations=({"op": "Drop", "keys": ["x"]},))
LOST = replace(DATA, lost="it was narrowed")


def script(**more: object) -> Revision:
    return Revision("a", name="the script", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "undo", "can"),
    [
        (None, None, False),
        (None, CODE, True),
        (None, DATA, True),
        (None, LOST, False),
        (script(reversible=True), None, True),
        (script(reversible=True), LOST, True),  # its own function does it
        (script(reversible=False), None, False),
        (script(reversible=False), CODE, True),  # it had a rollback when it was applied
        (script(reversible=True, operations=()), None, True),
        (script(reversible=True, operations=()), LOST, False),  # only then it was seen that it cannot
        (script(reversible=False, operations=()), DATA, True),
        (script(reversible=True, sets_up=True), LOST, False),
    ],
)
def test_what_can_be_undone(script: Revision | None, undo: Undo | None, can: bool) -> None:
    graph = Graph([script] if script else [])
    there = record(Applied("a", name="as recorded", undo=undo))
    if can:
        step = Step("a", "as recorded", "downgrade", carried=script is None)
        assert plan_downgrade(graph, there, parse("base")) == Plan(("a",), (), (step,))
        return
    with pytest.raises(Irreversible):
        plan_downgrade(graph, there, parse("base"))
    # While the file holds its old bytes, nothing has to be undone.
    assert ids(plan_downgrade(graph, there, parse("base"), stash=[()])) == "a"
    with pytest.raises(Irreversible):
        plan_downgrade(graph, there, parse("base"), stash=[there.lineage])


#  a - F - b - c      F is a barrier
#   \
#    - d
BARRED = Graph(
    [
        Revision("a", reversible=True),
        Revision("F", ("a",), name="a new era", final=True, versions={"pkg": "2.0"}),
        Revision("b", ("F",), reversible=True),
        Revision("c", ("b",), reversible=True),
        Revision("d", ("a",), reversible=True),
    ]
)


def test_a_barrier_lets_one_go_up_to_it() -> None:
    for there, target, reachable in (("", "c", "a"), ("", "F", "a"), ("a", "c", "a"), ("a d", "heads", "d")):
        with pytest.raises(BarrierInTheWay) as refused:
            plan_upgrade(BARRED, of(BARRED, there), parse(target), "pkg")
        found = refused.value
        assert (found.barrier, found.name, found.direction) == ("F", "a new era", "upgrade")
        assert (found.package, found.version) == ("pkg", "2.0")
        assert found.reachable == reachable
    with pytest.raises(BarrierInTheWay, match="the checkpoint can be upgraded as far as base"):
        plan_upgrade(Graph([Revision("F", final=True)]), Record(), parse("head"))
    plan = plan_upgrade(BARRED, Record(), parse("barrier"))
    assert (ids(plan), plan.start, plan.end) == ("a d", (), ("d",))
    assert [revision.id for revision in behind_barriers(BARRED, Record(), plan)] == ["F", "b", "c"]
    assert behind_barriers(BARRED, of(BARRED, "F b c d"), Plan((), (), ())) == []


def test_a_barrier_that_only_the_script_or_the_record_knows_is_one() -> None:
    for graph, entry in (
        (Graph([Revision("F", final=True)]), Applied("F")),
        (Graph([Revision("F", reversible=True)]), Applied("F", final=True)),
        (Graph(), Applied("F", final=True, undo=CODE)),
    ):
        with pytest.raises(BarrierInTheWay, match="can be downgraded as far as F"):
            plan_downgrade(graph, record(entry), parse("base"))


def test_the_lineage_of_a_stamp_begins_at_its_barrier() -> None:
    assert [revision.id for revision in lineage_of(BARRED, ["c", "d"])] == ["F", "b", "c", "d"]
    assert [revision.id for revision in plan_stamp(BARRED, Record(), [parse("c")])] == ["F", "b", "c"]
    with pytest.raises(UsageError, match="stamp it alone"):
        plan_stamp(BARRED, Record(), [parse("c"), parse("base")])


#  a - b - c      x is on b, y on d
#   \
#    - d - e
FORKED = Graph(
    [
        Revision("a", reversible=True),
        Revision("b", ("a",), labels=("x",), reversible=True),
        Revision("c", ("b",), reversible=True),
        Revision("d", ("a",), labels=("y",), reversible=True),
        Revision("e", ("d",), reversible=True),
    ]
)


@pytest.mark.parametrize(
    ("there", "target", "steps"),
    [
        ("", "+1", "a"),
        ("a b", "+1", "c"),
        ("a b d", "x@+1", "c"),
        ("a b d", "y@+1", "e"),
        ("", "x@+3", "a b c"),
        ("a d e", "x@+2", "b c"),
        ("a d e", "x@head", "b c"),
    ],
)
def test_steps_lead_to_one_head(there: str, target: str, steps: str) -> None:
    assert ids(plan_upgrade(FORKED, of(FORKED, there), parse(target))) == steps


@pytest.mark.parametrize(
    ("there", "target", "says"),
    [
        ("a b", "+2", "+2 goes too far: only 1 revision is left in that direction; write `upgrade x@head`"),
        ("a b c d e", "+1", "no revision is left in that direction; write `upgrade heads`"),
        ("a b", "x@+2", "x@+2 goes too far: only 1 revision is left in that direction; write `upgrade x@head`"),
        ("a b c", "x@+1", "no revision is left in that direction; write `upgrade heads`"),
    ],
)
def test_more_steps_than_there_are(there: str, target: str, says: str) -> None:
    with pytest.raises(NotThatMany) as refused:
        plan_upgrade(FORKED, of(FORKED, there), parse(target))
    assert says in str(refused.value)


@pytest.mark.parametrize("target", ["-1", "x@-2"])
def test_an_upgrade_does_not_go_down(target: str) -> None:
    steps = target.removeprefix("x@")
    with pytest.raises(UsageError, match=f"{steps} goes down: write `downgrade {target}`"):
        plan_upgrade(FORKED, of(FORKED, "a b"), parse(target))


@pytest.mark.parametrize(
    ("there", "targets", "lineage"),
    [
        ("a b d e", "c", "a b c d e"),
        ("a b d e", "d", "a b d"),
        ("a b d e", "x@b", "a b d e"),
        ("a b d e", "x@base", "a d e"),
        ("a b c d e", "y@base", "a b c"),
        ("a b c", "base", ""),
        ("a b c", "y", "a b c d"),
        ("a b c", "b e", "a b d e"),
    ],
)
def test_a_stamp_of_a_branch_leaves_the_other(there: str, targets: str, lineage: str) -> None:
    found = plan_stamp(FORKED, of(FORKED, there), [parse(text) for text in targets.split()])
    assert " ".join(revision.id for revision in found) == lineage


def test_a_branch_that_is_not_there_takes_along_what_rests_on_it() -> None:
    r"""
    a - b      L is on b
     \
      - c      x, a root of its own, depends on b
    """
    graph = Graph(
        [Revision("a"), Revision("b", ("a",), labels=("L",)), Revision("c", ("a",)), Revision("x", depends_on=("b",))]
    )
    for target, lineage in (("L@base", "a c"), ("L@b", "a b c"), ("L@a", "a"), ("c", "a b c x")):
        found = plan_stamp(graph, of(graph, "a b c x"), [parse(target)])
        assert " ".join(revision.id for revision in found) == lineage, target


def test_sync_goes_down_to_what_the_scripts_agree_with_and_up_from_there() -> None:
    """
    was applied:  a - u - v       the scripts:  a - b - c
                  a - b
    """
    graph = Graph([Revision("a", reversible=True), Revision("b", ("a",), reversible=True), Revision("c", ("b",))])
    entries = (Applied("a"), Applied("u", ("a",), undo=CODE), Applied("b", ("a",)), Applied("v", ("u",), undo=DATA))
    plan = plan_sync(graph, record(*entries))
    assert [(step.revision, step.direction) for step in plan.steps] == [
        ("v", "downgrade"), ("u", "downgrade"), ("c", "upgrade")
    ]  # fmt: skip
    assert [step.carried for step in plan.steps] == [True, True, False]
    assert (plan.start, plan.end) == (("b", "v"), ("c",))


def test_sync_of_a_checkpoint_that_agrees_only_goes_up() -> None:
    plan = plan_sync(FORKED, of(FORKED, "a b"))
    assert (ids(plan), plan.start, plan.end) == ("c d e", ("b",), ("c", "e"))
    assert {step.direction for step in plan.steps} == {"upgrade"}
    assert plan_sync(FORKED, of(FORKED, "a b c d e")).steps == ()


def test_what_a_record_contradicts_is_named_with_the_repair() -> None:
    """
    the scripts:  a - n - b - c
    """
    graph = Graph([Revision("a"), Revision("n", ("a",)), Revision("b", ("n",)), Revision("c", ("b",))])
    without_n = record(Applied("a"), Applied("b", ("a",)), Applied("c", ("b",)))
    with pytest.raises(HistoryConflict) as missing:
        check_recorded(graph, without_n)
    found = missing.value
    assert (found.missing, found.child, found.heads, found.late) == (("n",), "b", ("c",), False)
    late = record(Applied("a"), Applied("b", ("a",)), Applied("n", ("a",)), Applied("c", ("b",)))
    with pytest.raises(HistoryConflict) as wrong:
        check_recorded(graph, late)
    found = wrong.value
    assert (found.missing, found.child, found.heads, found.late) == (("n",), "b", ("c",), True)
    check_recorded(graph, of(graph, "a n b c"))


def test_what_no_script_knows_is_named_with_the_way_back() -> None:
    """
    was applied:  a - u - b - v       the scripts:  a - b
    """
    graph = Graph([Revision("a"), Revision("b", ("a",))])
    for undo, runs in ((CODE, True), (DATA, False), (None, True), (replace(DATA, source="def up"), True)):
        known_as = {"1_first": "", "2_second": ""}
        u, v = Applied("u", ("a",), undo=DATA, known_as=known_as), Applied("v", ("b",), undo=undo)
        with pytest.raises(UnknownRecorded) as refused:
            plan_upgrade(graph, record(Applied("a"), u, Applied("b", ("u",)), v), parse("head"))
        found = refused.value
        assert (found.revisions, found.steps) == (("u", "v"), 3)
        assert "the checkpoint has u (1_first, 2_second), v, which no script" in str(found)
        assert ("downgrade -3 CKPT --trust-checkpoint-code" in str(found)) == runs
