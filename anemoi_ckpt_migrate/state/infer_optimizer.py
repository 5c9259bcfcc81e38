"""Infer the parameters of an optimizer from the shapes of its moments and the order of the state dict."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.state.dtypes import is_floating
from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.ordered_names import Table

SAY = "list them with op.ParameterGroups([[...]]), names or patterns in the optimizer's order, or save param_names"
"""Advice for when the parameters cannot be inferred."""
SAY_NAMES = (
    "list their names with op.ParameterGroups([[...]]), in the optimizer's order, or record the model with "
    "`ckpt-migrate manifest --update`"
)
"""Advice for when they cannot be inferred because the state dict has no order."""
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # torch.nn.modules.batchnorm


class Unknown(Exception):
    """The parameters cannot be identified; the message gives the reason and a solution."""


def from_shapes(
    path: str, main: Table, tensors: Tensors, groups: Sequence[Sequence[tuple[int, ...] | None]]
) -> list[list[str]]:
    """Return the parameters of an optimizer, if only one selection from the state dict, in order, has these shapes.

    Parameters
    ----------
    path : str
        The path of the optimizer, for messages.
    main : Table
        The state dict.
    tensors : Tensors
        Operations on its tensors.
    groups : sequence of sequences of shape or None
        The shapes of each group; None if unknown.

    Raises
    ------
    Unknown
        There is no such selection, or more than one.
    """
    every = _shapes(path, main, tensors)
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
        f"the {count} parameters of the optimizer at {path} do not match the shapes and the order of the "
        f"{len(every)} in the state dict; {SAY}"
    )


def from_shapes_alone(
    path: str, main: Table, tensors: Tensors, groups: Sequence[Sequence[tuple[int, ...] | None]]
) -> list[list[str]]:
    """Return the parameters of an optimizer of a state dict without order, if each shape is that of one parameter only.

    Parameters and errors are those of `from_shapes`.
    """
    every = _shapes(path, main, tensors)
    by_shape: dict[Shape | None, list[str]] = {}
    for name, own in every:
        if not _is_known_buffer(name, main):
            by_shape.setdefault(own, []).append(name)
    by_shape[None] = [name for name, _ in every]  # moments without a shape may be those of any parameter
    moments = [shape for own in groups for shape in own]
    wanted: dict[Shape | None, None] = dict.fromkeys(moments)
    for shape in wanted:
        if len(every) < len(moments) or len(by_shape.get(shape, ())) < moments.count(shape):
            raise Unknown(
                f"the {len(moments)} parameters of the optimizer at {path} do not match the shapes of the {len(every)} "
                f"in the state dict; {SAY_NAMES}"
            )
    for shape in wanted:
        if len(by_shape[shape]) > 1:
            raise Unknown(
                f"the optimizer at {path} has moments that may belong to {by_shape[shape][0]} or to "
                f"{by_shape[shape][1]}, as the files do not keep the order of the model; {SAY_NAMES}"
            )
    return [[by_shape[shape][0] for shape in group] for group in groups]


def _shapes(path: str, main: Table, tensors: Tensors) -> list[tuple[str, Shape]]:
    """Return possible parameters with their shapes."""
    found: list[tuple[str, Shape]] = []
    for name, shape in candidates(main, tensors):
        if shape is None:
            raise Unknown(f"the optimizer at {path} may or may not have {name}, which is not a plain tensor; {SAY}")
        found.append((name, shape))
    return found


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
    """Return the shape of a parameter by its moments; None if they do not show it."""
    if not is_a(state, dict):
        return None
    own = {plain_shape(value, tensors) for value in state.values() if is_tensor(value)} - {(), None}
    return own.pop() if len(own) == 1 else None


def plain_shape(value: Any, tensors: Tensors) -> tuple[int, ...] | None:
    """Return the shape of a tensor; None for one that only functions can change, such as a sparse one."""
    try:
        return tensors.shape(value)
    except Mismatch:
        return None


def candidates(main: Table, tensors: Tensors) -> list[tuple[str, tuple[int, ...] | None]]:
    """Return possible parameters with their shapes: floating point or complex, only the first of tied ones."""
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
    """Return the names of possible parameters, without known buffers; tied ones under all their names."""
    return [name for name in main if _may_be_one(main[name], tensors) and not _is_known_buffer(name, main)]


def is_buffer(name: str, names: Container[str]) -> bool:
    """Return whether a name is certainly that of a batch norm buffer: the module also counts batches."""
    module, dot, _ = name.rpartition(".")
    return _is_known_buffer(name, names) and f"{module}{dot}{_BUFFERS[2]}" in names


def _may_be_one(value: Any, tensors: Tensors) -> bool:
    dtype = tensors.dtype(value) if is_tensor(value) else ""
    return may_be_parameter(dtype)


def may_be_parameter(dtype: str) -> bool:
    """Return whether parameters may have a dtype."""
    return is_floating(dtype) or dtype.startswith("complex")


def _is_known_buffer(name: str, names: Container[str]) -> bool:
    """Return whether a name is that of a buffer of torch's batch normalisations."""
    module, _, leaf = name.rpartition(".")
    lead = f"{module}." if module else ""
    return leaf in _BUFFERS and all(f"{lead}{other}" in names for other in _BUFFERS[:2])


def differ(before: Mapping[str, Any], after: Mapping[str, Any], by_name: bool) -> bool:
    """Return whether two mappings differ in their values (by identity) or order; with `by_name`, also in names."""
    same = len(before) == len(after) and all(map(is_, before.values(), after.values()))
    return not same or (by_name and list(before) != list(after))


_MOST_STATES = 400_000

Shape = tuple[int, ...]
Assignment = list[list[int]]
"""For each group, the index of each of its members in the sequence."""


def assignments(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[Assignment]:
    """Find assignments of groups to a sequence; stops at two, because two already mean that it is ambiguous.

    Parameters
    ----------
    shapes : sequence of shape
        The sequence.
    groups : sequence of sequences of shape or None
        The groups. Each is a subsequence; no index is used twice, and some may be unused. None matches any shape.

    Returns
    -------
    list of Assignment
        Zero, one, or two different assignments; two empty ones if there are too many states to search.
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
    """Follow the states that lead to the end; where two paths part, take each once."""
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
