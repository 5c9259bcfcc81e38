"""One copy of the parameters: ordered names with values, at a location in the tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.find_parameters import ParameterLocation
    from anemoi_ckpt_migrate.state.ordered_names import Table


class Values(Protocol):
    """Operations on the values of a table: tensors, or the optimizer state of a parameter."""

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the shape of a parameter."""

    def dtype(self, value: Any) -> str:
        """Return the dtype of a parameter, without ``torch.``."""

    def make(self, kind: str, args: tuple[Any, ...], values: Sequence[Any]) -> Any:
        """Make a value from others, as `recipes.outcome` says."""

    def insert(self, value: Any, part: Any, dim: int, at: int | None) -> Any:
        """Make a value that has another one between its entries along a dimension: behind `at` of them, or behind all.

        Raises
        ------
        Mismatch
            It does not fit there.
        """

    def same(self, one: Any, other: Any) -> bool:
        """Return whether two values have the same content."""

    def keep(self, value: Any) -> Any:
        """Return a value in the form for the stash."""

    def kept(self, value: Any) -> Any:
        """Return a value from its form in the stash."""


@dataclass
class ParameterSet:
    """One copy of the parameters.

    Attributes
    ----------
    path : str
        Its path in the tree.
    table : Table
        Its names.
    values : Values
        Operations on the values.
    main : ParameterSet or None
        The main copy, to which operations are applied first; None for the main copy itself.
    whole : bool
        Whether it has all the names that the main one has.
    optimizer : bool
        Whether it is an optimizer state.
    place : ParameterLocation or None
        The names in the tree; None if the tree does not have them.
    """

    path: str
    table: Table
    values: Values
    main: ParameterSet | None = None
    whole: bool = True
    optimizer: bool = False
    place: ParameterLocation | None = None

    @property
    def missing_prefix(self) -> str:
        """The prefix of its names that they lack in the tree."""
        return "" if self.place is None else self.place.missing_prefix
