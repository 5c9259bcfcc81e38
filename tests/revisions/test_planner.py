"""Plans against plain set algebra, on random graphs."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import BarrierInTheWay, Irreversible, MigrateError, NotApplied, NotThatMany, UsageError
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Plan, Step, lineage_of, plan_downgrade, plan_stamp, plan_upgrade
from anemoi_ckpt_migrate.revisions.targets import Id, Named, Relative, parse
from tests.support.graphs import closure, histories, recorded, tips

EMPTY = Record()


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[list[Revision], Graph, Record]:
    """Draw a history and a checkpoint that went some way along it, below all barriers."""
    revisions = draw(histories())
    graph = Graph(revisions)
    blocked = {r.id for r in revisions if any(graph[a].final for a in closure(revisions, [r.id]))}
    free = sorted(r.id for r in revisions if r.id not in blocked)
    wanted = draw(st.sets(st.sampled_from(free))) if free else set()
    return revisions, graph, recorded(graph, graph.order(closure(revisions, wanted)))


def any_id(revisions: list[Revision], data: st.DataObject) -> str:
    assume(revisions)
    return data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))


def ids(plan: Plan) -> list[str]:
    return [step.revision for step in plan.steps]


@given(checkpoints(), st.data())
def test_an_upgrade_applies_what_is_missing_and_nothing_else(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    target = any_id(revisions, data)
    applied = {entry.revision for entry in record.lineage}
    missing = closure(revisions, [target]) - applied
    barriers = {rev for rev in missing if graph[rev].final}
    if barriers:
        with pytest.raises(BarrierInTheWay) as refused:
            plan_upgrade(graph, record, Id(target))
        assert refused.value.barrier in barriers
        return
    plan = plan_upgrade(graph, record, Id(target))
    assert set(ids(plan)) == missing
    assert plan.steps == tuple(
        Step(rev, graph[rev].name, "upgrade", carried=False, reversible=graph[rev].reversible) for rev in ids(plan)
    )
    assert set(plan.end) == tips(revisions, applied | missing)
    check_order(graph, applied, ids(plan))
    assert plan == plan_upgrade(Graph(reversed(revisions)), record, Id(target))


@given(checkpoints())
def test_heads_and_barrier_go_as_far_as_they_say(drawn: tuple[list[Revision], Graph, Record]) -> None:
    revisions, graph, record = drawn
    applied = {entry.revision for entry in record.lineage}
    reachable = {r.id for r in revisions if not any(graph[a].final for a in closure(revisions, [r.id]) - applied)}
    plan = plan_upgrade(graph, record, Named("barrier"))
    assert set(ids(plan)) == reachable - applied
    check_order(graph, applied, ids(plan))
    if reachable == {r.id for r in revisions}:
        assert plan_upgrade(graph, record, Named("heads")) == plan
        assert not reachable or set(plan.end) == set(graph.heads)


@given(checkpoints(), st.data())
def test_a_downgrade_undoes_what_rests_on_the_rest(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    target = any_id(revisions, data)
    applied = {entry.revision for entry in record.lineage}
    if target not in applied:
        with pytest.raises(NotApplied):
            plan_downgrade(graph, record, Id(target))
        return
    following = {revision.id for revision in revisions if target in revision.parents}
    undone = {rev for rev in applied if following & closure(revisions, [rev])}
    check_downgrade(revisions, graph, record, undone, Id(target))


@given(checkpoints(), st.data())
def test_minus_n_undoes_the_last_n(drawn: tuple[list[Revision], Graph, Record], data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(record.lineage)
    count = data.draw(st.integers(1, len(record.lineage)))
    undone = {entry.revision for entry in record.lineage[-count:]}
    check_downgrade(revisions, graph, record, undone, Relative(-count))
    with pytest.raises(NotThatMany):
        plan_downgrade(graph, record, Relative(-len(record.lineage) - 1))


@given(checkpoints(), st.data())
def test_plus_n_runs_n_steps_towards_the_head_ahead(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    applied = {entry.revision for entry in record.lineage}
    at = set(record.heads)
    ahead = [head for head in graph.heads if head not in applied and (not at or closure(revisions, [head]) & at)]
    count = data.draw(st.integers(1, 14))
    assume(len(ahead) < 2)  # what several heads share is compared in test_branch_plans.py
    order = graph.order(closure(revisions, ahead) - applied)
    if any(graph[rev].final for rev in order[:count]):
        with pytest.raises(BarrierInTheWay):
            plan_upgrade(graph, record, Relative(count))
    elif count > len(order):
        with pytest.raises(NotThatMany):
            plan_upgrade(graph, record, Relative(count))
    else:
        assert ids(plan_upgrade(graph, record, Relative(count))) == order[:count]


@given(checkpoints())
def test_up_and_down_again_is_where_it_was(drawn: tuple[list[Revision], Graph, Record]) -> None:
    _, graph, record = drawn
    plan = plan_upgrade(graph, record, Named("barrier"))
    assume(plan.steps)
    applied = [entry.revision for entry in record.lineage] + ids(plan)
    above = recorded(graph, applied)
    try:
        back = plan_downgrade(graph, above, Relative(-len(plan.steps)))
    except Irreversible as refused:
        assert all(not graph[rev].reversible for rev in refused.revisions)
        return
    assert ids(back) == ids(plan)[::-1]
    assert back.end == record.heads


@given(histories(), st.data())
def test_a_stamped_checkpoint_is_bound_by_its_barrier(revisions: list[Revision], data: st.DataObject) -> None:
    assume(revisions)
    graph = Graph(revisions)
    head = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    lineage = [revision.id for revision in plan_stamp(graph, EMPTY, [Id(head)])]
    assert set(graph.tips(lineage)) == tips(revisions, set(lineage))
    assert lineage == [revision.id for revision in lineage_of(graph, [head])]
    record = recorded(graph, lineage)
    needed = closure(revisions, [head])
    below = {under for rev in needed if graph[rev].final for under in closure(revisions, [rev]) - {rev}}
    assert set(lineage) == needed - below
    assert plan_upgrade(graph, record, Id(head)).steps == ()
    for rev in sorted(needed - set(lineage)):
        with pytest.raises(BarrierInTheWay):
            plan_downgrade(graph, record, Id(rev))
    if any(graph[rev].final for rev in lineage):
        with pytest.raises(BarrierInTheWay):
            plan_downgrade(graph, record, Named("base"))


def check_downgrade(
    revisions: list[Revision], graph: Graph, record: Record, undone: set[str], target: Id | Relative
) -> None:
    stuck = {rev for rev in undone if not graph[rev].reversible}
    if stuck:
        with pytest.raises(Irreversible) as refused:
            plan_downgrade(graph, record, target)
        assert set(refused.value.revisions) == stuck
        return
    plan = plan_downgrade(graph, record, target)
    left = {entry.revision for entry in record.lineage} - undone
    assert set(ids(plan)) == undone
    assert set(plan.end) == tips(revisions, left)
    check_order(graph, left, ids(plan)[::-1])


def check_order(graph: Graph, applied: set[str], steps: list[str]) -> None:
    """Each step needs only what was there before it."""
    there = set(applied)
    for rev in steps:
        assert there.issuperset(graph[rev].needs)
        there.add(rev)


@pytest.mark.parametrize("text", ["head", "heads", "base", "barrier"])
def test_words_are_targets(text: str) -> None:
    assert parse(text) == Named(text)


@pytest.mark.parametrize(
    "text", ["", " ", "-", "+", "a@", "@head", "a@b@c", "+1.5", "--1", "a-", "+0", "heads-1", "a@barrier", "1\n2"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_other_targets() -> None:
    assert (parse("+3"), parse("-2"), parse("12ab")) == (Relative(3), Relative(-2), Id("12ab"))


def test_an_empty_chain() -> None:
    for target in (Named("head"), Named("heads"), Named("base"), Named("barrier")):
        assert plan_upgrade(Graph(), EMPTY, target).steps == ()
    with pytest.raises(MigrateError):
        plan_upgrade(Graph(), EMPTY, Relative(1))
