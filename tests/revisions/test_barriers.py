"""Nothing crosses a final revision, upwards or downwards."""

from __future__ import annotations

import pytest

from tests.support.project import Folder, digest


@pytest.fixture
def chain(project: Folder) -> Folder:
    """a - b - F - c - G - d        F, G: barriers, of versions 0.10 and 0.9 of pkg"""
    project.script("a", None, version="0.8.0")
    project.script("b", "a", version="0.8.1")
    project.script("F", "b", final=True, version="0.10.0", name="new attention")
    project.script("c", "F", version="0.10.1")
    project.script("G", "c", final=True, version="0.9", name="new graph")
    project.script("d", "G", version="0.11.0")
    return project


def test_an_upgrade_across_is_refused_and_says_how_far_it_can_go(chain: Folder) -> None:
    checkpoint = chain.copy()
    before = digest(checkpoint)
    for target in ("head", "c", "F", "+3"):
        ran = chain.run("upgrade", target, checkpoint)
        assert ran.code == 3
        assert "barrier F (new attention) is in the way" in ran.err
        assert "the checkpoint can be upgraded as far as b (`upgrade barrier`)" in ran.err
    ran = chain.run("upgrade", "head", checkpoint)
    # Compared as versions: 0.9 comes before 0.10.0.
    assert "pkg 0.9 is the first version that can no longer use this checkpoint" in ran.err
    assert "pkg 0.10.0 is the first" in chain.run("upgrade", "c", checkpoint).err
    assert digest(checkpoint) == before
    assert chain.run("upgrade", "head", checkpoint, "--dry-run").code == 3
    (line,) = chain.run("upgrade", "head", checkpoint, "--json").lines
    assert line["error"]["type"] == "BarrierInTheWay"


def test_barrier_as_a_target_goes_as_far_as_it_can(chain: Folder) -> None:
    checkpoint = chain.copy()
    assert chain.ok("upgrade", "barrier", checkpoint, "--json").lines[0]["to"] == ["b"]
    assert "already at b" in chain.ok("upgrade", "barrier", checkpoint).out
    assert chain.ok("downgrade", "barrier", checkpoint, "--json").lines[0]["to"] == []


def test_a_checkpoint_of_after_a_barrier_never_goes_below(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("stamp", "c", checkpoint)
    before = digest(checkpoint)
    for target in ("base", "b", "a", "-2", "-99"):
        ran = chain.run("downgrade", target, checkpoint)
        assert ran.code == 3
        assert "barrier F (new attention) is in the way: the checkpoint can be downgraded as far as F" in ran.err
        assert "pkg before 0.10.0 cannot use it" in ran.err
    assert digest(checkpoint) == before
    assert chain.ok("downgrade", "barrier", checkpoint, "--json").lines[0]["to"] == ["F"]
    assert chain.ok("upgrade", "+1", checkpoint, "--json").lines[0]["to"] == ["c"]
    assert chain.run("upgrade", "head", checkpoint).code == 3


def test_lineage_is_kept_down_to_the_barrier(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("stamp", "d", checkpoint)
    history = chain.ok("history", checkpoint, "--json").lines[0]
    assert [(entry["revision"], entry["applied"]) for entry in history] == [(rev, True) for rev in "dGcFba"]
    chain.ok("downgrade", "barrier", checkpoint)
    assert chain.ok("current", checkpoint, "--json").lines[0]["heads"][0] == {
        "revision": "G",
        "name": "new graph",
        "labels": [],
        "final": True,
    }


def test_a_barrier_beside_the_way_is_not_in_the_way(project: Folder) -> None:
    r"""
    a - b - c
     \
      - F        a barrier on the other branch
    """
    project.script("a", None)
    project.script("b", "a")
    project.script("c", "b")
    project.script("F", "a", final=True)
    checkpoint = project.copy()
    assert project.ok("upgrade", "c", checkpoint, "--json").lines[0]["to"] == ["c"]
    project.ok("downgrade", "base", checkpoint)
    assert project.ok("upgrade", "barrier", checkpoint, "--json").lines[0]["to"] == ["c"]


def test_revision_makes_a_barrier(project: Folder) -> None:
    project.script("a", None)
    made = project.path / project.ok("revision", "the end of an era", "--final").out.split()[-1]
    assert "def " not in made.read_text()
    assert project.ok("heads", "--json").lines[0][0]["final"] is True
    assert project.run("upgrade", "head", project.copy()).code == 3
