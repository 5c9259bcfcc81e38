"""Plans along branches, from revisions on, of releases, and through squashed revisions, against plain set algebra."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from anemoi_ckpt_migrate import resolving
from anemoi_ckpt_migrate.errors import MigrateError, NotThatMany, SeveralHeads
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.planner import Plan, check_recorded, plan_downgrade, plan_stamp, plan_upgrade
from anemoi_ckpt_migrate.record import Record
from anemoi_ckpt_migrate.soundness import faults
from anemoi_ckpt_migrate.targets import Named, Relative, parse
from tests.graphs import closure, histories, recorded, tips

Drawn = tuple[list[Revision], Graph, Record]


@st.composite
def checkpoints(draw: st.DrawFn) -> Drawn:
    """Draw a history with labels and dependencies, and how far a checkpoint has come, in an order of its own."""
    revisions = [replace(r, reversible=True) for r in draw(histories(barriers=False, labels=True))]
    assume(revisions)
    wanted = draw(st.sets(st.sampled_from(sorted(revision.id for revision in revisions))))
    left, order = closure(revisions, wanted), []
    while left:  # any order will do in which each comes after what it needs
        ready = sorted(r.id for r in revisions if r.id in left and not left.intersection(r.needs))
        order.append(draw(st.sampled_from(ready)))
        left.discard(order[-1])
    graph = Graph(revisions)
    return revisions, graph, recorded(graph, order)


def ids(plan: Plan) -> list[str]:
    return [step.revision for step in plan.steps]


def resting_on(revisions: list[Revision], wanted: set[str]) -> set[str]:
    return {r.id for r in revisions if wanted.intersection(closure(revisions, [r.id]))}


@given(checkpoints(), st.data())
def test_down_on_a_branch(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(graph.labels)
    label = data.draw(st.sampled_from(sorted(graph.labels)))
    applied = [entry.revision for entry in record.lineage]
    there = [rev for rev in applied if rev in graph.branches[label]]
    everything = resting_on(revisions, set(there)) & set(applied)
    assert set(ids(plan_downgrade(graph, record, parse(f"{label}@base")))) == everything
    count = data.draw(st.integers(1, 5))
    if count > len(there):
        try:
            plan_downgrade(graph, record, parse(f"{label}@-{count}"))
        except NotThatMany:
            return
        raise AssertionError("too many")
    plan = plan_downgrade(graph, record, parse(f"{label}@-{count}"))
    undone = resting_on(revisions, set(there[-count:])) & set(applied)
    assert ids(plan) == [rev for rev in reversed(applied) if rev in undone]
    assert set(plan.end) == tips(revisions, set(applied) - undone)


@given(checkpoints(), st.data())
def test_up_on_a_branch(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(graph.labels)
    label = data.draw(st.sampled_from(sorted(graph.labels)))
    heads = tips(revisions, {r.id for r in revisions}) & graph.branches[label]
    applied = {entry.revision for entry in record.lineage}
    count = data.draw(st.integers(1, 4))
    try:
        plan, some = (plan_upgrade(graph, record, parse(f"{label}@{text}")) for text in ("head", f"+{count}"))
    except SeveralHeads:
        assert len(heads) > 1
        return
    except NotThatMany:
        missing = closure(revisions, heads) - applied
        assert count > len(missing)
        return
    assert len(heads) <= 1
    assert set(ids(plan)) == closure(revisions, heads) - applied
    assert ids(some) == ids(plan)[:count]


@given(checkpoints(), st.data())
def test_steps_from_a_revision_on(drawn: Drawn, data: st.DataObject) -> None:
    """`REV+N` is where a checkpoint is that went to REV, and N steps further; `REV-N`, N steps back."""
    revisions, graph, _ = drawn
    rev = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    count = data.draw(st.integers(1, 4))
    at = plan_upgrade(graph, Record(), parse(rev))
    there = recorded(graph, ids(at))
    back = ids(at)[: len(at.steps) - count] if count <= len(at.steps) else None
    try:
        assert resolving.state(graph, parse(f"{rev}-{count}")) == set(back or ())
    except NotThatMany:
        assert back is None
    ahead = [head for head in graph.heads if set(ids(at)) <= closure(revisions, [head])]
    try:
        found = resolving.state(graph, parse(f"{rev}+{count}"))
    except (SeveralHeads, NotThatMany) as error:
        assert len(ahead) != 1 or isinstance(error, NotThatMany)
        return
    (head,) = ahead
    assert found == {*ids(at), *ids(plan_upgrade(graph, there, parse(head)))[:count]}


@given(checkpoints(), st.data())
def test_down_from_a_revision_on(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(record.lineage)
    applied = [entry.revision for entry in record.lineage]
    rev = data.draw(st.sampled_from(applied))
    above = [one for one in applied if one != rev and rev in closure(revisions, [one])]
    below = [one for one in applied if one in closure(revisions, [rev])]
    up, down = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    if up <= len(above):
        undone = resting_on(revisions, set(above[up:])) & set(applied) if above[up:] else set()
        assert set(ids(plan_downgrade(graph, record, parse(f"{rev}+{up}")))) == undone
    if down <= len(below):
        undone = resting_on(revisions, {*above, *below[-down:]}) & set(applied)
        assert set(ids(plan_downgrade(graph, record, parse(f"{rev}-{down}")))) == undone


@given(checkpoints(), st.data())
def test_what_a_release_had(drawn: Drawn, data: st.DataObject) -> None:
    revisions, _, record = drawn
    noted = [
        replace(r, versions={"pkg": v} if (v := data.draw(st.sampled_from(["", "1.0", "1.1", "2.0"]))) else {})
        for r in revisions
    ]
    assume(any(r.versions for r in noted))
    graph = Graph(noted)
    late = resting_on(noted, {r.id for r in noted if r.versions.get("pkg", "") >= "1.1"})
    had = closure(noted, {r.id for r in noted if r.versions and r.id not in late})
    for text in ("pkg<1.1", "pkg==1.0", "pkg>=0.3,<1.1"):
        assert resolving.state(graph, parse(text), "pkg") == had
    applied = {entry.revision for entry in record.lineage}
    assert set(ids(plan_upgrade(graph, record, parse("pkg<1.1"), "pkg"))) == had - applied
    assert set(ids(plan_downgrade(graph, record, parse("pkg<1.1"), "pkg"))) == applied - had


@given(checkpoints(), st.data())
def test_a_stamp_keeps_what_has_nothing_to_do_with_it(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    rev = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    told = closure(revisions, [rev])
    kept = [head for head in record.heads if head not in told and rev not in closure(revisions, [head])]
    lineage = [revision.id for revision in plan_stamp(graph, record, [parse(rev)])]
    assert set(lineage) == told | closure(revisions, kept)
    check_recorded(graph, recorded(graph, lineage))
    assert {revision.id for revision in plan_stamp(graph, record, [parse(rev)], purge=True)} == told
    assert plan_stamp(graph, record, [Named("base")]) == []


def squashed(revisions: list[Revision], members: set[str]) -> list[Revision]:
    """Put one revision in the place of some, which hang together."""
    graph = Graph(revisions)
    parts = tuple(replace(graph[rev], labels=()) for rev in graph.order(members))
    outside = {"parents": (), "depends_on": (), "labels": ()}
    for name in outside:
        words = (word for rev in sorted(members) for word in getattr(graph[rev], name) if word not in members)
        outside[name] = tuple(dict.fromkeys(words))  # type: ignore[assignment]
    whole = Revision("S", reversible=True, replaces=parts, **outside)  # type: ignore[arg-type]
    return [*(r for r in revisions if r.id not in members), whole]


def stretches_of(revisions: list[Revision]) -> list[set[str]]:
    """All that lies between two revisions, where nothing else follows or needs what lies between."""
    found = []
    for last in revisions:
        below = closure(revisions, [last.id])
        for first in sorted(below - {last.id}):
            members = resting_on(revisions, {first}) & below
            outside = [r for r in revisions if r.id not in members]
            if not any(members.intersection(r.needs) - {last.id} for r in outside) and tips(revisions, members) == {
                last.id
            }:
                found.append(members)
    return found


@given(checkpoints(), st.data())
def test_squashed_revisions_lead_where_their_parts_did(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    stretches = stretches_of(revisions)
    assume(stretches)
    members = data.draw(st.sampled_from(stretches))
    scripts = squashed(revisions, members)
    assert faults(scripts) == []
    applied = [entry.revision for entry in record.lineage]
    seen = Graph(scripts).seen_from(applied)
    some = members.intersection(applied)
    assert ("S" in seen) == (not some)
    plan = plan_upgrade(seen, record, Named("heads"))
    before = plan_upgrade(graph, record, Named("heads"))
    whole = {rev for step in ids(plan) for rev in (members if step == "S" else {step})}
    assert whole == set(ids(before))
    after = recorded(seen, [*applied, *ids(plan)])
    check_recorded(seen, after)
    assert set(after.heads) == set(seen.heads)
    back = plan_downgrade(seen.seen_from([e.revision for e in after.lineage]), after, Relative(-max(len(plan.steps), 1))) if (
        plan.steps) else None  # fmt: skip
    if back is not None:
        assert set(back.end) == set(record.heads)


@given(checkpoints(), st.text(alphabet="abel0123@+-r<=", max_size=8))
def test_any_target_gives_a_plan_or_one_sentence(drawn: Drawn, text: str) -> None:
    _, graph, record = drawn
    for plan in (plan_upgrade, plan_downgrade):
        try:
            found = plan(graph, record, parse(text))
        except MigrateError as error:
            assert str(error)
        else:
            assert set(found.start) == set(record.heads)
