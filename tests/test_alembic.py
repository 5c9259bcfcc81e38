"""Alembic as an oracle, where it is a sound one: no dependencies, and no parent of a merge below another.

Sets of steps, and heads after each of them, are compared; of the order only that it is possible.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import MigrateError
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.planner import plan_downgrade, plan_upgrade
from anemoi_ckpt_migrate.record import Record
from anemoi_ckpt_migrate.soundness import faults
from anemoi_ckpt_migrate.targets import Named, parse
from tests.graphs import closure, histories, recorded, tips

pytest.importorskip("alembic")
from alembic.runtime.migration import HeadMaintainer, RevisionStep
from alembic.script.revision import Revision as TheirRevision
from alembic.script.revision import RevisionError, RevisionMap

MANY = settings(max_examples=int(os.environ.get("GRAPHS", "1000")))


@st.composite
def antichains(draw: st.DrawFn, labels: bool = False) -> list[Revision]:
    """Draw histories in which no parent of a merge lies below another: Alembic takes nothing else for granted."""
    drawn = draw(histories(barriers=False, labels=labels, depends=False))
    found: list[Revision] = []
    for revision in drawn:
        parents = [p for p in revision.parents if not any(p in closure(found, [q]) - {q} for q in revision.parents)]
        found.append(Revision(revision.id, tuple(parents), labels=revision.labels, reversible=True))
    return found


def theirs(revisions: list[Revision]) -> RevisionMap:
    """Make Alembic's map of the same revisions."""

    def generate() -> list[TheirRevision]:
        made = []
        for revision in revisions:
            one = TheirRevision(revision.id, revision.parents or None, branch_labels=revision.labels or None)
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
def checkpoints(draw: st.DrawFn, labels: bool = False) -> tuple[list[Revision], Graph, Record]:
    """Draw a history, and how far a checkpoint has come."""
    revisions = draw(antichains(labels=labels))
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
        assert followers <= graph.branches[label] & their_members
        if len(tips(revisions, followers)) == 1 and not any(
            len(revision.parents) > 1 for revision in revisions if revision.id in followers
        ):
            assert graph.branches[label] == their_members


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
