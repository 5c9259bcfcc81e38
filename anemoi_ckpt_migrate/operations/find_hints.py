"""Hints in a record: locations of parameters, and prefixes of copies, that cannot be detected in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.operations.base import Operation, Runner, operation, set_fields
from anemoi_ckpt_migrate.state.find_parameters import NotedLocation, ParameterLocation, dicts_of, find_copies, is_tensor

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext
    from anemoi_ckpt_migrate.state.parameters import ParameterSet


@operation
class MissingPrefix(Operation):
    """Note the prefix that names have in the state dict but not in a copy; the names of the copy stay."""

    written = False
    prefix: str

    def apply(self, context: ParameterContext) -> list[Any]:
        """Use the names of the state dict for the parameters of the context."""
        if context.place is not None:
            keys = {name: context.place.key(name) for name in context.table}
            context.place.set_prefixes("", self.prefix)
            context.table.rename({name: self.prefix + key for name, key in keys.items()})
        return []


@operation
class ParameterLocations(Operation):
    """Note which dicts were treated as parameters, where detection would now find others.

    Parameters
    ----------
    main : tuple, optional
        The state dict, if detection would miss it.
    copies : sequence of tuple
        Copies that detection would miss.
    not_copies : sequence of str
        Paths of dicts that were no copies, though they look like copies now.
    """

    written = False
    on_parameters = False
    main: NotedLocation | None
    copies: tuple[NotedLocation, ...]
    not_copies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        set_fields(
            self,
            main=None if self.main is None else _noted(self.main),
            copies=tuple(map(_noted, self.copies)),
            not_copies=tuple(self.not_copies),
        )

    def perform(self, runner: Runner) -> list[Operation]:
        """Use the locations for the operations that follow."""
        return runner.use_locations(self)

    def places(self, tree: Any) -> tuple[ParameterLocation | None, list[ParameterLocation]]:
        """Return the place of the state dict (None if not noted) and of the copies that still exist."""
        dicts = dicts_of(tree)
        main = None if self.main is None else _place(self.main, dicts)
        return main, [place for place in (_place(noted, dicts) for noted in self.copies) if place is not None]


def reached(tree: Any, main: ParameterSet, copies: Iterable[ParameterSet]) -> list[ParameterLocations]:
    """Return the hint that a downgrade needs to find the same parameters; empty if it needs none."""
    if main.place is None or not main.table.changed:
        return []
    places = {copy.place.path: (copy.place, copy.table) for copy in copies if copy.place is not None}
    lost = tuple(place.noted() for place, table in places.values() if not place.is_found(table, main.table))
    more = find_copies(tree, main.place, main.table, [place for place, _ in places.values()])
    empty = not any(map(is_tensor, main.table.values()))
    if not (empty or lost or more):
        return []
    return [ParameterLocations(main.place.noted() if empty else None, lost, tuple(place.path for place in more))]


def _place(noted: NotedLocation, dicts: Mapping[str, dict[Any, Any]]) -> ParameterLocation | None:
    path, extra_prefix, missing_prefix = noted
    return ParameterLocation(path, dicts[path], extra_prefix, missing_prefix) if path in dicts else None


def _noted(value: Any) -> NotedLocation:
    path, extra_prefix, missing_prefix = value
    return path, extra_prefix, missing_prefix
