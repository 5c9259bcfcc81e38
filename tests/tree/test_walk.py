"""The walk over a tree: each value with its path, parents first, shared and cyclic values once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anemoi_ckpt_migrate.tree.walk import walk


def inside(path: tuple[Any, ...], value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def paths(tree: Any, **options: Any) -> list[str]:
    return [".".join(map(str, path)) for path, _ in walk(tree, inside, **options)]


def test_parents_come_first_and_children_in_order() -> None:
    tree = {"model": {"weight": "w", "bias": "b"}, "epochs": ["one", "two"]}
    assert paths(tree) == ["", "model", "model.weight", "model.bias", "epochs", "epochs.0", "epochs.1"]


def test_a_shared_value_is_visited_at_its_first_place() -> None:
    shared = {"lr": 1}
    tree = {"old": shared, "new": shared}
    assert paths(tree) == ["", "old", "old.lr"]
    assert paths(tree, every_place=True) == ["", "old", "old.lr", "new"]


def test_a_value_that_contains_itself_ends() -> None:
    tree: dict[str, Any] = {"a": []}
    tree["a"].append(tree)
    assert paths(tree) == ["", "a"]


def test_deeper_values_than_asked_for_are_left_out() -> None:
    tree = {"a": {"b": {"c": "d"}}}
    assert paths(tree, deepest=2) == ["", "a", "a.b"]


def test_pythons_stack_does_not_limit_the_depth() -> None:
    tree: list[Any] = []
    for _ in range(10_000):
        tree = [tree]
    assert sum(1 for _ in walk(tree, inside)) == 10_001
