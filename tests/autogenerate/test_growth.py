"""The work of a comparison grows as the parameters do, not with their square."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anemoi_ckpt_migrate.autogenerate import shortest_renames
from anemoi_ckpt_migrate.autogenerate.explain import explain
from anemoi_ckpt_migrate.autogenerate.explain_optimizers import explain_optimizers
from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView, Parameters
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.shortest_renames import renamed
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


def test_a_plan_on_names_makes_no_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(RenamePrefix, "found", lambda self, names: found.append(self) or iter([("a.w", "b.w")]))
    model = Model([Item("a.w", (1,), "float32")])
    assert model.apply(RenamePrefix("a.", "b."))
    assert model.names == ["b.w"]
    assert len(found) == 1  # a rollback would be tried on all names
