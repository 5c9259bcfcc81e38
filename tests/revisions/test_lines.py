"""Targets on the line of a branch, steps on a trunk, ranges, joins: on scripts and checkpoints, by the command line."""

from __future__ import annotations

import re

import pytest

from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from tests.support.branches import note, ran
from tests.support.project import Folder


@pytest.fixture
def forked(project: Folder) -> Folder:
    r"""
    a - b - c1 - d1      left is on c1
         \
          - c2 - d2      right is on c2
    """
    note(project, "a")
    note(project, "b", "a")
    for side, label in (("1", "left"), ("2", "right")):
        note(project, f"c{side}", "b", branch_labels=label)
        note(project, f"d{side}", f"c{side}")
    return project


def undone(project: Folder, target: str) -> list[str]:
    """Bring a checkpoint to all heads, and return what a downgrade takes back."""
    checkpoint = project.copy()
    project.ok("upgrade", "heads", checkpoint)
    found = project.ok("downgrade", target, checkpoint, "--dry-run", "--json").lines[0]
    return sorted(step["revision"] for step in found["steps"])


def shown(project: Folder, stretch: str) -> list[str]:
    return sorted(entry["revision"] for entry in project.ok("history", f"-r{stretch}", "--json").lines[0])


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("left@b", "c1 d1"),
        ("d1@b", "c1 d1"),
        ("c2@b", "c2 d2"),
        ("left@-2", "c1 d1"),
        ("left@base+2", "c1 d1"),
        ("right@base+3", "d2"),
        ("right@a+1", "c2 d2"),
        ("left@head-1", "d1"),
        ("left@a", "b c1 c2 d1 d2"),
        ("left@base", "a b c1 c2 d1 d2"),
        ("b", "c1 c2 d1 d2"),
    ],
)
def test_one_branch_goes_down_to_the_fork_and_the_trunk_with_all(forked: Folder, target: str, steps: str) -> None:
    assert undone(forked, target) == steps.split()


def test_a_count_on_a_branch_that_is_not_there_takes_nothing_of_the_others(forked: Folder) -> None:
    checkpoint = forked.copy()
    forked.ok("upgrade", "right@head", checkpoint)
    refused = forked.run("downgrade", "left@-1", checkpoint)
    assert (refused.code, refused.err.endswith("left@-1 goes too far: no revision is left in that direction\n")) == (
        1,
        True,
    )
    assert "nothing to do" in forked.ok("downgrade", "left@b", checkpoint).out


def test_steps_are_counted_as_long_as_there_is_one_way(forked: Folder) -> None:
    for target, steps in (("+1", "a"), ("+2", "ab"), ("base+1", "a"), ("a+1", "ab"), ("left@+3", "abc1")):
        assert ran(forked, forked.copy(to=f"{target}.ckpt"), "upgrade", target) == steps
    checkpoint = forked.copy()
    for target, ways in (("+3", ("left@+3", "right@+3")), ("b+1", ("left@b+1", "right@b+1"))):
        refused = forked.run("upgrade", target, checkpoint)
        assert refused.code == 1
        assert tuple(re.findall(r"`(\w+@[^`]*)`", refused.err)) == ways
        for way, steps in zip(ways, ("abc1", "abc2"), strict=True):
            assert ran(forked, forked.copy(to=f"{way}.ckpt"), "upgrade", way) == steps


def test_a_step_that_another_way_would_take_later_is_no_shared_one(project: Folder) -> None:
    r"""
    a - b - d       d joins b and c
     \     /
      - c - - f     both heads need c, but the way to d may begin with b
    """
    for rev, parents in (("a", None), ("b", "a"), ("c", "a"), ("d", ("b", "c")), ("f", "c")):
        note(project, rev, parents)
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "+1") == "a"
    refused = project.run("upgrade", "+1", checkpoint)
    assert (refused.code, "there are 2 heads: d, f; write `d@+1`, `f@+1` (" in refused.err) == (1, True)


def test_what_only_depends_on_what_stays_stays(project: Folder) -> None:
    r"""
    a1 - a2      b1, a root of its own, depends on a1
    """
    note(project, "a1")
    note(project, "a2", "a1")
    note(project, "b1", depends_on="a1")
    assert undone(project, "a1") == ["a2"]
    assert undone(project, "a1-1") == ["a1", "a2", "b1"]
    checkpoint = project.copy()
    project.ok("upgrade", "b1", checkpoint)
    assert "nothing to do" in project.ok("downgrade", "a1", checkpoint).out


def test_ranges_begin_at_what_they_name(project: Folder) -> None:
    r"""
    a2 - c2 - d2       c2 depends on a3
    a3 - b3            side is on a3
    """
    note(project, "a2")
    note(project, "a3", branch_labels="side")
    note(project, "b3", "a3")
    note(project, "c2", "a2", depends_on="a3")
    note(project, "d2", "c2")
    for stretch, revisions in (
        ("d2:heads", "d2"),
        ("c2:d2", "c2 d2"),
        ("a3:", "a3 b3 c2 d2"),
        ("side@a3:heads", "a3 b3"),
        ("side@base:heads", "a3 b3"),
        ("side@base:", "a3 b3"),
        ("side@base:+1", "a3"),
        ("d2-1:", "c2 d2"),
        ("heads:", "b3 d2"),
        ("-1:d2", "c2 d2"),
    ):
        assert shown(project, stretch) == revisions.split(), stretch
    refused = project.run("history", "-rd2:b3")
    assert (refused.code, "holds no revision" in refused.err) == (2, True)
    checkpoint = project.copy()
    project.ok("upgrade", "d2", checkpoint)
    found = project.ok("history", checkpoint, "-rcurrent:", "--json").lines[0]
    assert [entry["revision"] for entry in found] == ["d2", "b3", "a3"]
    assert project.ok("show", "d2-1", "--json").lines[0]["revision"] == "c2"
    refused = project.run("squash", "side@base:d2", "too much")
    assert (refused.code, "holds 1 revision; squash needs two or more" in refused.err) == (2, True)


def test_a_branch_narrows_the_start_of_an_id(project: Folder) -> None:
    """a1 - 3f01 is x, b1 - 3f02 is y"""
    for root, rev, label in (("a1", "3f01", "x"), ("b1", "3f02", "y")):
        note(project, root, branch_labels=label)
        note(project, rev, root)
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "x@3f") == "a13f01"
    assert project.ok("downgrade", "x@3f-1", checkpoint, "--json").lines[0]["to"] == ["a1"]
    assert "'3f' is ambiguous" in project.run("upgrade", "3f", checkpoint).err
    refused = project.run("upgrade", "x@b1", checkpoint)
    says = "b1 is neither on the branch x nor below it; write b1 alone, or x@heads\n"
    assert (refused.code, refused.err.endswith(says)) == (1, True)
    assert ran(project, project.copy(to="b1.ckpt"), "upgrade", "b1") == "b1"
    assert ran(project, project.copy(to="x.ckpt"), "upgrade", "x@heads") == "a13f01"


def test_a_merge_may_join_what_is_no_head(project: Folder) -> None:
    r"""
    a - b - c
     \
      - d
    """
    for rev, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "a")):
        note(project, rev, parent)
    refused = project.run("merge", "b", "d", "joined")
    assert (refused.code, "but b is not one: c follows it; --splice joins it anyway" in refused.err) == (2, True)
    refused = project.run("merge", "a", "d", "joined", "--splice")
    says = "a already comes before d, so there is nothing to join; leave out a"
    assert (refused.code, says in refused.err) == (2, True)
    assert project.ok("merge", "b", "d", "joined", "--splice", "--rev-id", "m", "--json").lines[0]["parents"] == [
        "b",
        "d",
    ]
    assert [head["revision"] for head in project.ok("heads", "--json").lines[0]] == ["c", "m"]


def test_what_is_proposed_where_one_revision_is_wanted_names_one(forked: Folder) -> None:
    refused = forked.run("show", "head")
    ways = re.findall(r"`(\w+@head)`", refused.err)
    assert ways == ["left@head", "right@head"]
    assert "for all of them" not in refused.err
    assert [forked.ok("show", way, "--json").lines[0]["revision"] for way in ways] == ["d1", "d2"]
    note(forked, "x")
    refused = forked.run("rebase", "x")
    assert (refused.code, "2 other heads: d1, d2; choose one with --onto" in refused.err) == (2, True)
    forked.ok("rebase", "x", "--onto", "d1")
    assert [head["revision"] for head in forked.ok("heads", "--json").lines[0]] == ["d2", "x"]


def test_the_merge_that_is_proposed_joins_the_heads_in_question_only(forked: Folder) -> None:
    note(forked, "x")
    refused = forked.run("upgrade", "a@head", forked.copy())
    (command,) = re.findall(r"`ckpt-migrate (merge [^`]*)NAME`", refused.err)
    assert forked.ok(*command.split(), "joined", "--json").lines[0]["parents"] == ["d1", "d2"]


def test_many_labels_on_a_line_cost_no_more_than_their_number() -> None:
    """Every label belongs to every revision of a line; where they are listed, each is written once."""
    revisions = [
        Revision(f"r{place:04}", (f"r{place - 1:04}",) if place else (), labels=(f"v{place}",)) for place in range(400)
    ]
    graph = Graph(revisions)
    assert set(graph.branch_sizes.values()) == {400}
    assert graph.labels_of("r0000") == graph.labels_of("r0399") == tuple(sorted(graph.labels))


def test_each_label_is_listed_once(project: Folder) -> None:
    """a - b - c, each with a label"""
    for rev, parent in (("a", None), ("b", "a"), ("c", "b")):
        note(project, rev, parent, branch_labels=f"v{rev}")
    listed = project.ok("history", "--json").lines[0]
    assert [entry["labels"] for entry in listed] == [["vc"], ["vb"], ["va"]]
    assert project.ok("heads", "--json").lines[0][0]["labels"] == ["va", "vb", "vc"]
    for words in (("history", "-v"), ("history", "--graph"), ("graph", "--format", "dot")):
        assert all(project.ok(*words).out.count(f"v{rev}") == 1 for rev in "abc"), words
    assert project.ok("branches").out.splitlines() == [f"v{rev}: 3 revisions, head c" for rev in "abc"]
