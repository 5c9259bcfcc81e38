"""Compare parameters with those expected: before a migration, after it, and for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.state.find_parameters import is_extra
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class StateDictDiff:
    """The differences between parameters and those expected.

    Attributes
    ----------
    missing, extra : tuple of Item
        Expected parameters that are absent; present parameters that are not expected.
    reshaped, recast : tuple of (Item, Item)
        Parameters with another shape, or with the right shape and another dtype: the actual and the expected one.
    moved : bool
        Whether the same names stand in another order.
    """

    missing: tuple[Item, ...] = ()
    extra: tuple[Item, ...] = ()
    reshaped: tuple[tuple[Item, Item], ...] = ()
    recast: tuple[tuple[Item, Item], ...] = ()
    moved: bool = False

    @property
    def count(self) -> int:
        """The number of differing names and shapes."""
        return len(self.missing) + len(self.extra) + len(self.reshaped)

    @property
    def only_sizes(self) -> bool:
        """Whether the names match, and only shapes differ."""
        return self.count == len(self.reshaped) > 0

    @property
    def exact(self) -> bool:
        """Whether names, shapes, dtypes and order all match."""
        return self == StateDictDiff()

    def sentences(self) -> list[str]:
        """Return one sentence per difference."""
        shapes = [f"{own.name} is {list(own.shape)}, not {list(wanted.shape)}" for own, wanted in self.reshaped]
        dtypes = [f"{own.name} is {own.dtype}, not {wanted.dtype}" for own, wanted in self.recast]
        return [
            *(f"{item.name} is missing" for item in self.missing),
            *(f"{item.name} is left over" for item in self.extra),
            *shapes,
            *dtypes,
            *(["the order differs"] if self.moved else []),
        ]


def misfit(own: Sequence[Item], expected: Sequence[Item]) -> StateDictDiff:
    """Compare parameters by name with those expected.

    Extra state of modules is ignored: it differs from run to run, and is not always a tensor.

    Parameters
    ----------
    own, expected : sequence of Item
        The parameters, in order.
    """
    return misfit_by_name(by_name(own), by_name(expected))


def by_name(items: Iterable[Item]) -> dict[str, Item]:
    """Return parameters by name, without the extra state of modules."""
    return {item.name: item for item in items if not is_extra(item.name)}


def misfit_by_name(mine: Mapping[str, Item], its: Mapping[str, Item]) -> StateDictDiff:
    """Compare parameters with those expected, as `misfit` does, once both are at hand by name."""
    missing = tuple(item for name, item in its.items() if name not in mine)
    extra = tuple(item for name, item in mine.items() if name not in its)
    both = [(mine[name], item) for name, item in its.items() if name in mine]
    reshaped = tuple(pair for pair in both if pair[0].shape != pair[1].shape)
    recast = tuple(pair for pair in both if pair[0].shape == pair[1].shape and pair[0].dtype != pair[1].dtype)
    moved = not missing and not extra and list(mine) != list(its)
    return StateDictDiff(missing, extra, reshaped, recast, moved)
