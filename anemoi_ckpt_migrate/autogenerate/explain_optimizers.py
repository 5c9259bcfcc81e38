"""Differences between optimizers, and between learning-rate schedulers, of two checkpoints.

Optimizers are compared by the names of their parameters, once the old ones have the new names. Classes that no
operation changes into each other are only described (`class_of_state`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.guess_groups import guess_groups
from anemoi_ckpt_migrate.autogenerate.match_groups import groups_after, regroup_to
from anemoi_ckpt_migrate.autogenerate.match_items import is_settable
from anemoi_ckpt_migrate.autogenerate.match_optimizer_class import RATES, class_change
from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView, Parameters
from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.autogenerate.select_patterns import selecting
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, Path, TreeExplanation, joined, written
from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.op import DropItem, Regroup, SetItem, Train, Untrain
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.state.find_parameters import is_parameters, is_tensor
from anemoi_ckpt_migrate.state.schedulers import Scheduler, is_scheduler
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.optimizer_formats import is_flattened, is_optimizer
from anemoi_ckpt_migrate.tree.paths import ANY, shown
from anemoi_ckpt_migrate.tree.walk import walk

EXPECTED = ("params", "param_names", "lr")  # options of a group; a schedule changes the learning rate in every run
_GUESS = 0.7
_DEEPEST = 4
_NOTE = "another run may have other values"
_BY_PLACE = "the scheduler may be that of another optimizer"

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


def schedulers_in(tree: Any) -> dict[Path, dict[Any, Any]]:
    """Return the schedulers in a tree, by their paths."""
    return {path: each for path, each in find_places(tree).items() if is_scheduler(each)}


def _is_optimizer(value: Any) -> bool:
    return is_optimizer(value) and not is_flattened(value)


def _content(path: Path, value: Any) -> Iterator[tuple[Any, Any]]:
    if is_a(value, dict) and not is_optimizer(value) and not (path and is_parameters(value)):
        yield from value.items()
    elif is_a(value, (list, tuple)):
        yield from enumerate(value)


def explain_schedulers(old: Any, new: Any) -> TreeExplanation:
    """Explain what differs in the schedulers that both checkpoints have, apart from their class."""
    olds, news = schedulers_in(old), schedulers_in(new)
    return joined(_of_scheduler(path, one, news[path]) for path, one in olds.items() if path in news)


def explain_optimizers(old: Parameters, new: Parameters, by_place: bool = False) -> TreeExplanation:
    """Explain the optimizers that both checkpoints have: parameters, class, groups and options.

    Parameters
    ----------
    old, new : Parameters
        The parameters and optimizers. The old ones have the names of the new ones already.
    by_place : bool
        Whether to take each scheduler for that of the optimizer with the same index, if there are as many.

    Returns
    -------
    TreeExplanation
        The changes, and operations that make them, to be applied after all others.
    """
    news = {each.path: each for each in new.optimizers}
    fit = by_place and len(old.schedulers) == len(old.optimizers)
    pairs = [
        _Pair(number, one, news[one.path], old, new, old.schedulers[number] if fit else None)
        for number, one in enumerate(old.optimizers)
        if one.path in news
    ]
    pairs = [pair for pair in pairs if pair.is_comparable]
    gone = {name for pair in pairs for name in pair.leaving}
    kept = {name for one in old.optimizers for name in one.every} - gone
    return joined([*(pair.untrained() for pair in pairs), *(pair.explained(kept) for pair in pairs)])


class _Pair:
    """An optimizer, and the one that it is to become."""

    def __init__(
        self,
        number: int,
        mine: OptimizerView,
        its: OptimizerView,
        old: Parameters,
        new: Parameters,
        scheduler: str | None,
    ) -> None:
        self._number, self._mine, self._its, self._old = number, mine, its, old
        self._schedulers = None if scheduler is None else (scheduler,)
        self._class = class_change(mine, its, number, self._schedulers)
        self._sure, self._remark, self._target = 1.0, "", its.names
        if mine.names is not None and its.names is None and (found := guess_groups(its, mine.every, new)):
            self._target, self._sure, self._remark = found
        if self._target is not None:
            self._target = tuple(tuple(old.tied.get(name, name) for name in own) for own in self._target)
        wanted, there = {name for own in self._target or () for name in own}, set(mine.every)
        known = mine.names is not None and self._target is not None
        self.leaving = [name for name in mine.every if known and name not in wanted and name in new.tied]
        self._entering = [name for own in self._target or () for name in own if known and name not in there]

    @property
    def is_comparable(self) -> bool:
        """Whether both are of the same class, or of classes that an operation changes into each other."""
        return self._class is not None

    def untrained(self) -> TreeExplanation:
        """Take out the parameters that the new optimizer does not have."""
        if not self.leaving:
            return TreeExplanation()
        every, gone = self._old.aliases(frozenset(self._mine.every)), set(self.leaving)
        texts = selecting([name for name in every if self._old.tied[name] in gone], every)
        return self._change("untrained", ", ".join(together(texts)), Untrain(tuple(texts), self._number))

    def explained(self, kept: Collection[str]) -> TreeExplanation:
        """Change the class, put parameters in, sort them, and set options.

        Parameters
        ----------
        kept : collection of str
            The parameters that optimizers have once those that leave are out.
        """
        if self._class is None:
            return TreeExplanation()
        found, mine = [], self._mine.with_options(self._class.groups)
        if self._class.operation is not None:
            self._sure = min(self._sure, _GUESS if self._class.operation.defaults else 1.0)
            found.append(self._change("class changed", self._class.shown, self._class.operation, _NOTE))
        if mine.names is not None and self._target is not None:
            gone = set(self.leaving)
            parts = [[name for name in own if name not in gone] for own in mine.names]
            found += self._trained(parts, kept)
            if {name for own in parts for name in own} != {name for own in self._target for name in own}:
                return joined(found)
            now = tuple(map(tuple, parts))
            mine = mine.with_names(now)
            if now != self._target and not (mine.is_flattened and _same_groups(now, self._target)):
                operation = regroup_to(mine, self._its, self._target, self._old, self._number, self._schedulers)
                mine = mine.with_options(groups_after(mine, self._target, operation))
                detail = f"{_sizes(parts)} -> {_sizes(self._target)}"
                note = _NOTE if _gives_rates(operation) else "" if self._schedulers is None else _BY_PLACE
                self._sure = min(self._sure, _GUESS if note else 1.0)
                found.append(self._change("regrouped", detail, operation, note))
        elif [len(own) for own in mine.moments] != [len(own) for own in self._its.moments]:
            return joined(found)
        if mine.is_flattened or self._its.is_flattened:
            return joined(found)
        return joined([*found, *self._options(mine)])

    def _trained(self, parts: list[list[str]], kept: Collection[str]) -> list[TreeExplanation]:
        """Put parameters in, each into its group if the groups are the same otherwise; change `parts` accordingly."""
        new = {name for name in self._entering if name in self._old.shapes}
        if not new or self._target is None:
            return []
        places = {name: place for place, name in enumerate(self._old.tied)}
        in_order = [number for number, own in enumerate(parts) if own == sorted(own, key=places.__getitem__)]
        came = [[name for name in own if name in new] for own in self._target]
        stay = [[name for name in own if name not in new] for own in self._target]
        into = {number: own for number, own in enumerate(came) if own}
        if stay != parts or not set(into) <= set(in_order):
            into = {in_order[0] if in_order else 0: [name for own in came for name in own]}
        free = [name for name in self._old.shapes if name not in kept]
        found = []
        for number, own in into.items():
            every, come = self._old.aliases(frozenset(free)), set(own)
            texts = selecting([name for name in every if self._old.tied[name] in come], every)
            operation = Train(tuple(texts), number, self._number)
            found.append(self._change("trained", ", ".join(together(texts)), operation))
            parts[number] = sorted([*parts[number], *own], key=places.__getitem__)
            free = [name for name in free if name not in come]
        return found

    def _options(self, mine: OptimizerView) -> Iterator[TreeExplanation]:
        """Set the options that still differ."""
        names = dict.fromkeys(key for group in self._its.groups for key in group)
        for name in (name for name in names if name not in EXPECTED):
            yield _of_option((*mine.path, "param_groups"), name, mine.groups, self._its.groups)

    def _change(self, kind: str, detail: str, operation: Operation, note: str = "") -> TreeExplanation:
        path = shown(self._mine.path)
        remarks = tuple(filter(None, (self._remark, note))) if self._sure < 1 else ()
        proposed = ProposedOperation(operation, self._sure, remarks)
        return TreeExplanation((ItemChange(kind, path, path, detail, self._sure),), (proposed,))


def _gives_rates(operation: Regroup) -> bool:
    return any(name in RATES for options in operation.options for name in options)


def _same_groups(one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> bool:
    return {frozenset(own) for own in one} == {frozenset(own) for own in other}


def _sizes(parts: Sequence[Sequence[str]]) -> str:
    return f"{len(parts)} group{'s' * (len(parts) != 1)} of {' and '.join(str(len(own)) for own in parts)}"


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
        if key in one and (key in _COUNTS or str(key).startswith("_") or _is_by_group(one, other, key)):
            continue
        if (key not in one or repr(one[key]) != repr(value)) and _is_option(value) and _is_option(one.get(key)):
            found.append(_set((*path, key), one.get(key), value))
    for key in [key for key in one if key not in other]:
        change = ItemChange("item dropped", shown((*path, key)), "", "", _GUESS)
        found.append(TreeExplanation((change,), (ProposedOperation(DropItem(written((*path, key))), _GUESS),)))
    return joined(found)


def _is_by_group(one: Mapping[str, Any], other: Mapping[str, Any], key: Any) -> bool:
    """Return whether an entry has a value for each group, and the groups changed: such lists follow these."""
    mine, its = (Scheduler("", dict(side)).lists().get(key) for side in (one, other))
    return mine is not None and its is not None and len(mine) != len(its)


def _set(path: Path, before: Any, value: Any) -> TreeExplanation:
    change = ItemChange("option changed", shown(path), shown(path), f"{before!r:.40} -> {value!r:.40}", _GUESS)
    return TreeExplanation((change,), (ProposedOperation(SetItem(written(path), value), _GUESS, (_NOTE,)),))


def class_of_state(view: OptimizerView) -> str:
    """Return the class of an optimizer as far as its options and the keys of its state tell; empty if unknown."""
    options = {key for group in view.groups for key in group}
    for kind, needed, kept in _KINDS:
        if options.issuperset(needed) and (not view.keys or view.keys.issuperset(kept)):
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
