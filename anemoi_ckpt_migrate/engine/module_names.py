"""Module names in ``_metadata``, which follow parameter names: in the state dict and in each copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.operations.module_metadata import RestoreModules, followed
from anemoi_ckpt_migrate.operations.parameter_groups import PerCopy
from anemoi_ckpt_migrate.state.pickled_module import Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.engine.open_parameters import OpenParameters
    from anemoi_ckpt_migrate.operations.base import Operation


def follow(main: OpenParameters | None, others: Sequence[OpenParameters]) -> list[Operation]:
    """Rename the modules in ``_metadata`` after their parameters, and return the rollback."""
    if main is None:
        return []
    backs: dict[str, RestoreModules] = {}
    for opened in (main, *others):
        if opened.place is None:
            continue
        moves = opened.parameters.table.moves()
        metadata = opened.place.metadata
        if not moves or metadata is None:
            continue
        found = followed(metadata, map(opened.place.key, opened.parameters.table), opened.place.moves(moves))
        if found is not None and is_a(opened.place.content, Pickled):
            found = replace(found, dropped=())  # a module without parameters still exists
        if found is not None:
            backs[opened.path] = found.change(metadata)
    own = backs.pop(main.path, None)
    if backs:
        return [PerCopy((own or RestoreModules(()),), {path: (back,) for path, back in backs.items()})]
    return [] if own is None else [own]


def misfits(main: OpenParameters | None, others: Sequence[OpenParameters]) -> Iterator[str]:
    """Iterate over messages about names that a pickled model cannot contain."""
    if main is None:
        return
    optimized = any(opened.state is not None for opened in others)
    for opened in (main, *others):
        if opened.place is not None and opened.parameters.table.changed:
            for sentence in opened.place.misfits(opened.parameters.table, optimized and opened is main):
                yield sentence if opened is main else f"in {opened.path}, {sentence}"
