"""Module names in ``_metadata``, which follow parameter names: in the state dict and in each copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.module_metadata import RestoreModules, followed
from anemoi_ckpt_migrate.operations.parameter_groups import PerCopy, by_place
from anemoi_ckpt_migrate.state.find_parameters import ParameterLocation
from anemoi_ckpt_migrate.state.optimizer_state import State
from anemoi_ckpt_migrate.state.parameters import ParameterSet
from anemoi_ckpt_migrate.state.pickled_module import Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a


@dataclass
class OpenParameters:
    """A dict of parameters, or an optimizer, while operations are applied to it."""

    copy: ParameterSet
    place: ParameterLocation | None = None
    state: State | None = None
    unknown: str = ""
    has_ties: bool = True

    @property
    def is_wrapped_otherwise(self) -> bool:
        """Whether it looks like a copy of the parameters with wrappers at other places in its names."""
        return bool(self.unknown) and self.state is None


def follow(main: OpenParameters | None, others: Sequence[OpenParameters]) -> list[Operation]:
    """Rename the modules in ``_metadata`` after their parameters, and return the rollback."""
    if main is None:
        return []
    backs: dict[str, RestoreModules] = {}
    for opened in (main, *others):
        if opened.place is None:
            continue
        moves = opened.copy.table.moves()
        metadata = getattr(opened.place.content, "_metadata", None)
        if not moves or not isinstance(metadata, dict):
            continue
        found = followed(metadata, map(opened.place.key, opened.copy.table), opened.place.moves(moves))
        if found is not None and is_a(opened.place.content, Pickled):
            found = replace(found, dropped=())  # a module without parameters still exists
        if found is not None:
            backs[opened.copy.path] = found.change(metadata)
    own = backs.pop(main.copy.path, None)
    if backs:
        return [PerCopy((own or RestoreModules(()),), {path: (back,) for path, back in backs.items()})]
    return [] if own is None else [own]


def misfits(main: OpenParameters | None, others: Sequence[OpenParameters]) -> Iterator[str]:
    """Iterate over messages about names that a pickled model cannot contain."""
    if main is None:
        return
    optimized = any(opened.state is not None for opened in others)
    for opened in (main, *others):
        if opened.place is not None and opened.copy.table.changed:
            for sentence in opened.place.misfits(opened.copy.table, optimized and opened is main):
                yield sentence if opened is main else f"in {opened.copy.path}, {sentence}"


def follow_back(operation: Operation, main: OpenParameters, others: Sequence[OpenParameters]) -> None:
    """Restore the module names in the state dict, and in its copies with their own operations."""
    own, elsewhere = by_place(operation)
    for opened in (main, *others):
        metadata = None if opened.place is None else getattr(opened.place.content, "_metadata", None)
        for each in own if opened is main else elsewhere.get(opened.copy.path, ()):
            if isinstance(each, RestoreModules) and isinstance(metadata, dict):
                each.change(metadata)
