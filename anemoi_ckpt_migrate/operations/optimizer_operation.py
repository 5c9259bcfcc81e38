"""The base of operations on one optimizer, and checks of their fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, Runner, integer_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.optimizer_context import OptimizerContext

_NO_OPTIONS = ("params", "param_names")


class OptimizerOperation(Operation):
    """An operation on one optimizer. The parameters of the model stay as they are.

    A checkpoint without any optimizer is left unchanged.

    Attributes
    ----------
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    """

    on_parameters = False
    optimizer: int

    def __post_init__(self) -> None:
        integer_of(self, "optimizer", self.optimizer, 0)

    def perform(self, runner: Runner) -> list[Operation]:
        """Apply it to its optimizer."""
        return runner.apply_to_optimizer(self)

    def inverse(self) -> Operation | None:
        """Return None: the rollback depends on the checkpoint."""
        return None

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Change the optimizer, and return the rollback. Faults go to the context.

        Raises
        ------
        Mismatch
            It cannot be applied; the message says why.
        """
        raise NotImplementedError


def options_of(kind: Operation, what: str, value: Any) -> dict[str, Any]:
    """Return options of a group, by name. Lists become tuples, as torch has them.

    Raises
    ------
    BadOperation
        The value is no such dict.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise BadOperation(f"{type(kind).__name__}: {what} must be a dict of options, not {value!r:.60}")
    for name in value:
        if name in _NO_OPTIONS:
            raise BadOperation(f"{type(kind).__name__}: {name} is not an option; groups are lists of names")
    for name in ("lr", "initial_lr"):
        if name in value and not _is_rate(value[name]):
            raise BadOperation(f"{type(kind).__name__}: {name} must be a number, not {value[name]!r:.60}")
    return {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
