"""What targets mean: parsed, then resolved on graphs that are drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import (
    AmbiguousTarget,
    BadTarget,
    MigrateError,
    NoRelease,
    NotOnBranch,
    NotThatMany,
    SeveralHeads,
    UnknownTarget,
    UsageError,
)
from anemoi_ckpt_migrate.revisions import resolve
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.targets import (
    Beyond,
    Id,
    Named,
    OnBranch,
    Range,
    Relative,
    Released,
    parse,
    parse_range,
    parse_several,
)
from tests.support.graphs import closure, histories


def state(graph: Graph, text: str, package: str | None = None) -> str:
    return "".join(graph.order(resolve.state(graph, parse(text), package)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("head", Named("head")),
        ("barrier", Named("barrier")),
        ("+3", Relative(3)),
        ("-2", Relative(-2)),
        ("12ab", Id("12ab")),
        ("ab12+3", Beyond(Id("ab12"), 3)),
        ("head-2", Beyond(Named("head"), -2)),
        ("base+1", Beyond(Named("base"), 1)),
        ("main@head", OnBranch("main", Named("head"))),
        ("my-label@heads", OnBranch("my-label", Named("heads"))),
        ("main@+2", OnBranch("main", Relative(2))),
        ("main@ab12-1", OnBranch("main", Beyond(Id("ab12"), -1))),
        ("my-label", Id("my-label")),
        ("rename x to y", Id("rename x to y")),
        ("anemoi-models<0.12", Released("anemoi-models", "<0.12")),
        ("pkg >=0.10,<0.12", Released("pkg", ">=0.10,<0.12")),
        ("pkg~=0.11.0", Released("pkg", "~=0.11.0")),
    ],
)
def test_parsed(text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "pointed", "says"),
    [
        ("main@head-", "          ^", "a number of steps must follow the -"),
        ("head+x", None, None),  # a name, if a strange one
        ("@head", "^", "a branch label or a revision id must come before the @"),
        ("main@", "     ^", "expected a target: head, heads, base, barrier, +N, -N, a revision id"),
        ("a@b@c", "  ^^^", "expected a target"),
        ("main@barrier", "     ^^^^^^^", "a branch has no barrier"),
        ("heads+1", "^^^^^", "steps cannot be counted from heads"),
        ("+0", "^^", "a step count of 0 does nothing"),
        ("--1", " ^^", "a number of steps must follow the -"),
        ("+99999999999", " ^^^^^^^^^^^", "the step count is too large (9 digits at most)"),
        ("pkg<0.12,>>3", "         ^^^", "'>>3' is not a version specifier, such as <0.12 or ==0.11.*"),
        ("pkg<", "   ^", "'<' is not a version specifier"),
        ("pkg==1.0,", "         ^", "'nothing' is not a version specifier"),
    ],
)
def test_the_wrong_part_is_underlined(text: str, pointed: str | None, says: str | None) -> None:
    if pointed is None:
        assert parse(text) == Id(text)
        return
    with pytest.raises(BadTarget) as wrong:
        parse(text)
    sentence, shown, underlined = str(wrong.value).split("\n")
    assert str(says) in sentence
    assert (shown, underlined) == (f"    {text}", f"    {pointed}")
    assert wrong.value.exit_code == 2


@given(st.text())
def test_every_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert str(error)


def test_several_and_ranges() -> None:
    assert parse_several("a1, b2") == (Id("a1"), Id("b2"))
    assert parse_several("pkg>=1,<2") == (Released("pkg", ">=1,<2"),)
    assert parse_range("a:b") == Range(Id("a"), Id("b"))
    assert parse_range("-2:current") == Range(Relative(-2), Named("current"))
    assert parse_range("current+1:") == Range(Beyond(Named("current"), 1), None)
    for text in ("a", "a:b:c"):
        with pytest.raises(UsageError, match="write START:END"):
            parse_range(text)


# a - b - d - e      main is on b
#  \     /
#   - c - f - g      side is on f
DIAMOND = Graph(
    [
        Revision("a", name="begin"),
        Revision("b", ("a",), labels=("main",), name="rename x to y"),
        Revision("c", ("a",), name="drop the head"),
        Revision("d", ("b", "c"), name="join"),
        Revision("e", ("d",)),
        Revision("f", ("c",), labels=("side",)),
        Revision("g", ("f",)),
    ]
)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("heads", "abcdefg"),
        ("base", ""),
        ("d", "abcd"),
        ("main", "ab"),
        ("main@head", "abcde"),
        ("side@head", "acfg"),
        ("side@g", "acfg"),
        ("side@base", ""),
        ("side@a", "a"),
        ("g@head", "acfg"),
        ("rename_x_to_y", "ab"),
        ("Rename X to Y", "ab"),
        ("d+1", "abcde"),
        ("d-1", "abc"),
        ("d-2", "ab"),
        ("d-4", ""),
        ("f+1", "acfg"),
        ("main@base+2", "ab"),
        ("main@head-1", "abcd"),
        ("main@base+3", "abcd"),
        ("side@f+1", "acfg"),
        ("g@c", "ac"),
        ("base+1", "a"),
    ],
)
def test_states(text: str, has: str) -> None:
    assert state(DIAMOND, text) == has


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("head", SeveralHeads, "there are 2 heads: e, g; write `main@head`, `side@head`, or `heads` for all of them"),
        ("a+1", SeveralHeads, "there are 2 heads: e, g; write `main@a+1`, `side@a+1` (`ckpt-migrate merge NAME`"),
        ("base+2", SeveralHeads, "write `main@base+2`, `side@base+2`"),
        ("c+1", SeveralHeads, "there are 2 heads"),
        ("d+2", NotThatMany, "d+2 goes too far: only 1 revision is left in that direction"),
        ("d-5", NotThatMany, "d-5 goes too far: only 4 revisions are left"),
        ("side@d", NotOnBranch, "d is neither on the branch side nor below it; write d alone, or side@heads"),
        ("sied@head", UnknownTarget, "no revision is called 'sied'; did you mean side?"),
        ("renam x to z", UnknownTarget, "did you mean 'rename x to y'?"),
        ("heda", UnknownTarget, "did you mean head"),
    ],
)
def test_what_means_nothing_or_too_much(text: str, kind: type[MigrateError], says: str) -> None:
    with pytest.raises(kind) as wrong:
        state(DIAMOND, text)
    assert says in str(wrong.value)


def test_a_name_that_two_have_is_ambiguous() -> None:
    graph = Graph([Revision("a", name="Fuse"), Revision("b", ("a",), name="fuse!")])
    with pytest.raises(AmbiguousTarget, match=r"it fits a \(Fuse\), b \(fuse!\)"):
        state(graph, "fuse ")
    assert state(graph, "b") == "ab"  # an id wins over the start of a name


def test_of_many_names_that_are_near_two_are_told() -> None:
    graph = Graph([Revision(f"{place}f", name=f"rename x to {place}") for place in "abcd"])
    with pytest.raises(UnknownTarget, match=r"did you mean 'rename x to \w' or 'rename x to \w'\?"):
        state(graph, "rename x to y")
    graph = Graph([Revision(f"12345{place}") for place in "abcd"])
    with pytest.raises(UnknownTarget, match=r"did you mean '\w+' or '\w+'\?"):
        state(graph, "12345x")


def versioned(**noted: str) -> Graph:
    """A line of revisions, each noting a version of pkg, or none."""
    above: tuple[str, ...] = ()
    revisions = []
    for rev, version in noted.items():
        revisions.append(Revision(rev, above, versions={"pkg": version} if version else {}))
        above = (rev,)
    return Graph(revisions)


@pytest.mark.parametrize(
    ("specifier", "has"),
    [
        ("==0.11.0", "abc"),
        ("==0.11.*", "abcd"),
        ("~=0.11.0", "abcd"),
        ("<0.12", "abcd"),
        ("<=0.12", "abcdef"),
        (">=0.10,<0.12", "abcd"),
        (">=0.10", "abcdef"),
        ("==0.9", "a"),
        ("==0.10.5", "ab"),
        ("<0.1", ""),
        ("!=0.12", "abcdef"),
    ],
)
def test_releases(specifier: str, has: str) -> None:
    """c notes nothing, and comes along where d, which needs it, does, or b after it: it was in no earlier release."""
    graph = versioned(a="0.9.0", b="0.10.0", c="0.11.0", d="0.11.3", e="", f="0.12.0")
    assert state(graph, f"pkg{specifier}", "pkg") == has
    assert state(graph, f"PKG {specifier}", "pkg") == has


def test_a_release_has_nothing_that_needs_something_later() -> None:
    """b was written before a was released, and put after it."""
    assert state(versioned(a="0.12", b="0.11", c="0.13"), "pkg<0.12", "pkg") == ""


def test_specifiers_that_cannot_be_answered() -> None:
    with pytest.raises(NoRelease, match="no script notes a version of pkg"):
        state(DIAMOND, "pkg<1", "pkg")
    with pytest.raises(UsageError, match="this project tracks pkg, not other"):
        state(DIAMOND, "other<1", "pkg")
    with pytest.raises(UsageError, match="this project tracks none; set `package` in the configuration"):
        state(DIAMOND, "pkg<1")
    with pytest.raises(UsageError, match=r"no version of pkg can match >1,<0\.5"):
        parse("pkg>1,<0.5")


# --- labels, against plain set algebra ---


@given(histories(labels=True))
def test_labels_are_inherited_by_descendants(revisions: list[Revision]) -> None:
    graph = Graph(revisions)
    for revision in revisions:
        for label in revision.labels:
            members = graph.branch(label)
            assert members == {r.id for r in revisions if label in graph.labels_of(r.id)}
            assert graph.branch_sizes[label] == len(members)
            alone = [head for head in graph.heads if label in graph.own_labels(head)]
            assert alone == (heads if len(heads := sorted(members.intersection(graph.heads))) == 1 else [])
            followers = {r.id for r in revisions if revision.id in parental_closure(revisions, r.id)}
            assert followers <= members
            # Those before it are a stretch without a fork that leads to it.
            for before in members - followers:
                assert revision.id in followers_of(revisions, before)
                assert len([r for r in revisions if before in r.parents]) == 1
            assert resolve.heads_of_branch(graph, label) == tuple(sorted(set(graph.heads) & members))


@given(histories(labels=True), st.data())
def test_what_a_target_has_is_closed_downwards(revisions: list[Revision], data: st.DataObject) -> None:
    graph = Graph(revisions)
    if not revisions:
        return
    rev = data.draw(st.sampled_from(sorted(revision.id for revision in revisions)))
    labels = sorted(graph.labels) or ["none"]
    texts = ["head", "heads", f"{rev}-1", f"{rev}+1", f"{rev}@head", f"{rev}@base", "base+2", "head-1"]
    texts += [f"{label}@{place}" for label in labels for place in ("head", "heads", "base", rev, "head-1", "base+1")]
    for text in texts:
        try:
            has = resolve.state(graph, parse(text))
        except MigrateError as error:
            assert str(error)
            continue
        assert has == closure(revisions, has)
        tips = resolve.resolve(graph, parse(text))
        assert closure(revisions, tips) == has


def parental_closure(revisions: list[Revision], rev: str) -> set[str]:
    return closure([Revision(r.id, r.parents) for r in revisions], [rev])


def followers_of(revisions: list[Revision], rev: str) -> set[str]:
    return {r.id for r in revisions if rev in parental_closure(revisions, r.id)}
