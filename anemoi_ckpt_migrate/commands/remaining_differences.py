"""Differences that remain between two checkpoints after operations: parameters, copies of them, optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.autogenerate.explain_optimizers import (
    EXPECTED,
    class_of_state,
    scheduler_kinds,
    schedulers_in,
)
from anemoi_ckpt_migrate.autogenerate.match_classes import own_names
from anemoi_ckpt_migrate.autogenerate.match_items import missing_items
from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import items_of
from anemoi_ckpt_migrate.manifests.compare import misfit
from anemoi_ckpt_migrate.state.find_parameters import (
    ParameterLocation,
    at,
    find_copies,
    find_main,
    find_optimizers,
    is_parameters,
    is_tensor,
)
from anemoi_ckpt_migrate.state.pickled_module import held
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.class_names import spelled
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView
    from anemoi_ckpt_migrate.commands.applied_operations import Result
    from anemoi_ckpt_migrate.commands.diff_sides import Side
    from anemoi_ckpt_migrate.operations.base import Operation
    from anemoi_ckpt_migrate.storage import Checkpoint

_SHOWN = 5


def remainder(one: Side, other: Side, operations: Sequence[Operation], path: str | None) -> tuple[str, ...]:
    """Apply operations to the old checkpoint in memory, as `upgrade` would, and return the remaining differences.

    Parameters
    ----------
    one, other : Side
        The old checkpoint, and the new one or a model. If the old side is a model, nothing is returned.
    operations : sequence of Operation
        The operations to apply.
    path : str or None
        The path of the state dict; None to find it.

    Returns
    -------
    tuple of str
        One sentence for each difference.
    """
    if one.file is None or one.results is None:
        return ()
    file = one.file
    main = find_main(one.tree, path)
    copies = [] if isinstance(main, str) else [place.path for place in find_copies(one.tree, main, main.table())]
    result = one.results.after(operations)
    state, tensors = result.state, result.state.tensors
    if state.faults:
        return tuple(f"the script does not apply to {file.path} yet: {fault}" for fault in state.faults[:_SHOWN])
    place = find_main(state.tree, path)
    if isinstance(place, str):
        return (place,)
    left = misfit(items_of(place.table(), tensors)[0], other.items)
    if not (one.is_ordered and other.is_ordered):
        left = replace(left, moved=False)
    found = [f"not explained: {what}" for what in left.sentences()]
    if other.file is None or other.results is None:
        return tuple(found[:_SHOWN])
    new = other.tree
    target = find_main(new, path)
    if not isinstance(target, str):
        had = {place.path for place in find_copies(state.tree, place, place.table())}
        wanted = [each.path for each in find_copies(new, target, target.table())]
        found += [
            f"{other.shown} has a copy of the parameters at {each}; the result has none there"
            for each in wanted
            if each not in had
        ]
        copies = list(dict.fromkeys([*copies, *(each for each in wanted if each in had)]))
    return (
        *found[:_SHOWN],
        *_of_copies(copies, (file, state.tree), (other.file, new), other.shown),
        *(_of_optimizers(result, other.results.after(()), other.shown) if find_optimizers(new) else ()),
        *_of_schedulers(state.tree, new, other.shown),
        *_of_items(state.tree, new, other.shown),
    )


def _of_copies(
    paths: Sequence[str], one: tuple[Checkpoint, Any], other: tuple[Checkpoint, Any], shown: str
) -> Iterator[str]:
    """Compare copies of the parameters, such as averages, by the names they have in the file."""
    for path in paths:
        items = []
        for file, tree in (one, other):
            content = held(at(tree, path))
            if is_parameters(content):
                items.append(items_of(ParameterLocation(path, content).table(), Tensors(file.maker, file.same))[0])
        if len(items) == 2 and (said := misfit(*items).sentences()):
            yield f"{path} would differ from that of {shown}: {', '.join(together(said))}"


def _of_optimizers(one: Result, other: Result, shown: str) -> Iterator[str]:
    """Compare the optimizers that the new checkpoint has: groups, parameters, options, state."""
    mine = {each.path: each for each in (() if one.parameters is None else one.parameters.optimizers)}
    for its in () if other.parameters is None else other.parameters.optimizers:
        path = ".".join(map(str, its.path))
        if its.path not in mine:
            yield f"{shown} has an optimizer at {path}; the result has none there"
        elif said := list(_of_groups(mine[its.path], its, shown)):
            yield f"the optimizer at {path} differs: {'; '.join(said)}"


def _of_schedulers(one: Any, other: Any, shown: str) -> Iterator[str]:
    """Compare the learning-rate schedulers that the new checkpoint has."""
    mine, its = schedulers_in(one), schedulers_in(other)
    for path, content in its.items():
        at_path = ".".join(map(str, path))
        if path not in mine:
            yield f"{shown} has a scheduler at {at_path}; the result has none there"
        elif (said := scheduler_kinds(mine[path], content)) is not None:
            yield f"the scheduler at {at_path} is of another class: {said} in {shown}"
        elif (count := _rates(mine[path])) != (wanted := _rates(content)):
            yield f"the scheduler at {at_path} differs: it has {count} learning rates, but {wanted} in {shown}"


def _rates(scheduler: Mapping[str, Any]) -> int:
    rates = scheduler.get("base_lrs")
    return len(rates) if is_a(rates, (list, tuple)) else 0


def _of_items(one: Any, other: Any, shown: str) -> Iterator[str]:
    """Compare the hyper-parameters, and the classes that the checkpoints name."""
    said = missing_items(one, other) if is_a(one, dict) and is_a(other, dict) else []
    if said:
        yield f"hyper-parameters differ from those of {shown}: {', '.join(together(said))}"
    gone = sorted(map(spelled, own_names(one) - own_names(other)))
    if gone and is_a(one, dict):
        yield f"the result names classes that {shown} does not: {', '.join(together(gone))}"


def _of_groups(one: OptimizerView, other: OptimizerView, shown: str) -> Iterator[str]:
    mine, its = one.groups, other.groups
    if _counts(one) != _counts(other):
        yield f"it has {_counts(one)}, but {_counts(other)} in {shown}"
    elif one.names is not None and other.names is not None:
        for number, (own, wanted) in enumerate(zip(one.names, other.names, strict=True)):
            if moved := sorted(set(own) ^ set(wanted)):
                yield f"group {number} has other parameters in {shown}: {', '.join(together(moved))}"
            elif own != wanted and not other.is_flattened:
                yield f"group {number} has its parameters in another order in {shown}"
    for option in sorted({str(key) for key in mine[0]} - {*EXPECTED} if mine else ()):
        values = [_values(groups, option, len(mine) == len(its)) for groups in (mine, its)]
        if all(values) and values[0] != values[1]:
            yield f"{option} is {' and '.join(values[0])}, but {' and '.join(values[1])} in {shown}"
    states = [sorted(view.keys) for view in (one, other)]
    if all(states) and states[0] != states[1]:
        kinds = [class_of_state(view) or "unknown" for view in (one, other)]
        classes = f" (its class is {kinds[0]}, but {kinds[1]} there)" if kinds[0] != kinds[1] else ""
        yield f"its state is {', '.join(states[0])}, but {', '.join(states[1])} in {shown}{classes}"


def _counts(view: OptimizerView) -> str:
    counts = " and ".join(str(len(own)) for own in view.moments) or "no"
    return f"{len(view.moments)} group{'s' * (len(view.moments) != 1)} of {counts} parameters"


def _values(groups: Sequence[Mapping[str, Any]], option: str, each: bool) -> list[str]:
    """Return the values of an option, per group or each once; none if they cannot be compared."""
    values = [group.get(option) for group in groups]
    if any(option not in group for group in groups) or any(map(is_tensor, values)):
        return []
    shown = [f"{list(value) if is_a(value, tuple) else value!r:.40}" for value in values]
    return shown if each and len(set(shown)) > 1 else list(dict.fromkeys(shown))
