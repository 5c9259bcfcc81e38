"""A checkpoint in memory after operations, as `upgrade` would change it, and its optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.autogenerate.explain_optimizers import find_places
from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView, Parameters, options_of
from anemoi_ckpt_migrate.engine.checkpoint_state import CheckpointState
from anemoi_ckpt_migrate.engine.runner import OperationRunner
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.infer_optimizer import moment_shape, parameters, plain_shape
from anemoi_ckpt_migrate.state.schedulers import is_scheduler
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.tree_changes import Path
    from anemoi_ckpt_migrate.operations.base import Operation
    from anemoi_ckpt_migrate.storage import Checkpoint


def applied(file: Checkpoint, operations: Sequence[Operation], path: str | None) -> CheckpointState:
    """Apply operations to a checkpoint in memory, as `upgrade` would; faults are in the result.

    Parameters
    ----------
    file : Checkpoint
        The open file.
    operations : sequence of Operation
        The operations, without functions.
    path : str or None
        The path of the state dict; None to find it.
    """
    tree, _ = embed.unrecorded(file)
    state = _opened(file, tree, path)
    OperationRunner(state, "", "<the new script>", _none, _none).apply(operations)
    state.close()
    return state


class Results:
    """What operations make of a checkpoint, in memory. The last result is kept, as two questions are asked about it.

    Parameters
    ----------
    file : Checkpoint
        The open file.
    tree : object
        Its tree, without its record; nobody changes it.
    path : str or None
        The path of the state dict; None to find it.
    """

    def __init__(self, file: Checkpoint, tree: Any, path: str | None) -> None:
        self._file, self._path = file, path
        self._untouched = Result(_opened(file, tree, path))
        self._operations: Sequence[Operation] = ()
        self._last = self._untouched

    def after(self, operations: Sequence[Operation]) -> Result:
        """Return the result of operations; none, for the checkpoint as it is."""
        if not operations:
            return self._untouched
        known = len(operations) == len(self._operations)
        if not known or any(one is not other for one, other in zip(operations, self._operations, strict=True)):
            self._last = Result(applied(self._file, operations, self._path))
            self._operations = tuple(operations)
        return self._last


class Result:
    """A checkpoint in memory after operations.

    Parameters
    ----------
    state : CheckpointState
        The closed state of the checkpoint.
    """

    def __init__(self, state: CheckpointState) -> None:
        self.state = state

    @cached_property
    def parameters(self) -> Parameters | None:
        """Its parameters, and its optimizers; None without a state dict."""
        return optimizers_of(self.state)


def _opened(file: Checkpoint, tree: Any, path: str | None) -> CheckpointState:
    return CheckpointState(tree, Tensors(file.maker, file.same), {}, path, keeps_order=file.keeps_order)


def _none(name: str, tree: Any) -> Any:
    raise NotImplementedError(name)  # guessed operations contain no functions


def optimizers_of(state: CheckpointState) -> Parameters | None:
    """Return the parameters of a checkpoint, and its optimizers; None without a state dict."""
    opened = state.open()
    if isinstance(opened, str):
        return None
    main, tensors = opened.parameters.table, state.tensors
    firsts: dict[Any, str] = {}
    tied = {name: firsts.setdefault(memory_of(main[name]) or name, name) for name in main if is_tensor(main[name])}
    shapes = {
        name: shape
        for name in parameters(main, tensors)
        if tied[name] == name and (shape := plain_shape(main[name], tensors)) is not None
    }
    places = find_places(state.tree)
    paths = {".".join(map(str, path)): path for path in places}
    found = []
    for each, own in state.optimizers:
        names = None
        if not each.unknown:
            names = tuple(tuple(tied.get(name, name) for name in group) for group in own.names(main))
        states = [[own.state_of(key) for key in group["params"]] for group in own.groups]
        found.append(
            OptimizerView(
                paths.get(own.path, tuple(own.path.split("."))),
                tuple(map(options_of, own.groups)),
                tuple(content for group in states for content in group if is_a(content, dict)),
                names,
                tuple(tuple(moment_shape(content, tensors) for content in group) for group in states),
                own.is_flattened,
            )
        )
    return Parameters(tied, shapes, tuple(found), tuple(_schedulers(places)))


def _schedulers(places: Mapping[Path, Any]) -> Iterator[str]:
    """Yield the paths of schedulers, without those that are parts of others."""
    every = [path for path, value in places.items() if is_scheduler(value)]
    for path in every:
        if not any(path[: len(other)] == other for other in every if other != path):
            yield ".".join(map(str, path))
