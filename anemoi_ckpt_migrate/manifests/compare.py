"""In what parameters are not what is expected: the same question before a migration, after it, and of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.state.find_parameters import is_extra


@dataclass(frozen=True)
class Misfit:
    """What parameters do not have in common with what is expected.

    Attributes
    ----------
    missing, extra : tuple of Item
        What is expected and not there; what is there and not expected.
    reshaped, recast : tuple of (Item, Item)
        What has another shape, or another dtype and the right shape: as it is, and as it is expected.
    moved : bool
        Whether only the order is another.
    """

    missing: tuple[Item, ...] = ()
    extra: tuple[Item, ...] = ()
    reshaped: tuple[tuple[Item, Item], ...] = ()
    recast: tuple[tuple[Item, Item], ...] = ()
    moved: bool = False

    @property
    def count(self) -> int:
        """How many names or shapes are not as they are expected to be."""
        return len(self.missing) + len(self.extra) + len(self.reshaped)

    @property
    def only_sizes(self) -> bool:
        """Whether the names are right, and only shapes are not."""
        return self.count == len(self.reshaped) > 0

    @property
    def exact(self) -> bool:
        """Whether nothing is: names, shapes, dtypes and order are those that are expected."""
        return self == Misfit()

    def sentences(self) -> list[str]:
        """Say each."""
        shapes = [f"{own.name} is {list(own.shape)}, not {list(wanted.shape)}" for own, wanted in self.reshaped]
        dtypes = [f"{own.name} is {own.dtype}, not {wanted.dtype}" for own, wanted in self.recast]
        return [
            *(f"{item.name} is missing" for item in self.missing),
            *(f"{item.name} is left over" for item in self.extra),
            *shapes,
            *dtypes,
            *(["the order is another"] if self.moved else []),
        ]


def misfit(own: Sequence[Item], expected: Sequence[Item]) -> Misfit:
    """Compare parameters with what is expected, by name.

    What modules save of their own is left out: what it is differs from run to run, where it is a tensor at all.

    Parameters
    ----------
    own, expected : sequence of Item
        In order.
    """
    mine, its = ({item.name: item for item in side if not is_extra(item.name)} for side in (own, expected))
    missing = tuple(item for name, item in its.items() if name not in mine)
    extra = tuple(item for name, item in mine.items() if name not in its)
    both = [(mine[name], item) for name, item in its.items() if name in mine]
    reshaped = tuple(pair for pair in both if pair[0].shape != pair[1].shape)
    recast = tuple(pair for pair in both if pair[0].shape == pair[1].shape and pair[0].dtype != pair[1].dtype)
    moved = not missing and not extra and list(mine) != list(its)
    return Misfit(missing, extra, reshaped, recast, moved)
