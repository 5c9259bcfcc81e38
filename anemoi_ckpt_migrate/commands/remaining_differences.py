"""Differences that remain between two checkpoints after operations: parameters, copies of them, optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.commands.diff_sides import Side
from anemoi_ckpt_migrate.engine.checkpoint_state import CheckpointState
from anemoi_ckpt_migrate.engine.runner import OperationRunner
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import items_of
from anemoi_ckpt_migrate.manifests.compare import misfit
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.record import embed
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
from anemoi_ckpt_migrate.storage import Checkpoint
from anemoi_ckpt_migrate.storage.tensors.refs import is_a

_SHOWN = 5
_EXPECTED = {"params", "param_names", "lr"}  # options of a group; a schedule changes the learning rate in every run


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
    if one.file is None:
        return ()
    file = one.file
    tree, _ = embed.unrecorded(file)
    tensors = Tensors(file.maker, file.same)
    main = find_main(tree, path)
    copies = [] if isinstance(main, str) else [place.path for place in find_copies(tree, main, main.table())]
    state = CheckpointState(tree, tensors, {}, path, keeps_order=file.keeps_order)
    runner = OperationRunner(state, "", "<the new script>", _none, _none)
    runner.apply([each for each in operations if each.on_parameters])
    state.close()
    if state.faults:
        return tuple(f"the script does not apply to {file.path} yet: {fault}" for fault in state.faults[:_SHOWN])
    place = find_main(state.tree, path)
    if isinstance(place, str):
        return (place,)
    left = misfit(items_of(place.table(), tensors)[0], other.items)
    if not (one.is_ordered and other.is_ordered):
        left = replace(left, moved=False)
    found = [f"not explained: {what}" for what in left.sentences()]
    if other.file is None:
        return tuple(found[:_SHOWN])
    new, _ = embed.unrecorded(other.file)
    return (
        *found[:_SHOWN],
        *_of_copies(copies, (file, state.tree), (other.file, new), other.shown),
        *_of_optimizers(dict(find_optimizers(state.tree)), dict(find_optimizers(new)), other.shown),
    )


def _none(name: str, tree: Any) -> Any:
    raise NotImplementedError(name)  # guessed operations contain no functions


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


def _of_optimizers(one: Mapping[str, Any], other: Mapping[str, Any], shown: str) -> Iterator[str]:
    """Compare the groups of optimizers that both checkpoints have."""
    for path, content in one.items():
        if path in other:
            said = list(_of_groups(content, other[path], shown))
            yield from [f"the optimizer at {path} differs: {'; '.join(said)}"] if said else []


def _of_groups(one: Mapping[str, Any], other: Mapping[str, Any], shown: str) -> Iterator[str]:
    mine, its = one["param_groups"], other["param_groups"]
    if _counts(mine) != _counts(its):
        yield f"it has {_counts(mine)}, but {_counts(its)} in {shown}"
    elif all("param_names" in group for group in (*mine, *its)):
        pairs = zip(mine, its, strict=True)
        for number, moved in enumerate([sorted(set(a["param_names"]) ^ set(b["param_names"])) for a, b in pairs]):
            if moved:
                yield f"group {number} has other parameters in {shown}: {', '.join(together(map(str, moved)))}"
    for option in sorted({str(key) for key in mine[0]} - _EXPECTED if mine else ()):
        values = [_values(groups, option, len(mine) == len(its)) for groups in (mine, its)]
        if all(values) and values[0] != values[1]:
            yield f"{option} is {' and '.join(values[0])}, but {' and '.join(values[1])} in {shown}"
    states = [_states(content) for content in (one, other)]
    if all(states) and states[0] != states[1]:
        yield f"its state is {', '.join(states[0])}, but {', '.join(states[1])} in {shown}"


def _counts(groups: Sequence[Mapping[str, Any]]) -> str:
    counts = " and ".join(str(len(group["params"])) for group in groups) or "no"
    return f"{len(groups)} group{'s' * (len(groups) != 1)} of {counts} parameters"


def _values(groups: Sequence[Mapping[str, Any]], option: str, each: bool) -> list[str]:
    """Return the values of an option, per group or each once; none if they cannot be compared."""
    values = [group.get(option) for group in groups]
    if any(option not in group for group in groups) or any(map(is_tensor, values)):
        return []
    shown = [f"{list(value) if is_a(value, tuple) else value!r:.40}" for value in values]
    return shown if each and len(set(shown)) > 1 else list(dict.fromkeys(shown))


def _states(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the moments and other state that an optimizer keeps per parameter."""
    return sorted({str(key) for state in content["state"].values() if is_a(state, dict) for key in state})
