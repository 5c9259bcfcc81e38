"""Which parameters an optimizer has, where only the shapes of its moments and the order of the state dict tell."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from operator import is_
from typing import Any

from anemoi_ckpt_migrate.state.dtypes import is_floating
from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

SAY = "say it with op.ParameterGroups([[...]]), names or patterns in the optimizer's order, or save param_names"
"""What helps where nothing tells."""
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # torch.nn.modules.batchnorm


class Unknown(Exception):
    """It cannot be told which parameter is which; the message says why, and what helps."""


def from_shapes(
    path: str, main: Table, tensors: Tensors, groups: Sequence[Sequence[tuple[int, ...] | None]]
) -> list[list[str]]:
    """Return the parameters of an optimizer, if only one choice from the state dict, in its order, has the shapes.

    Parameters
    ----------
    path : str
        Where the optimizer is, for messages.
    main : Table
        The state dict.
    tensors : Tensors
        What can be done with its tensors.
    groups : sequence of sequences of shape or None
        The shapes of each group, as far as they are known.

    Raises
    ------
    Unknown
        There is no such choice, or more than one.
    """
    every: list[tuple[str, tuple[int, ...]]] = []
    for name, shape in candidates(main, tensors):
        if shape is None:
            raise Unknown(f"whether the optimizer at {path} has {name}, no plain tensor, is not known; {SAY}")
        every.append((name, shape))
    likely = [(name, shape) for name, shape in every if not _is_known_buffer(name, main)]
    for choice in (likely, every):
        found = assignments([shape for _, shape in choice], groups)
        if len(found) == 1:
            return [[choice[place][0] for place in own] for own in found[0]]
        if found:
            _refuse_ambiguous(path, choice, found)
        if len(likely) == len(every):
            break
    count = sum(map(len, groups))
    raise Unknown(
        f"the optimizer at {path} has {count} parameters, whose shapes do not fit the {len(every)} of the "
        f"state dict in their order; {SAY}"
    )


def _refuse_ambiguous(path: str, choice: Sequence[tuple[str, Any]], found: Any) -> None:
    for one, other in zip(*found[:2], strict=True):
        for mine, its in zip(one, other, strict=True):
            if mine != its:
                raise Unknown(
                    f"the optimizer at {path} has moments that may belong to {choice[mine][0]} or to "
                    f"{choice[its][0]}; {SAY}"
                )
    raise Unknown(f"the optimizer at {path} has too many parameters of one shape to tell them apart; {SAY}")


def moment_shape(state: Any, tensors: Tensors) -> tuple[int, ...] | None:
    """Return the shape that a parameter has by what is remembered of it; None if that does not tell."""
    if not is_a(state, dict):
        return None
    own = {plain_shape(value, tensors) for value in state.values() if is_tensor(value)} - {(), None}
    return own.pop() if len(own) == 1 else None


def plain_shape(value: Any, tensors: Tensors) -> tuple[int, ...] | None:
    """Return the shape of a tensor; None for one that only functions can change, as a sparse one."""
    try:
        return tensors.shape(value)
    except Mismatch:
        return None


def candidates(main: Table, tensors: Tensors) -> list[tuple[str, tuple[int, ...] | None]]:
    """Return what may be parameters, with the shape: floating point, and of tied ones the first."""
    seen: set[Any] = set()
    found = []
    for name in main:
        value = main[name]
        if not _may_be_one(value, tensors):
            continue
        memory = memory_of(value)
        if memory is not None and memory in seen:
            continue
        seen.add(memory)
        found.append((name, plain_shape(value, tensors)))
    return found


def parameters(main: Table, tensors: Tensors) -> list[str]:
    """Return the names of what may be parameters, without the buffers that are known; tied ones by each of theirs."""
    return [name for name in main if _may_be_one(main[name], tensors) and not _is_known_buffer(name, main)]


def is_buffer(name: str, names: Container[str]) -> bool:
    """Tell whether a name is that of a buffer of a batch norm, beyond doubt: it counts batches."""
    module, dot, _ = name.rpartition(".")
    return _is_known_buffer(name, names) and f"{module}{dot}{_BUFFERS[2]}" in names


def _may_be_one(value: Any, tensors: Tensors) -> bool:
    dtype = tensors.dtype(value) if is_tensor(value) else ""
    return may_be_parameter(dtype)


def may_be_parameter(dtype: str) -> bool:
    """Tell whether parameters may be of a dtype."""
    return is_floating(dtype) or dtype.startswith("complex")


def _is_known_buffer(name: str, names: Container[str]) -> bool:
    """Tell whether a name is that of a buffer of torch's normalisations over batches."""
    module, _, leaf = name.rpartition(".")
    lead = f"{module}." if module else ""
    return leaf in _BUFFERS and all(f"{lead}{other}" in names for other in _BUFFERS[:2])


def differ(before: Mapping[str, Any], after: Mapping[str, Any], by_name: bool) -> bool:
    """Tell whether these are not the very same values, in the same order; or, by name, of the same names."""
    same = len(before) == len(after) and all(map(is_, before.values(), after.values()))
    return not same or (by_name and list(before) != list(after))


_MOST_STATES = 400_000

Shape = tuple[int, ...]
Assignment = list[list[int]]
"""For each group, the place in the sequence of each of its members."""


def assignments(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[Assignment]:
    """Find ways to match; at most two, for two are as good as many.

    Parameters
    ----------
    shapes : sequence of shape
        The sequence.
    groups : sequence of sequences of shape or None
        Each is a subsequence of it, no place is taken twice, and some may be taken by none. None fits anything.

    Returns
    -------
    list of Assignment
        None, one, or two that differ; two empty ones if there are too many to look through.
    """
    total = sum(map(len, groups))
    if total > len(shapes):
        return []
    start = (0,) * len(groups)
    end = tuple(map(len, groups))
    layers = _layers(shapes, groups, start, total)
    if layers is None:
        return [[], []]
    alive: list[set[tuple[int, ...]]] = [set() for _ in layers]
    if end not in layers[-1]:
        return []
    alive[-1] = {end}
    for place in range(len(shapes) - 1, -1, -1):
        alive[place] = {
            state
            for state in layers[place]
            if any(after in alive[place + 1] for after, _ in _moves(state, shapes[place], groups))
        }
    return _paths(shapes, groups, alive)


def _layers(shapes: Sequence[Shape], groups: Any, start: tuple[int, ...], total: int) -> Any:
    layers: list[set[tuple[int, ...]]] = [{start}]
    count = 1
    for place, shape in enumerate(shapes):
        left = len(shapes) - place - 1
        layer = {
            after for state in layers[-1] for after, _ in _moves(state, shape, groups) if total - sum(after) <= left
        }
        layers.append(layer)
        count += len(layer)
        if count > _MOST_STATES:
            return None
    return layers


def _moves(state: tuple[int, ...], shape: Shape, groups: Any) -> list[tuple[tuple[int, ...], int | None]]:
    found: list[tuple[tuple[int, ...], int | None]] = [(state, None)]
    for index, group in enumerate(groups):
        done = state[index]
        if done < len(group) and group[done] in (None, shape):
            found.append(((*state[:index], done + 1, *state[index + 1 :]), index))
    return found


def _paths(shapes: Sequence[Shape], groups: Any, alive: list[set[tuple[int, ...]]]) -> list[Assignment]:
    """Walk through what leads to the end; where two ways part, take each once."""
    found: list[Assignment] = []
    for choose_last in (False, True):
        state = (0,) * len(groups)
        own: Assignment = [[] for _ in groups]
        for place, shape in enumerate(shapes):
            moves = [move for move in _moves(state, shape, groups) if move[0] in alive[place + 1]]
            state, group = moves[-1 if choose_last else 0]
            if group is not None:
                own[group].append(place)
        if own not in found:
            found.append(own)
    return found
