"""Names of modules in ``_metadata``, which follow those of parameters: in the state dict, and in each copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.module_metadata import RestoreModules, followed
from anemoi_ckpt_migrate.operations.parameter_groups import PerCopy, by_place
from anemoi_ckpt_migrate.state.find_parameters import Place
from anemoi_ckpt_migrate.state.optimizer_state import State
from anemoi_ckpt_migrate.state.parameters import Copy
from anemoi_ckpt_migrate.state.pickled_module import Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a


@dataclass
class Opened:
    """One dict of parameters, or an optimizer, while it is worked on."""

    copy: Copy
    place: Place | None = None
    state: State | None = None
    unknown: str = ""
    has_ties: bool = True

    @property
    def is_wrapped_otherwise(self) -> bool:
        """Whether it may be a copy of the parameters, but wrappers in its names are at other places."""
        return bool(self.unknown) and self.state is None


def follow(main: Opened | None, others: Sequence[Opened]) -> list[Operation]:
    """Have the names of modules follow, and return what undoes that."""
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
            found = replace(found, dropped=())  # a module of which no parameter is left is still one
        if found is not None:
            backs[opened.copy.path] = found.change(metadata)
    own = backs.pop(main.copy.path, None)
    if backs:
        return [PerCopy((own or RestoreModules(()),), {path: (back,) for path, back in backs.items()})]
    return [] if own is None else [own]


def misfits(main: Opened | None, others: Sequence[Opened]) -> Iterator[str]:
    """Say what of the names a pickled model cannot hold."""
    if main is None:
        return
    optimized = any(opened.state is not None for opened in others)
    for opened in (main, *others):
        if opened.place is not None and opened.copy.table.changed:
            for sentence in opened.place.misfits(opened.copy.table, optimized and opened is main):
                yield sentence if opened is main else f"in {opened.copy.path}, {sentence}"


def follow_back(operation: Operation, main: Opened, others: Sequence[Opened]) -> None:
    """Give modules the names that they had: in the state dict, and what is said of its copies there."""
    own, elsewhere = by_place(operation)
    for opened in (main, *others):
        metadata = None if opened.place is None else getattr(opened.place.content, "_metadata", None)
        for each in own if opened is main else elsewhere.get(opened.copy.path, ()):
            if isinstance(each, RestoreModules) and isinstance(metadata, dict):
                each.change(metadata)
