"""Branches, labels and dependencies, through the command line, on real files."""

from __future__ import annotations

import pytest

from tests.support.branches import note, ran
from tests.support.project import Folder, digest


@pytest.fixture
def branched(project: Folder) -> Folder:
    r"""
    a - b - c       main is on b
     \
      - d - e       side is on d
    x - y           graphs is on x; y needs c
    """
    note(project, "a")
    note(project, "b", "a", branch_labels="main")
    note(project, "c", "b")
    note(project, "d", "a", branch_labels=("side", "aside"))
    note(project, "e", "d")
    note(project, "x", branch_labels="graphs")
    note(project, "y", "x", depends_on="c")
    return project


def test_a_branch_goes_up_and_down_alone(branched: Folder) -> None:
    checkpoint = branched.copy()
    assert ran(branched, checkpoint, "upgrade", "side@head") == "ade"
    assert ran(branched, checkpoint, "upgrade", "main@+1") == "adeb"
    assert ran(branched, checkpoint, "downgrade", "side@-1") == "adb"
    assert ran(branched, checkpoint, "downgrade", "side@a") == "ab"
    assert ran(branched, checkpoint, "upgrade", "aside@d") == "abd"
    assert ran(branched, checkpoint, "downgrade", "main@a") == "ad"
    assert ran(branched, checkpoint, "downgrade", "e@base") == ""


def test_a_dependency_comes_up_first_and_takes_its_dependents_down(branched: Folder) -> None:
    checkpoint = branched.copy()
    assert ran(branched, checkpoint, "upgrade", "graphs@head") == "abcxy"
    current = branched.ok("current", checkpoint, "--json").lines[0]
    assert [head["revision"] for head in current["heads"]] == ["c", "y"]
    assert ran(branched, checkpoint, "downgrade", "b") == "abx"
    assert ran(branched, checkpoint, "upgrade", "y") == "abxcy"
    assert ran(branched, checkpoint, "downgrade", "graphs@-1") == "abxc"
    assert ran(branched, checkpoint, "downgrade", "main@-1") == "abx"


def test_a_label_may_be_depended_on(project: Folder) -> None:
    note(project, "a", branch_labels="lib")
    note(project, "b", depends_on="lib")
    checkpoint = project.copy()
    assert ran(project, checkpoint, "upgrade", "b") == "ab"
    assert ran(project, checkpoint, "downgrade", "lib@base") == ""


def test_steps_are_counted_as_they_run(branched: Folder) -> None:
    """Not as hops in the graph: y is one hop from x, and takes four more steps."""
    checkpoint = branched.copy()
    assert ran(branched, checkpoint, "upgrade", "graphs@+2") == "ab"
    assert ran(branched, checkpoint, "upgrade", "graphs@+2") == "abcx"
    assert ran(branched, checkpoint, "upgrade", "graphs@+1") == "abcxy"
    assert ran(branched, checkpoint, "downgrade", "-3") == "ab"
    refused = branched.run("upgrade", "graphs@+9", checkpoint)
    assert (refused.code, "+9 goes too far: only 3 revisions are left" in refused.err) == (1, True)


def test_relative_to_a_revision(branched: Folder) -> None:
    checkpoint = branched.copy()
    assert ran(branched, checkpoint, "upgrade", "side@head-1") == "ad"
    assert ran(branched, checkpoint, "upgrade", "d+1") == "ade"
    assert ran(branched, checkpoint, "downgrade", "a+1") == "ad"
    assert ran(branched, checkpoint, "downgrade", "d-1") == "a"
    for words in (["upgrade", "side@-1"], ["downgrade", "side@+1"]):
        refused = branched.run(*words, checkpoint)
        assert refused.code == 2
        assert "goes down: write" in refused.err or "goes up: write" in refused.err


def test_head_where_there_are_several_says_what_to_write(branched: Folder) -> None:
    checkpoint = branched.copy()
    before = digest(checkpoint)
    refused = branched.run("upgrade", "head", checkpoint)
    assert refused.code == 1
    assert (
        "there are 3 heads: c, e, y; write `main@head`, `aside@head`, `graphs@head`, or `heads` for all" in refused.err
    )
    refused = branched.run("upgrade", "mian@head", checkpoint)
    assert "no revision is called 'mian'; did you mean main?" in refused.err
    refused = branched.run("upgrade", "main@head-", checkpoint)
    assert refused.code == 2
    assert refused.err.endswith("    main@head-\n              ^\n")
    assert digest(checkpoint) == before


def test_names_are_targets_too(project: Folder) -> None:
    project.script("a1", None, name="Rename x to y")
    project.script("a2", "a1", name="drop the head")
    checkpoint = project.copy()
    assert project.ok("upgrade", "rename_x_to_y", checkpoint, "--json").lines[0]["to"] == ["a1"]
    assert project.ok("upgrade", "drop the head", checkpoint, "--json").lines[0]["to"] == ["a2"]
    assert project.ok("downgrade", "Rename x to y", checkpoint, "--json").lines[0]["to"] == ["a1"]


def test_released_versions_are_targets(project: Folder) -> None:
    for rev, parent, version in (("a", None, "0.9"), ("b", "a", "0.10.1"), ("c", "b", "0.11"), ("d", "c", "0.12")):
        project.script(rev, parent, version=version)
    checkpoint = project.copy()
    for target, at in (("pkg<0.11", "b"), ("pkg==0.11.5", "c"), ("pkg>=0.9", "d")):
        assert project.ok("upgrade", target, checkpoint, "--json").lines[0]["to"] == [at]
    assert project.ok("downgrade", "pkg~=0.10.0", checkpoint, "--json").lines[0]["to"] == ["b"]
    assert project.ok("downgrade", "pkg<0.1", checkpoint, "--json").lines[0]["to"] == []
    refused = project.run("upgrade", "other<1", checkpoint)
    assert (refused.code, "this project tracks pkg, not other" in refused.err) == (2, True)


def test_branches_and_heads(branched: Folder) -> None:
    assert branched.ok("branches").out.splitlines() == [
        "aside: 2 revisions, head e",
        "graphs: 2 revisions, head y",
        "main: 2 revisions, head c",
        "side: 2 revisions, head e",
        "a  change a, followed by",
        "  -> b  change b  [main]",
        "  -> d  change d  [aside, side]",
    ]
    found = branched.ok("branches", "--json").lines[0]
    assert found["branches"][0] == {"label": "aside", "revisions": 2, "heads": ["e"]}
    assert [branch["label"] for branch in found["branches"]] == ["aside", "graphs", "main", "side"]
    assert [child["revision"] for child in found["points"][0]["children"]] == ["b", "d"]
    assert branched.ok("heads", "-v").out.splitlines()[:2] == ["c  change c  [main]", "    versions/c_change.py"]
    assert "e_change.py" in branched.ok("branches", "-v").out or "d_change.py" in branched.ok("branches", "-v").out


def test_ranges_of_history(branched: Folder) -> None:
    def revisions(*words: object) -> str:
        found = branched.ok("history", *words, "--json").lines[0]
        return "".join(entry["revision"] for entry in reversed(found))

    checkpoint = branched.copy()
    branched.ok("upgrade", "b", checkpoint)
    assert revisions("-r", "a:c") == "abc"
    assert revisions("-r", "base:side@head") == "ade"
    assert revisions("-r", "b:") == "bcy"
    assert revisions("-r", ":d") == "ad"
    assert revisions("-r-1:c") == "bc"
    assert revisions("-r", "d:+1") == "de"
    assert revisions(checkpoint, "-r", "current:main@head") == "bc"
    assert revisions(checkpoint, "-r", ":current") == "ab"
    other = branched.copy(to="other.ckpt")
    branched.ok("upgrade", "d", other)
    assert revisions(other, "-r", "current:+1") == "de"
    assert revisions(checkpoint, "-r", "current-1:current") == "ab"
    for text, code, says in (
        ("c:a", 2, "'c:a' holds no revision; write the earlier end first"),
        ("current:", 2, "`current` needs a checkpoint: name one"),
        ("a", 2, "write START:END"),
        ("-1:+1", 2, "two relative ends"),
        ("a:zz", 1, "no revision is called 'zz'"),
    ):
        refused = branched.run("history", f"-r{text}")
        assert (refused.code, says in refused.err) == (code, True), refused.err


def test_history_says_more(branched: Folder) -> None:
    out = branched.ok("history", "-v").out
    assert "x  change x  <- base\n    labels    graphs\n" in out
    assert "script    versions/y_change.py" in out


# --- what is no graph ---


@pytest.mark.parametrize(
    ("scripts", "says"),
    [
        (
            {"a": (None, {"branch_labels": "main"}), "b": ("a", {"branch_labels": "main"})},
            "versions/b_change.py:3: the label main is already used by",
        ),
        ({"a": (None, {}), "b": ("a", {"branch_labels": "a"})}, "the label a is the id of"),
        ({"a": (None, {"branch_labels": "head"})}, "'head' cannot be a label"),
        ({"a": (None, {"branch_labels": "x@y"})}, "'x@y' cannot be a label"),
        ({"a": (None, {"depends_on": "b"}), "b": ("a", {})}, "is part of a cycle: it needs"),
        ({"a": (None, {"depends_on": "zz"})}, "depends_on names zz, which no script has"),
        ({"a": ("c", {}), "b": ("a", {}), "c": ("b", {})}, "revision a is part of a cycle: it needs c"),
    ],
)
def test_faults_name_the_files(
    project: Folder, scripts: dict[str, tuple[object, dict[str, object]]], says: str
) -> None:
    for rev, (parents, more) in scripts.items():
        note(project, rev, parents, **more)
    for words in (["heads"], ["history"], ["upgrade", "head", project.copy()], ["check"]):
        refused = project.run(*words)
        assert refused.code == 1
        assert says in refused.err + refused.out
