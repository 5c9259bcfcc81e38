"""Plans along branches, from revisions on, of releases, and through squashed revisions, against plain set algebra."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import MigrateError, NotApplied, NotOnBranch, NotThatMany, SeveralHeads
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import resolve
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import Plan, check_recorded, plan_downgrade, plan_stamp, plan_upgrade
from anemoi_ckpt_migrate.revisions.targets import Named, Relative, parse
from anemoi_ckpt_migrate.revisions.validate import faults
from tests.support.graphs import closure, histories, recorded, tips

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


def parental(revisions: list[Revision]) -> list[Revision]:
    """The same without dependencies."""
    return [replace(revision, depends_on=()) for revision in revisions]


def line_of(revisions: list[Revision], rev: str) -> set[str]:
    """What leads to a revision, or follows it."""
    alone = parental(revisions)
    return closure(alone, [rev]) | resting_on(alone, {rev})


@given(checkpoints(), st.data())
def test_down_to_a_revision_on_the_line_of_a_branch(drawn: Drawn, data: st.DataObject) -> None:
    """Undone is what follows it there, and what rests on that; what only depends on it stays."""
    revisions, graph, record = drawn
    applied = {entry.revision for entry in record.lineage}
    rev = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    names = {revision.id: revision.id for revision in revisions} | dict(graph.labels)
    branch = data.draw(st.sampled_from(["", *sorted(names)]))
    line = line_of(revisions, names[branch]) if branch else set(graph.closure(graph.heads))
    try:
        plan = plan_downgrade(graph, record, parse(f"{branch}@{rev}" if branch else rev))
    except NotOnBranch:
        assert rev not in line
        return
    except NotApplied:
        assert rev not in applied
        return
    following = {r.id for r in revisions if rev in r.parents and r.id in line}
    assert set(ids(plan)) == resting_on(revisions, following) & applied
    assert rev in line.intersection(tips(revisions, set(plan.end)) | applied)


@given(checkpoints(), st.data())
def test_steps_before_ways_part_need_no_head(drawn: Drawn, data: st.DataObject) -> None:
    """`+N` is refused if and only if there is something that leads to one head, and could come before the last step."""
    revisions, graph, record = drawn
    applied = {entry.revision for entry in record.lineage}
    at = tips(revisions, applied)
    ahead = [h for h in graph.heads if h not in applied and (not at or at & closure(revisions, [h]))]
    count = data.draw(st.integers(1, 4))
    try:
        steps = ids(plan_upgrade(graph, record, Relative(count)))
    except SeveralHeads as refused:
        assert list(refused.heads) == ahead
        steps = []
    except NotThatMany:
        assert len(ahead) < 2
        return
    shared = set.intersection(*(closure(revisions, [head]) for head in ahead)) - applied
    apart = closure(parental(revisions), ahead) - shared - applied
    sure = [rev for rev in graph.order(shared) if apart <= resting_on(revisions, {rev})]
    assert steps == (sure[:count] if count <= len(sure) else [])


@given(checkpoints(), st.data())
def test_ranges_begin_where_they_say(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, _ = drawn
    first = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    last = data.draw(st.sampled_from(["heads", *sorted(revision.id for revision in revisions)]))
    end = {r.id for r in revisions} if last == "heads" else closure(revisions, [last])
    start = resolve.resolve(graph, parse(first))
    assert set(resolve.between(graph, start, end)) == resting_on(revisions, {first}) & end
    label = data.draw(st.sampled_from(sorted({*graph.labels, first})))
    line = line_of(revisions, graph.labels.get(label, label))
    begin = parse(f"{label}@base")
    found = resolve.between(graph, resolve.resolve(graph, begin), end, resolve.line_of(graph, begin))
    assert set(found) == line & end
    several = resolve.resolve(graph, parse("heads"))
    assert set(resolve.between(graph, several, None)) == set(graph.heads)


@given(checkpoints(), st.data())
def test_down_on_a_branch(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(graph.labels)
    label = data.draw(st.sampled_from(sorted(graph.labels)))
    applied = [entry.revision for entry in record.lineage]
    there = [rev for rev in applied if rev in line_of(revisions, graph.labels[label])]
    everything = resting_on(revisions, set(there)) & set(applied)
    assert set(ids(plan_downgrade(graph, record, parse(f"{label}@base")))) == everything
    count = data.draw(st.integers(1, 5))
    if count > len(there) or not tips(revisions, set(applied)).intersection(there):
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
    heads = tips(revisions, {r.id for r in revisions}) & graph.branch(label)
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
        assert resolve.state(graph, parse(f"{rev}-{count}")) == set(back or ())
    except NotThatMany:
        assert back is None
    ahead = [head for head in graph.heads if set(ids(at)) <= closure(revisions, [head])]
    try:
        found = resolve.state(graph, parse(f"{rev}+{count}"))
    except (SeveralHeads, NotThatMany) as error:
        assert len(ahead) != 1 or isinstance(error, NotThatMany)
        return
    ways = [found <= closure(revisions, [head]) for head in ahead]
    assert all(ways) and len(found) == len(at.steps) + count
    if len(ahead) == 1:
        assert found == {*ids(at), *ids(plan_upgrade(graph, there, parse(ahead[0])))[:count]}


@given(checkpoints(), st.data())
def test_down_from_a_revision_on(drawn: Drawn, data: st.DataObject) -> None:
    revisions, graph, record = drawn
    assume(record.lineage)
    applied = [entry.revision for entry in record.lineage]
    rev = data.draw(st.sampled_from(applied))
    following = {r.id for r in revisions if rev in r.parents}
    above = [one for one in applied if following & closure(revisions, [one])]
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
        assert resolve.state(graph, parse(text), "pkg") == had
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
