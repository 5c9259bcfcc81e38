"""What a model was at a revision, derived along operations, against what is known because it was kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.simulate import Model
from anemoi_ckpt_migrate.manifests import trace
from anemoi_ckpt_migrate.manifests.compare import StateDictDiff, misfit
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot, parsed, spelled
from anemoi_ckpt_migrate.manifests.trace import UnknownState, ahead, derived, everywhere
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from tests.support.work import growth

Items = tuple[Item, ...]


def operations(items: Items, fresh: str) -> list[Operation]:
    """Return operations that these parameters allow; `fresh` is a name that nothing has."""
    first, *others = items
    found: list[Operation] = [
        op.Rename(first.name, fresh),
        op.AddPrefix(f"{fresh}."),
        op.Transpose([item.name for item in items], 0, 1),
        op.Add(fresh, [2, 2]),
        op.Stack([first.name], fresh),
        op.SetItem("epoch", 3, overwrite=False),
        op.Cast([first.name], "float16"),
    ]
    if others:
        found.append(op.Drop(first.name))
    alike = [item.name for item in others if item.shape[1:] == first.shape[1:] and item.dtype == first.dtype]
    if alike:
        found.append(op.Fuse([first.name, alike[0]], fresh, dim=0))
    if first.shape[0] % 2 == 0:
        found.append(op.Split(first.name, [f"{fresh}.a", f"{fresh}.b"], dim=0))
    return found


def after(items: Items, change: Operation) -> Items | None:
    model = Model(items)
    if not change.on_parameters:
        return items
    return model.items if model.apply(change) else None


@st.composite
def histories(draw: st.DrawFn) -> tuple[Graph, dict[str, Items]]:
    r"""
    Draw a tree of revisions, with what a model is at each:

    base - r0 - r1 - r3
             \
              - r2 - r4
    """
    sizes = st.integers(1, 3).map(lambda size: 2 * size)
    start = draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4))
    states: dict[str, Items] = {"": tuple(Item(f"p{number}", shape, "float32") for number, shape in enumerate(start))}
    revisions = []
    for number in range(draw(st.integers(0, 6))):
        rev = f"r{number}"
        parent = draw(st.sampled_from([*states][1:])) if len(states) > 1 else ""
        change = draw(st.sampled_from(operations(states[parent], f"n{number}")))
        state = after(states[parent], change)
        if state is None:
            continue
        states[rev] = state
        revisions.append(Revision(rev, (parent,) if parent else (), reversible=True, operations=(change,)))
    return Graph(revisions), states


def at(rev: str, states: dict[str, Items]) -> Snapshot:
    return Snapshot((rev,) if rev else (), states[rev])


def names(items: Items) -> list[str]:
    return sorted(item.name for item in items)


@given(histories(), st.data())
def test_up_it_is_exact_and_down_names_are(history: tuple[Graph, dict[str, Items]], data: st.DataObject) -> None:
    graph, states = history
    known = data.draw(st.sampled_from(sorted(states)))
    for rev in states:
        found = derived(graph, [at(known, states)], [rev] if rev else [])
        if isinstance(found, UnknownState):
            assert found.back  # a cast, or something added to nothing, does not describe the earlier state
            assert found.fits
            continue
        assert names(found.items) == names(states[rev])
        if graph.closure([known] if known else []) <= graph.closure([rev] if rev else []):
            assert found.items == states[rev]


@given(histories(), st.data())
def test_what_is_right_is_right_further_on(history: tuple[Graph, dict[str, Items]], data: st.DataObject) -> None:
    """Whatever undoing would have to guess: sizes and names that became one, what was cast, what was dropped."""
    graph, states = history
    known = data.draw(st.sampled_from(sorted(states)))
    have = graph.closure([known])
    for rev in states:
        there = graph.closure([rev])
        pair = ahead(graph, [at(known, states)], [rev] if rev else [], states[rev])
        if have <= there:
            assert pair is None  # what it is there is exact
        elif there < have:
            assert pair is not None
            assert misfit(*pair) == StateDictDiff()


@given(histories())
def test_everywhere_agrees_with_each(history: tuple[Graph, dict[str, Items]]) -> None:
    graph, states = history
    known = [at("", states)]
    found = {one.revisions: one.items for one in everywhere(graph, known) if len(one.revisions) < 2}
    assert found == {((rev,) if rev else ()): items for rev, items in states.items()}


@given(histories())
def test_the_file_says_what_was_written(history: tuple[Graph, dict[str, Items]]) -> None:
    _, states = history
    models = {f"model {rev}": at(rev, states) for rev in states}
    text = spelled(models)
    assert parsed(text, "manifest.json") == models
    assert text == spelled(dict(reversed(models.items())))


def test_the_nearest_is_begun_with() -> None:
    r"""
    base - a - b(functions) - c
    """
    items = (Item("x", (2, 2), "float32"),)
    graph = Graph(
        [
            Revision("a", operations=(op.Rename("x", "y"),)),
            Revision("b", ("a",)),
            Revision("c", ("b",), operations=(op.Rename("z", "w"),)),
        ]
    )
    head, base = Snapshot(("c",), (Item("w", (2, 2), "float32"),)), Snapshot((), items)
    gap = derived(graph, [head], ["a"])
    assert gap == UnknownState("b", "it has functions, and only operations can be followed", back=True)
    found = derived(graph, [head, base], ["a"])
    assert isinstance(found, Snapshot)
    assert [item.name for item in found.items] == ["y"]
    assert [one.revisions for one in everywhere(graph, [head, base])] == [("c",), ("b",), ("a",), ()]
    assert derived(graph, [], ["a"]) == UnknownState("", "the manifest does not have it")
    assert derived(graph, [head, base], ["a", "x"]) == UnknownState("", "no script here has x")


def test_a_barrier_ends_it() -> None:
    graph = Graph([Revision("a", operations=()), Revision("b", ("a",), final=True, migrates=False)])
    found = derived(graph, [Snapshot(("b",), ())], ["a"])
    assert found == UnknownState("b", "it is a barrier", back=True)


def test_what_does_not_fit_is_said() -> None:
    one, other = Item("a", (2,), "float32"), Item("b", (3,), "float32")
    assert misfit([one, other], [one, other]) == StateDictDiff()
    assert misfit([one], [one, other]).sentences() == ["b is missing"]
    assert misfit([one, other], [one]).sentences() == ["b is left over"]
    assert misfit([one], [Item("a", (3,), "float32")]).sentences() == ["a is [2], not [3]"]
    assert misfit([one], [Item("a", (2,), "float16")]).sentences() == ["a is float32, not float16"]
    assert misfit([one, other], [other, one]).sentences() == ["the order differs"]
    assert misfit([one], [Item("a", (2,), "float16")]).count == 0


def test_a_line_of_revisions_is_followed_in_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(items: Items) -> Model:
        made.append(items)
        return Model(items)

    monkeypatch.setattr(trace, "Model", counted)
    line = Graph(
        Revision(f"r{at:02}", (f"r{at - 1:02}",) if at else (), operations=(op.RenamePrefix(f"m{at}.", f"m{at + 1}."),))
        for at in range(20)
    )
    states = everywhere(line, [Snapshot(("r19",), (Item("m20.w", (2,), "float32"),))])
    assert [[item.name for item in state.items] for state in states] == [[f"m{at}.w"] for at in range(20, -1, -1)]
    assert len(made) == 1


@pytest.mark.parametrize("known", [0, 5, None])
def test_the_work_on_a_line_grows_with_its_revisions(known: int | None) -> None:
    def made(count: int) -> Callable[[], object]:
        rename = [(op.RenamePrefix(f"m{number}.", f"m{number + 1}."),) for number in range(count)]
        parents = [(), *((f"r{number}",) for number in range(count - 1))]
        line = Graph([Revision(f"r{number}", parents[number], operations=rename[number]) for number in range(count)])
        at = count - 1 if known is None else known
        state = Snapshot((f"r{at}",), (Item(f"m{at + 1}.w", (2,), "float32"),))
        assert len(everywhere(line, [state])) == count + 1
        return lambda: everywhere(line, [state])

    assert growth(made, 40) < 1.4


def test_a_fork_is_followed_on_both_sides() -> None:
    """A model that one side changed is not that of the other side."""
    fork = Graph(
        [
            Revision("a", operations=(op.Rename("w", "a"),)),
            Revision("b", ("a",), operations=(op.Rename("a", "b"),)),
            Revision("c", ("a",), operations=(op.Rename("a", "c"),)),
            Revision("d", ("b",), operations=(op.Rename("gone", "d"),)),
        ]
    )
    states = everywhere(fork, [Snapshot((), (Item("w", (2,), "float32"),))])
    names = {state.revisions: state.items[0].name for state in states}
    assert names == {("a",): "a", ("b",): "b", ("c",): "c", (): "w"}
