"""Patterns of proposed groups select exactly the right parameters, in the right order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.autogenerate.match_groups import groups_after, regroup_to
from anemoi_ckpt_migrate.autogenerate.optimizer_views import Names, OptimizerView, Parameters
from anemoi_ckpt_migrate.op import Regroup
from anemoi_ckpt_migrate.state.name_patterns import pattern

NAMES = [f"h.{i}.{module}.{leaf}" for i in range(2) for module in ("q", "norm") for leaf in ("weight", "bias")]
NAMES += ["embed.weight", "head.weight", "head.bias", "h{x}.weight", "scale"]


def view(names: Names, options: tuple[dict[str, Any], ...]) -> OptimizerView:
    return OptimizerView(("optimizer",), options, (), names)


def grouped(operation: Regroup, model: Parameters) -> Names:
    """Return the groups that an operation makes, by its documentation."""
    taken: dict[str, int] = {}
    parts: list[list[str]] = [[] for _ in operation.groups]
    listed = [(number, text) for number, own in enumerate(operation.groups) for text in own]
    for number, text in sorted(listed, key=lambda each: each[1] == "*"):
        for name, _ in pattern(text).among(model.tied):
            if taken.setdefault(model.tied[name], number) == number and model.tied[name] not in parts[number]:
                parts[number].append(model.tied[name])
    places = list(model.tied)
    return tuple(tuple(sorted(own, key=places.index) if operation.in_order else own) for own in parts)


@given(st.permutations(NAMES), st.lists(st.integers(0, 2), min_size=len(NAMES), max_size=len(NAMES)), st.booleans())
def test_any_groups_in_any_order(order: list[str], groups: list[int], shuffled: bool) -> None:
    """Also of tied parameters, under whatever names, and of names with braces."""
    model = Parameters({name: name for name in NAMES} | {"tied.weight": "embed.weight"}, {})
    names = order if shuffled else NAMES
    target = tuple(
        tuple(name for name, number in zip(names, groups, strict=True) if number == each) for each in range(3)
    )
    mine, its = view((tuple(NAMES),), ({"lr": 1.0},)), view(target, ({"lr": 1.0},) * 3)
    operation = regroup_to(mine, its, target, model, 0, None)
    assert grouped(operation, model) == target
    assert operation.options == ()


def test_options_that_tell_groups_apart_and_those_in_which_joined_groups_differ() -> None:
    """The others are choices of a run, and are proposed apart from the groups."""
    model = Parameters({name: name for name in "abc"}, {})
    mine = view((("a",), ("b", "c")), ({"lr": 1.0, "decay": 0.1, "eps": 1}, {"lr": 1.0, "decay": 0.2, "eps": 1}))
    its = view((("a", "b"), ("c",)), ({"lr": 2.0, "decay": 0.3, "eps": 2}, {"lr": 2.0, "decay": 0.2, "eps": 2}))
    operation = regroup_to(mine, its, (("a", "b"), ("c",)), model, 0, None)
    assert operation.options == ({"decay": 0.3}, {})
    after = groups_after(mine, (("a", "b"), ("c",)), operation)
    assert after == ({"lr": 1.0, "decay": 0.3, "eps": 1}, {"lr": 1.0, "decay": 0.2, "eps": 1})
