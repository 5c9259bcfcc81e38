"""Alembic as an oracle, where it is a sound one: no parent of a merge below another, and no heads beside dependencies.

Sets of steps, and heads after each of them, are compared; of the order only that it is possible. Steps are counted on
trees: elsewhere, a hop in the graph may take several steps, and Alembic counts hops.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import MigrateError, NotApplied, NotOnBranch
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import resolve
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.planner import plan_downgrade, plan_upgrade
from anemoi_ckpt_migrate.revisions.targets import Named, parse, parse_range
from anemoi_ckpt_migrate.revisions.validate import faults
from tests.support.graphs import closure, histories, recorded, tips

pytest.importorskip("alembic")
from alembic.runtime.migration import HeadMaintainer, RevisionStep
from alembic.script.revision import Revision as TheirRevision
from alembic.script.revision import RevisionError, RevisionMap

MANY = settings(max_examples=int(os.environ.get("GRAPHS", "100")))


@st.composite
def antichains(draw: st.DrawFn, labels: bool = False, depends: bool = False) -> list[Revision]:
    """Draw histories in which no parent of a merge lies below another: Alembic takes nothing else for granted."""
    drawn = draw(histories(barriers=False, labels=labels, depends=depends))
    found: list[Revision] = []
    for revision in drawn:
        parents = [p for p in revision.parents if not any(p in closure(found, [q]) - {q} for q in revision.parents)]
        found.append(Revision(revision.id, tuple(parents), "", revision.depends_on, revision.labels, reversible=True))
    return found


ANTICHAINS = antichains()


@st.composite
def trees(draw: st.DrawFn) -> list[Revision]:
    """Draw histories without merges and dependencies, with labels."""
    drawn = draw(histories(barriers=False, labels=True, depends=False))
    return [Revision(revision.id, revision.parents[:1], "", (), revision.labels, reversible=True) for revision in drawn]


def theirs(revisions: list[Revision]) -> RevisionMap:
    """Make Alembic's map of the same revisions."""

    def generate() -> list[TheirRevision]:
        made = []
        for revision in revisions:
            needed, labels = revision.depends_on or None, revision.labels or None
            one = TheirRevision(revision.id, revision.parents or None, dependencies=needed, branch_labels=labels)
            one.module = SimpleNamespace(upgrade=None, downgrade=None)  # type: ignore[attr-defined]
            made.append(one)
        return made

    return RevisionMap(generate)


def heads_after(their_map: RevisionMap, heads: set[str], steps: list[str], up: bool) -> set[str]:
    """Let Alembic keep the heads while steps run."""
    maintainer = HeadMaintainer(mock.Mock(as_sql=True), set(heads))
    for rev in steps:
        maintainer.update_to_step(RevisionStep(their_map, their_map.get_revision(rev), up))
    return set(maintainer.heads)


@st.composite
def checkpoints(
    draw: st.DrawFn, histories: st.SearchStrategy[list[Revision]] = ANTICHAINS
) -> tuple[list[Revision], Graph, Record]:
    """Draw a history, and how far a checkpoint has come."""
    revisions = draw(histories)
    assume(revisions)
    wanted = draw(st.sets(st.sampled_from(sorted(revision.id for revision in revisions))))
    graph = Graph(revisions)
    return revisions, graph, recorded(graph, graph.order(closure(revisions, wanted)))


@MANY
@given(checkpoints(), st.data())
def test_the_same_steps_up_and_the_same_heads(drawn: tuple[list[Revision], Graph, Record], data: st.DataObject) -> None:
    revisions, graph, record = drawn
    target = data.draw(st.sampled_from(["heads", *sorted(revision.id for revision in revisions)]))
    their_map = theirs(revisions)
    plan = plan_upgrade(graph, record, parse(target))
    ours = [step.revision for step in plan.steps]
    found = their_map.iterate_revisions(target, record.heads or "base", implicit_base=True)
    their_steps = [revision.revision for revision in found][::-1]
    assert set(ours) == set(their_steps)
    for order in (ours, their_steps):
        assert heads_after(their_map, set(record.heads), order, True) == set(plan.end)


@MANY
@given(checkpoints(), st.data())
def test_the_same_steps_down_and_the_same_heads(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    applied = sorted(entry.revision for entry in record.lineage)
    assume(applied)
    target = data.draw(st.sampled_from(["base", *applied]))
    their_map = theirs(revisions)
    plan = plan_downgrade(graph, record, parse(target))
    ours = [step.revision for step in plan.steps]
    found = their_map.iterate_revisions(record.heads, target, select_for_downgrade=True)
    their_steps = [revision.revision for revision in found]
    assert set(ours) == set(their_steps)
    for order in (ours, their_steps):
        assert heads_after(their_map, set(record.heads), order, False) == set(plan.end)


@MANY
@given(checkpoints(), st.data())
def test_up_and_down_again_with_their_heads(drawn: tuple[list[Revision], Graph, Record], data: st.DataObject) -> None:
    revisions, graph, record = drawn
    plan = plan_upgrade(graph, record, Named("heads"))
    assume(plan.steps)
    above = recorded(graph, [entry.revision for entry in record.lineage] + [step.revision for step in plan.steps])
    count = data.draw(st.integers(1, len(plan.steps)))
    back = plan_downgrade(graph, above, parse(f"-{count}"))
    undone = [step.revision for step in back.steps]
    assert undone == [step.revision for step in plan.steps][::-1][:count]
    assert heads_after(theirs(revisions), set(above.heads), undone, False) == set(back.end)


def their_heads(record: Record) -> list[str]:
    """Return the heads without those that another one depends on: Alembic does not store these."""
    needed = {rev for entry in record.lineage for rev in entry.depends_on}
    return [head for head in record.heads if head not in needed]


def steps_up(revisions: list[Revision], record: Record, target: str) -> set[str] | None:
    """Return what Alembic would run; None where it does not say."""
    try:
        found = theirs(revisions).iterate_revisions(target, their_heads(record) or "base", implicit_base=True)
        return {revision.revision for revision in found}
    except (RevisionError, AssertionError):
        return None


def steps_down(revisions: list[Revision], record: Record, target: str) -> set[str] | None:
    """Return what Alembic would undo; None where it does not say."""
    try:
        found = theirs(revisions).iterate_revisions(their_heads(record), target, select_for_downgrade=True)
        return {revision.revision for revision in found}
    except (RevisionError, AssertionError):
        return None


@st.composite
def places(draw: st.DrawFn, revisions: list[Revision], words: tuple[str, ...]) -> str:
    """Draw a target: a revision or a word, on a branch or not, with steps or not."""
    ids = sorted(revision.id for revision in revisions)
    branches = sorted({*ids, *(label for revision in revisions for label in revision.labels)})
    branch = draw(st.sampled_from(["", *(f"{branch}@" for branch in branches)]))
    place = draw(st.sampled_from(["", "base", *words, *ids]))
    counts = [1, 2, 3, 4] + [-1, -2, -3, -4] * (place != "base")  # below base, they begin again at the heads
    steps = draw(st.sampled_from([0, *counts] if place else counts))
    return f"{branch}{place}{steps:+}" if steps and place != "heads" else f"{branch}{place or 'head'}"


@MANY
@given(checkpoints(trees()), st.data())
def test_steps_and_branches_mean_the_same_on_the_way_up(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    target = data.draw(places(revisions, ("head", "heads")))
    expected = steps_up(revisions, record, target)
    if expected is not None:
        assert {step.revision for step in plan_upgrade(graph, record, parse(target)).steps} == expected


@MANY
@given(checkpoints(trees()), st.data())
def test_steps_and_branches_mean_the_same_on_the_way_down(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    target = data.draw(places(revisions, ()))
    assume(target[0] != "-" or len(record.heads) == 1)  # else they warn that it is ambiguous, and pick one
    expected = steps_down(revisions, record, target)
    if expected is None:
        return
    try:
        undone = {step.revision for step in plan_downgrade(graph, record, parse(target)).steps}
    except NotOnBranch as refused:  # they go down to it all the same, on the way up they refuse it too
        assert steps_up(revisions, record, target) is None
        assert refused.revision not in graph.line(refused.branch)
    except NotApplied as refused:  # they count from it all the same
        assert refused.revision not in {entry.revision for entry in record.lineage}
    else:
        # Without a branch, they go down from REV-N with all that forks off there; ours go down from REV.
        assert undone <= expected if "-" in target and "@" not in target else undone == expected


@MANY
@given(checkpoints(antichains(labels=True, depends=True)), st.data())
def test_dependencies_come_up_and_stay_as_theirs(
    drawn: tuple[list[Revision], Graph, Record], data: st.DataObject
) -> None:
    revisions, graph, record = drawn
    target = data.draw(st.sampled_from(["heads", *sorted(revision.id for revision in revisions)]))
    plan = plan_upgrade(graph, record, parse(target))
    assert {step.revision for step in plan.steps} == steps_up(revisions, record, target)
    applied = sorted(entry.revision for entry in record.lineage)
    assume(applied)
    back = data.draw(st.sampled_from(["base", *applied]))
    undone = {step.revision for step in plan_downgrade(graph, record, parse(back)).steps}
    expected = steps_down(revisions, record, back)
    assert expected is None or undone == expected  # they do not go down to what another head depends on


@MANY
@given(antichains(), st.data())
def test_ranges_hold_the_same(revisions: list[Revision], data: st.DataObject) -> None:
    assume(revisions)
    graph = Graph(revisions)
    first, last = (data.draw(st.sampled_from(sorted(revision.id for revision in revisions))) for _ in "ab")
    check_range(revisions, graph, first, last)


@MANY
@given(trees(), st.data())
def test_ranges_on_a_branch_hold_the_same(revisions: list[Revision], data: st.DataObject) -> None:
    graph = Graph(revisions)
    assume(graph.labels)
    label = data.draw(st.sampled_from(sorted(graph.labels)))
    check_range(
        revisions, graph, f"{label}@{data.draw(st.sampled_from(['base', *sorted(graph.line(label))]))}", "heads"
    )


def check_range(revisions: list[Revision], graph: Graph, first: str, last: str) -> None:
    try:
        walked = list(theirs(revisions).iterate_revisions(last, first, inclusive=True))
    except RevisionError:
        return
    wanted = parse_range(f"{first}:{last}")
    start, end = resolve.resolve(graph, wanted.start), resolve.state(graph, wanted.end)
    found = resolve.between(graph, start, end, resolve.line_of(graph, wanted.start))
    assert set(found) == {revision.revision for revision in walked if revision}


@MANY
@given(trees(), st.data())
def test_the_start_of_an_id_means_the_same_on_a_branch(revisions: list[Revision], data: st.DataObject) -> None:
    """Ids begin with one of two words here; Alembic wants four letters."""
    assume(revisions)
    long = {revision.id: ("left", "right")[int(revision.id[1:]) % 2] + revision.id for revision in revisions}
    renamed = [
        Revision(long[revision.id], tuple(long[parent] for parent in revision.parents), "", (), revision.labels)
        for revision in revisions
    ]
    graph, their_map = Graph(renamed), theirs(renamed)
    branch = data.draw(st.sampled_from(sorted([*graph.labels, *long.values()])))
    rev = data.draw(st.sampled_from(sorted(long.values())))
    text = rev[: data.draw(st.integers(4, len(rev)))]
    try:
        expected = their_map.get_revision(f"{branch}@{text}")
    except RevisionError:
        with pytest.raises(MigrateError):
            resolve.state(graph, parse(f"{branch}@{text}"))
        return
    assert expected is not None
    assert resolve.resolve(graph, parse(f"{branch}@{text}")) == (expected.revision,)


@MANY
@given(antichains(labels=True))
def test_the_same_heads_and_bases_and_the_labels_are_theirs(revisions: list[Revision]) -> None:
    graph, their_map = Graph(revisions), theirs(revisions)
    assert set(graph.heads) == set(their_map.heads)
    assert {revision.id for revision in graph if not revision.parents} == set(their_map.bases)
    for label, owner in graph.labels.items():
        followers = {r.id for r in revisions if owner in closure(revisions, [r.id])}
        # Downwards, theirs depends on the order of a set where the branch forks; upwards it is defined.
        their_members = {rev.revision for rev in their_map._revision_map.values() if rev and label in rev.branch_labels}
        members = {rev for rev in their_map._revision_map if rev in graph and label in graph.labels_of(rev)}
        assert members == graph.branch(label)
        assert followers <= members & their_members
        if len(tips(revisions, followers)) == 1 and not any(
            len(revision.parents) > 1 for revision in revisions if revision.id in followers
        ):
            assert members == their_members


@MANY
@given(antichains(), st.data())
def test_cycles_that_they_see_we_see_and_more(revisions: list[Revision], data: st.DataObject) -> None:
    assume(revisions)
    victim = data.draw(st.sampled_from(revisions))
    later = sorted(r.id for r in revisions if victim.id in closure(revisions, [r.id]))
    broken = Revision(victim.id, (*victim.parents, data.draw(st.sampled_from(later))))
    cyclic = [broken if revision is victim else revision for revision in revisions]
    assert len(faults(cyclic)) == 1
    try:
        theirs(cyclic).heads  # noqa: B018  (they look when first asked)
    except (RevisionError, RecursionError):
        return


def test_what_alembic_is_unsure_of(recwarn: Any) -> None:
    r"""
    a - b
     \
      - c      applied: a, c, b
    """
    revisions = [Revision("a", reversible=True), *(Revision(rev, ("a",), reversible=True) for rev in "bc")]
    graph = Graph(revisions)
    record = recorded(graph, ["a", "c", "b"])
    assert [step.revision for step in plan_downgrade(graph, record, parse("-1")).steps] == ["b"]
    list(theirs(revisions).iterate_revisions(("b", "c"), "-1", select_for_downgrade=True))
    assert any("ambiguous" in str(warning.message) for warning in recwarn)
    with pytest.raises(MigrateError, match="there are 2 heads: b, c"):
        plan_upgrade(graph, Record(), parse("head"))
