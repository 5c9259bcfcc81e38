"""Differences between optimizers, and between learning-rate schedulers, of two checkpoints.

Operations are proposed for options, and for what a scheduler keeps. Groups that differ (`groups_of`), and optimizers of
other classes (`class_of_state`), are only described: operations for them belong into `explain_optimizers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.match_items import is_settable
from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, Path, TreeExplanation, joined, written
from anemoi_ckpt_migrate.op import DropItem, SetItem
from anemoi_ckpt_migrate.state.find_parameters import is_parameters, is_tensor
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.optimizer_formats import is_flattened, is_optimizer
from anemoi_ckpt_migrate.tree.paths import ANY, shown
from anemoi_ckpt_migrate.tree.walk import walk

EXPECTED = ("params", "param_names", "lr")  # options of a group; a schedule changes the learning rate in every run
_GUESS = 0.7
_DEEPEST = 4
_NOTE = "another run may have other values"

_KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("NAdam", ("betas", "momentum_decay"), ("exp_avg", "exp_avg_sq", "mu_product")),
    ("Adamax", ("betas",), ("exp_avg", "exp_inf")),
    ("Adam or AdamW", ("betas", "amsgrad"), ("exp_avg", "exp_avg_sq")),
    ("RAdam", ("betas", "eps", "decoupled_weight_decay"), ("exp_avg", "exp_avg_sq")),
    ("Lion", ("betas",), ("exp_avg",)),
    ("SGD", ("momentum", "dampening"), ()),
    ("RMSprop", ("alpha", "momentum"), ("square_avg",)),
    ("Adadelta", ("rho",), ("square_avg", "acc_delta")),
    ("Adagrad", ("lr_decay",), ("sum",)),
    ("Rprop", ("etas", "step_sizes"), ("prev", "step_size")),
    ("ASGD", ("lambd", "t0"), ("eta", "mu", "ax")),
)
"""Optimizers, with options and state that they have, from the documentation of torch; the first that fits."""

_COUNTS = (
    "last_epoch",
    "_step_count",
    "_last_lr",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
    "base_lrs",
    "T_cur",
    "T_i",
)
"""Entries of schedulers that change with every step, or with the learning rate."""


def find_places(tree: Any) -> dict[Path, dict[Any, Any]]:
    """Return the optimizers and the schedulers in a tree, by their paths."""
    every = walk(tree, _content, _DEEPEST)
    return {path: value for path, value in every if is_a(value, dict) and (is_scheduler(value) or _is_optimizer(value))}


def is_scheduler(value: Any) -> bool:
    """Return whether a value is the state of a learning-rate scheduler, as its keys tell."""
    return is_a(value, dict) and "last_epoch" in value and ("_step_count" in value or "base_lrs" in value)


def _is_optimizer(value: Any) -> bool:
    return is_optimizer(value) and not is_flattened(value)


def _content(path: Path, value: Any) -> Iterator[tuple[Any, Any]]:
    if is_a(value, dict) and not is_optimizer(value) and not (path and is_parameters(value)):
        yield from value.items()
    elif is_a(value, (list, tuple)):
        yield from enumerate(value)


def explain_optimizers(old: Any, new: Any) -> TreeExplanation:
    """Explain options that differ between the optimizers, and the schedulers, that both checkpoints have."""
    olds, news = find_places(old), find_places(new)
    return joined(
        (_of_scheduler if is_scheduler(one) else _of_options)(path, one, news[path])
        for path, one in olds.items()
        if path in news and is_scheduler(one) is is_scheduler(news[path])
    )


def _of_options(path: Path, one: Mapping[str, Any], other: Mapping[str, Any]) -> TreeExplanation:
    """Set the options that differ, if the optimizer is of the same class and has the same groups."""
    mine, its = one["param_groups"], other["param_groups"]
    if not mine or groups_of(mine) != groups_of(its) or class_of_state(one) != class_of_state(other):
        return TreeExplanation()
    names = [name for name in dict.fromkeys(key for group in its for key in group) if name not in EXPECTED]
    return joined(_of_option((*path, "param_groups"), name, mine, its) for name in names)


def _of_option(
    path: Path, name: str, mine: Sequence[Mapping[str, Any]], its: Sequence[Mapping[str, Any]]
) -> TreeExplanation:
    differ = [
        number
        for number, (one, other) in enumerate(zip(mine, its, strict=True))
        if name in other and _is_option(other[name]) and _is_option(one.get(name))
        if name not in one or repr(one[name]) != repr(other[name])
    ]
    values = [its[number][name] for number in differ]
    if not differ:
        return TreeExplanation()
    if len(differ) == len(mine) and all(repr(value) == repr(values[0]) for value in values):
        return _set((*path, ANY, name), mine[0].get(name), values[0])
    return joined(_set((*path, number, name), mine[number].get(name), its[number][name]) for number in differ)


def _is_option(value: Any) -> bool:
    return not is_tensor(value) and is_settable(value)


def _of_scheduler(path: Path, one: Mapping[str, Any], other: Mapping[str, Any]) -> TreeExplanation:
    """Set and drop what a scheduler keeps, if it is of the same class."""
    if scheduler_kinds(one, other) is not None:
        return TreeExplanation()
    found = []
    for key, value in other.items():
        if key in one and (key in _COUNTS or str(key).startswith("_")):
            continue
        if (key not in one or repr(one[key]) != repr(value)) and _is_option(value) and _is_option(one.get(key)):
            found.append(_set((*path, key), one.get(key), value))
    for key in [key for key in one if key not in other]:
        change = ItemChange("item dropped", shown((*path, key)), "", "", _GUESS)
        found.append(TreeExplanation((change,), (ProposedOperation(DropItem(written((*path, key))), _GUESS),)))
    return joined(found)


def _set(path: Path, before: Any, value: Any) -> TreeExplanation:
    change = ItemChange("option changed", shown(path), shown(path), f"{before!r:.40} -> {value!r:.40}", _GUESS)
    return TreeExplanation((change,), (ProposedOperation(SetItem(written(path), value), _GUESS, (_NOTE,)),))


def groups_of(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the number of parameters in each group."""
    return [len(group["params"]) for group in groups]


def class_of_state(content: Mapping[str, Any]) -> str:
    """Return the class of an optimizer as far as its options and the keys of its state tell; empty if unknown."""
    options = {key for group in content["param_groups"] for key in group}
    state = {key for each in content["state"].values() if is_a(each, dict) for key in each}
    for kind, needed, kept in _KINDS:
        if options.issuperset(needed) and (not state or state.issuperset(kept)):
            return kind
    return ""


def scheduler_kinds(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return how two schedulers differ if they are of other classes, as their keys tell; None if of the same."""
    mine, its = ([str(key) for key in each if not str(key).startswith("_")] for each in (one, other))
    shared = set(mine) & set(its) - set(_COUNTS)
    only = sorted(set(mine) - set(its) - set(_COUNTS)), sorted(set(its) - set(mine) - set(_COUNTS))
    if not only[0] or not only[1] or len(shared) >= max(map(len, only)):
        return None
    return f"its state is {', '.join(only[0])}, but {', '.join(only[1])}"
