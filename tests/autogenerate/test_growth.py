"""The work of a comparison grows as the parameters do, not with their square."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.autogenerate import shortest_renames
from anemoi_ckpt_migrate.autogenerate.explain import explain
from anemoi_ckpt_migrate.autogenerate.explain_optimizers import explain_optimizers
from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView, Parameters
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.select_patterns import _patterns, _patterns_of_any
from anemoi_ckpt_migrate.autogenerate.shortest_renames import Renaming, renamed
from anemoi_ckpt_migrate.autogenerate.simulate import Model
from anemoi_ckpt_migrate.op import RenamePrefix
from tests.support.work import growth

LINEAR = 1.4
WORDS = ("mlp.up.weight", "mlp.down.weight", "norm.weight", "out.bias")


def renamed_to(name: str) -> str:
    return name.replace("h.", "blocks.").replace("mlp.up", "mlp.fc1").replace("mlp.down", "mlp.fc2")


def items(blocks: int, alike: bool) -> list[Item]:
    """Make the parameters of blocks; `alike` gives the norms of all of them the same content."""
    names = [f"h.{block}.{word}" for block in range(blocks) for word in WORDS]
    return [
        Item(name, (4, 4 + WORDS.index(name.split(".", 2)[2])), "float32", "ones" if alike and "norm" in name else name)
        for name in names
    ]


def explaining(alike: bool) -> Callable[[int], Callable[[], object]]:
    def made(blocks: int) -> Callable[[], object]:
        old = items(blocks, alike)
        new = [
            Item(renamed_to(item.name), item.shape, item.dtype, item.digest) for item in old if "out" not in item.name
        ]
        return lambda: explain(old, new)

    return made


@pytest.mark.parametrize("alike", [False, True])
def test_matching_grows_with_the_parameters(alike: bool) -> None:
    assert growth(explaining(alike), 80) < LINEAR


def test_matching_grows_with_the_parameters_of_equal_content_that_stay() -> None:
    def made(count: int) -> Callable[[], object]:
        same = [Item(f"h.{block}.norm.weight", (4,), "float32", "ones") for block in range(count)]
        return lambda: explain(same, same)

    assert growth(made, 100) < LINEAR


def test_comparing_optimizers_grows_with_their_parameters() -> None:
    def made(count: int) -> Callable[[], object]:
        def side(names: list[str]) -> Parameters:
            view = OptimizerView(("optimizer",), ({"lr": 0.1},), (), (tuple(names),), (tuple((4,) for _ in names),))
            return Parameters({name: name for name in every}, dict.fromkeys(every, (4,)), (view,), ())

        every = [f"h.{number}.w" for number in range(count)] + [f"g.{number}.w" for number in range(count)]
        old, new = side(every[:count]), side(every)
        assert [type(each.operation).__name__ for each in explain_optimizers(old, new).operations] == ["Train"]
        return lambda: explain_optimizers(old, new)

    assert growth(made, 100) < LINEAR


@pytest.mark.parametrize(("old", "new"), [("up", "down"), ("up", "fc1"), ("fc1", "fc2")])
def test_names_that_differ_by_numbers_are_compared_once(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(blocks: int) -> int:
        count = 0
        far = shortest_renames._far

        def counted(name: str, target: str) -> int:
            nonlocal count
            count += 1
            return far(name, target)

        monkeypatch.setattr(shortest_renames, "_far", counted)
        done, _ = renamed({f"h.{block}.{old}.w": f"h.{block}.{new}.w" for block in range(blocks)})
        monkeypatch.setattr(shortest_renames, "_far", far)
        assert len(done) == 1
        return count

    assert compared(200) - compared(100) <= 2 * 100  # before it is applied, a rename is checked for every name


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "start"),
    [
        ("h.{}.mlp.up.w", "h.{}.mlp.fc1.w", 0),
        ("h.{}.mlp.up.w", "blocks.{}.up.w", 8),
        ("net2.h.{}.fc1.w", "net3.h.{}.fc2.w", 0),
        ("h.{}.w", "model.h.{}.w", 1),
    ],
)
def test_blocks_that_are_alike_are_renamed_as_each_would_be(old: str, new: str, start: int, greedy: bool) -> None:
    targets: dict[str, str | None] = {"embed.w": "embed.w", "h.3.gate.w": None, "head.w": "out.w"}
    targets |= {old.format(block): new.format(block) for block in range(start, start + 12)}
    targets |= {f"h.{block}.norm.w": f"h.{block}.norm.w" for block in range(start, start + 12)}
    alike = shortest_renames._alike(targets)
    assert alike
    ways = [Renaming(targets, greedy, folded) for folded in (alike, None)]
    one, other = ([(each.operation, sorted(each.finished)) for each in way.run()] for way in ways)
    assert one == other
    assert ways[0].current == ways[1].current
    assert all(target in (None, ways[0].current[name]) for name, target in targets.items())


def test_a_block_that_differs_stands_for_itself() -> None:
    targets: dict[str, str | None] = {f"h.{block}.w": f"g.{block}.w" for block in range(6)} | {"h.4.b": None}
    assert shortest_renames._alike(targets) == {"h.0.w": ["h.1.w", "h.2.w", "h.3.w", "h.5.w"]}
    moved: dict[str, str | None] = {f"h.{block}.w": f"h.{block + 1}.w" for block in range(6)}
    assert shortest_renames._alike(moved) == {}


def test_names_without_a_pattern_are_renamed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortest_renames, "_MOST_TRIED", 1000)
    monkeypatch.setattr(shortest_renames, "_TRIED_BY_NAME", 0)
    words = [f"layer.{number}.part.{number * 7 % 101}.w" for number in range(100)]
    targets: dict[str, str | None] = {word: f"p{number * 13 % 100}" for number, word in enumerate(words)}
    done, now = renamed(targets)
    assert now == targets
    assert len(done) <= len(targets)


def test_names_that_take_turns_get_their_targets_even_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortest_renames, "_MOST_TRIED", -1)
    monkeypatch.setattr(shortest_renames, "_TRIED_BY_NAME", 0)
    targets: dict[str, str | None] = {"a.w": "b.w", "b.w": "c.w", "c.w": "a.w", "d.w": "e.w", "e.w": "f.w"}
    assert renamed(targets)[1] == targets


@given(st.lists(st.from_regex(r"\A[ab0-2]{1,2}(\.[ab0-2]{1,2}){0,4}\Z"), max_size=8))
def test_patterns_of_many_names_are_those_of_each(names: list[str]) -> None:
    assert set(_patterns_of_any(names)) == {text for name in names for text, _ in _patterns(name)}


def test_a_plan_on_names_makes_no_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(RenamePrefix, "found", lambda self, names: found.append(self) or iter([("a.w", "b.w")]))
    model = Model([Item("a.w", (1,), "float32")])
    assert model.apply(RenamePrefix("a.", "b."))
    assert model.names == ["b.w"]
    assert len(found) == 1  # a rollback would be tried on all names
