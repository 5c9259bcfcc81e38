"""The parameters of a checkpoint, ready for comparison."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.manifests.compare import StateDictDiff, by_name, misfit_by_name
from anemoi_ckpt_migrate.state.find_parameters import find_main
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage import Checkpoint
from anemoi_ckpt_migrate.storage.tensors.refs import is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace


@dataclass(frozen=True)
class CheckpointParameters:
    """The parameters of a checkpoint.

    Attributes
    ----------
    items : list of Item
        The parameters, in order.
    left_out : frozenset of str
        Names of tensors that cannot be compared, because of their layout or class.
    """

    items: list[Item]
    left_out: frozenset[str]

    @cached_property
    def _by_name(self) -> dict[str, Item]:
        return by_name(self.items)

    def misfit(self, expected: Iterable[Item], shapes: bool = True) -> StateDictDiff:
        """Return the differences from the expected parameters; `shapes=False` ignores shapes."""
        wanted = [item for item in expected if item.name not in self.left_out] if self.left_out else expected
        found = misfit_by_name(self._by_name, by_name(wanted))
        return found if shapes else replace(found, reshaped=())


def own_of(file: Checkpoint, tree: Any, parameters: str | None, content: bool = False) -> CheckpointParameters | None:
    """Return the parameters of a checkpoint; None if it has none, or the state dict cannot be identified."""
    place = find_main(tree, parameters)
    if isinstance(place, str):
        return None
    found, left_out = items_of(place.table(), Tensors(file.maker, file.same, content))
    return CheckpointParameters(found, frozenset(left_out))


def items_of(table: Table, tensors: Tensors, digested: Checkpoint | None = None) -> tuple[list[Item], list[str]]:
    """Return the comparable parameters in a table, and the names of the tensors that cannot be compared."""
    items, left_out = [], []
    for name in table:
        value = table[name]
        try:
            shape, dtype = tensors.shape(value), tensors.dtype(value)
        except Mismatch:
            left_out += [name] if is_stored(value) else []  # other values are not parameters
            continue
        items.append(Item(name, shape, dtype, None if digested is None else digested.digest(value)))
    return items, left_out
