"""Operations by which the parameters of an optimizer are sorted into the groups of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from anemoi_ckpt_migrate.autogenerate.match_optimizer_class import RATES, is_option, rates, spelled
from anemoi_ckpt_migrate.autogenerate.optimizer_views import Names, OptimizerView, Parameters
from anemoi_ckpt_migrate.autogenerate.select_patterns import selecting
from anemoi_ckpt_migrate.op import Regroup
from anemoi_ckpt_migrate.state.name_patterns import literal, literals, pattern
from anemoi_ckpt_migrate.storage.tensors.refs import is_a

_REST = "*"
_MISSING = object()


def regroup_to(
    mine: OptimizerView,
    its: OptimizerView,
    target: Names,
    model: Parameters,
    number: int,
    schedulers: tuple[str, ...] | None,
) -> Regroup:
    """Return the operation that sorts parameters into other groups.

    Parameters
    ----------
    mine : OptimizerView
        The optimizer, with the same parameters in other groups.
    its : OptimizerView
        The optimizer whose groups it gets.
    target : tuple of tuple of str
        The parameters of the new groups, in order.
    model : Parameters
        The parameters of the model.
    number : int
        The index of the optimizer.
    schedulers : tuple of str or None
        The paths of its schedulers; None to find them.
    """
    texts, in_order = _selections(target, model)
    options = [_changes(mine, its, own, group) for own, group in zip(_sources(mine, target), its.groups, strict=True)]
    given = tuple(options) if any(options) else ()
    return Regroup(tuple(map(tuple, texts)), given, number, schedulers, in_order)


def groups_after(mine: OptimizerView, target: Names, operation: Regroup) -> tuple[dict[Any, Any], ...]:
    """Return the options of the new groups as an operation leaves them."""
    given = operation.options or tuple({} for _ in target)
    return tuple(
        mine.groups[own[0] if own else 0] | options for own, options in zip(_sources(mine, target), given, strict=True)
    )


def _sources(mine: OptimizerView, target: Names) -> list[list[int]]:
    """Return for each new group the old groups of its parameters."""
    before = {name: number for number, own in enumerate(mine.names or ()) for name in own}
    return [list(dict.fromkeys(before[name] for name in own)) for own in target]


def _changes(mine: OptimizerView, its: OptimizerView, own: Sequence[int], wanted: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the options to give to a new group: those that tell the groups apart, and that it does not inherit."""
    sources = [mine.groups[number] for number in own or (0,)]
    rate = rates(mine.groups, its.groups)
    known = {key for group in mine.groups for key in group}
    found: dict[str, Any] = {}
    for name in [*dict.fromkeys(key for group in (*sources, wanted) for key in group)]:
        if name not in known or type(name) is not str or (name in RATES and name != rate):
            continue
        apart = len({spelled(group.get(name, _MISSING)) for group in sources}) > 1
        value = wanted.get(name, sources[0].get(name))
        differs = spelled(sources[0].get(name, _MISSING)) != spelled(value)
        if (
            (apart or (differs and _tells_apart(its, name)))
            and (name in wanted or name in sources[0])
            and is_option(name, value)
        ):
            found[name] = tuple(value) if is_a(value, list) else value
    return found


def _tells_apart(its: OptimizerView, name: str) -> bool:
    return len({spelled(group.get(name, _MISSING)) for group in its.groups}) > 1


def _selections(target: Names, model: Parameters) -> tuple[list[list[str]], bool]:
    """Return patterns for each group, and whether `in_order` has to put its parameters into order."""
    every = model.aliases(frozenset(name for own in target for name in own))
    place = {name: number for number, name in reversed(list(enumerate(model.tied[each] for each in every)))}
    follows = [_ascends([place[name] for name in own]) for own in target]
    texts = [list(_in_runs(own, every, place, model)) for own in target]
    spare = [number for number, own in enumerate(target) if own and follows[number]]
    if spare:
        longest = max(spare, key=lambda number: (len(texts[number]), sum(map(len, texts[number])), -number))
        texts[longest] = [_REST]
    made = [_selected(own, every, model) for own in texts]
    if all(follows):
        return texts, any(own != list(wanted) for own, wanted in zip(made, target, strict=True) if own)
    exact = [
        own if own == [_REST] or selected == list(wanted) else list(literals(wanted))
        for own, selected, wanted in zip(texts, made, target, strict=True)
    ]
    return exact, False


def _in_runs(own: Sequence[str], every: Sequence[str], place: Mapping[str, int], model: Parameters) -> Iterator[str]:
    """Yield patterns for the parameters of a group: one run after the other in which they follow the state dict."""
    begins = [0, *(at for at, (one, two) in enumerate(pairwise(own), 1) if place[one] > place[two]), len(own)]
    for begin, end in pairwise(begins):
        run = frozenset(own[begin:end])
        names = [name for name in every if model.tied[name] in run]
        module = _module_of(names)
        if module and all(model.tied[name] in run for name in every if name.startswith(module)):
            yield f"{literal(module)}*"  # the usual case, and quick: some optimizers have a group for each layer
        else:
            yield from selecting(names, every)


def _module_of(names: Sequence[str]) -> str:
    """Return the prefix of the innermost module that holds several parameters; empty if it is the whole model."""
    if len(names) < 2:
        return ""
    pairs = zip(min(names), max(names), strict=False)
    shared = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return shared[: shared.rfind(".") + 1]


def _selected(texts: Sequence[str], every: Sequence[str], model: Parameters) -> list[str]:
    """Return the parameters that patterns select, in their order; none for the rest, which is always in order."""
    if list(texts) == [_REST]:
        return []
    table = dict.fromkeys(every)
    return list(dict.fromkeys(model.tied[name] for text in texts for name, _ in pattern(text).among(table)))


def _ascends(places: Sequence[int]) -> bool:
    return all(one < two for one, two in pairwise(places))
