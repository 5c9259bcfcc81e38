"""The optimizers of a checkpoint, as two checkpoints are compared: groups, names, options, keys of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.autogenerate.tree_changes import Path
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

Names = tuple[tuple[str, ...], ...]
"""The names of the parameters of each group, in order."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class OptimizerView:
    """One optimizer.

    Attributes
    ----------
    path : tuple
        The keys to it.
    groups : tuple of dict
        The options of each group.
    states : tuple of mapping
        The state of each parameter that has one.
    names : tuple of tuple of str, or None
        The parameters of each group, in order; None if they cannot be identified. Of tied names, the first.
    moments : tuple of tuple of shape or None
        The shape of each parameter of each group, as its moments show it.
    is_flattened : bool
        Whether the state is flattened.
    """

    path: Path
    groups: tuple[dict[Any, Any], ...]
    states: tuple[Mapping[Any, Any], ...]
    names: Names | None
    moments: tuple[tuple[Shape | None, ...], ...] = ()
    is_flattened: bool = False

    @property
    def every(self) -> tuple[str, ...]:
        """The names of all of its parameters."""
        return tuple(name for own in self.names or () for name in own)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the state of its parameters."""
        return frozenset(str(key) for state in self.states if is_a(state, dict) for key in state)

    def with_options(self, groups: tuple[dict[Any, Any], ...]) -> OptimizerView:
        """Return it with other options of its groups."""
        return replace(self, groups=groups)

    def with_names(self, names: Names) -> OptimizerView:
        """Return it with other names of its parameters."""
        return replace(self, names=names)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model, and its optimizers.

    Attributes
    ----------
    tied : mapping of str to str
        For each name of the state dict, in order, the first name of the same tensor.
    shapes : mapping of str to shape
        The shapes of those that an optimizer may have, under their first names.
    optimizers : tuple of OptimizerView
        The optimizers, in the order in which operations count them.
    schedulers : tuple of str
        The paths of the schedulers, in order.
    """

    tied: Mapping[str, str]
    shapes: Mapping[str, Shape]
    optimizers: tuple[OptimizerView, ...] = ()
    schedulers: tuple[str, ...] = ()

    def aliases(self, names: frozenset[str]) -> list[str]:
        """Return all names of some parameters, in the order of the state dict."""
        return [name for name, first in self.tied.items() if first in names]


def options_of(group: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the options of a group, without its parameters."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}
