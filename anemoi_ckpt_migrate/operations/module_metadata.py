"""The ``_metadata`` of a state dict: versions by module name; the module names follow the parameter names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, operation, set_fields
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.pickled_module import hollow
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


def followed(names: Iterable[str], after: Iterable[str], moves: Sequence[tuple[str, str | None]]) -> ModuleMoves | None:
    """Return the renaming of modules that follows from moved parameters; None if nothing changes.

    Parameters
    ----------
    names : iterable of str
        Module names in the metadata.
    after : iterable of str
        Names of the parameters after the change.
    moves : sequence of (str, str or None)
        Old and new names of parameters; None for removed ones.
    """
    known = list(names)
    alive = _modules(after)
    moved, more = _moved(moves)
    gone = {module for module in _modules(old for old, _ in moves) if module not in alive}
    renamed: dict[str, str] = {}
    added: dict[str, str] = {}
    dropped = []
    taken = set(known) - gone
    for module in known:
        above = next((each for each in _upwards(module) if each in moved or each in gone or each in alive), "")
        if above not in gone:
            if module in moved and moved[module] not in taken:
                added[moved[module]] = module
                taken.add(moved[module])
            continue
        new = f"{moved[above]}{module[len(above) :]}" if above in moved else None
        if new is None or new in taken:
            dropped.append(module)
        else:
            taken.add(new)
            if new != module:
                renamed[module] = new
    for new, like in more:
        if new not in taken and (like in known or like in taken):
            added[new] = like
            taken.add(new)
    if not (renamed or added or dropped):
        return None
    return ModuleMoves(tuple(renamed.items()), tuple(added.items()), tuple(dropped))


def _upwards(module: str) -> Iterator[str]:
    while module:
        yield module
        module = module.rpartition(".")[0]


def _moved(moves: Sequence[tuple[str, str | None]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return new names of modules by old ones; and, for divided modules, each further name with the first one."""
    found: dict[str, str] = {}
    more = []
    for name, now in moves:
        if now is None:
            continue
        old, new = name.rpartition(".")[0], now.rpartition(".")[0]
        while old and old != new:
            if found.setdefault(old, new) != new:
                more.append((new, found[old]))
            (old, _, last), (new, _, other) = old.rpartition("."), new.rpartition(".")
            if last != other:
                break
    return found, more


def _modules(names: Iterable[str]) -> set[str]:
    found = {""}
    for name in names:
        while "." in name:
            name = name.rpartition(".")[0]
            if name in found:
                break
            found.add(name)
    return found


@dataclass(frozen=True)
class ModuleMoves:
    """Changes of module names in ``_metadata``; each added module gets the metadata of an existing one.

    Attributes
    ----------
    renamed : tuple of (str, str)
        Old and new names.
    added : tuple of (str, str)
        New names, each with the module that it is like.
    dropped : tuple of str
        Names without a module.
    """

    renamed: tuple[tuple[str, str], ...]
    added: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()

    def change(self, metadata: dict[str, Any]) -> RestoreModules:
        """Change the metadata, and return the rollback."""
        table = Table(metadata.items())
        renamed = {old: new for old, new in self.renamed if old in table}
        dropped = [(name, table.before(name), table[name]) for name in self.dropped if name in table]
        for name in self.dropped:
            if name in table:
                table.remove(name)
        table.rename(renamed)
        for name, like in self.added:
            if like in table and name not in table:
                what = table[like]
                table.insert({name: dict(what) if is_a(what, dict) else hollow(what)}, [(name, like)])
        added = [name for name, like in self.added]
        _rewrite(metadata, table)
        return RestoreModules(tuple((new, old) for old, new in renamed.items()), tuple(added), tuple(dropped))


@operation
class RestoreModules(Operation):
    """Undo `ModuleMoves`. A copy is changed only if it has such an operation of its own."""

    written = False
    concerns_optimizers = False
    applies_to_copies = False
    renamed: tuple[tuple[str, str], ...]
    removed: tuple[str, ...] = ()
    restored: tuple[tuple[str, str | None, Any], ...] = ()

    def __post_init__(self) -> None:
        if not all(len(item) == 3 for item in self.restored):
            raise BadOperation("each restored module needs a name, a place and a value")
        set_fields(
            self,
            renamed=tuple((old, new) for old, new in self.renamed),
            removed=tuple(self.removed),
            restored=tuple((name, before, value) for name, before, value in self.restored),
        )

    def apply(self, context: ParameterContext) -> list[Any]:
        """Restore the metadata, if there is any."""
        metadata = None if context.place is None else context.place.metadata
        if metadata is not None:
            self._restore(metadata)
        return []

    def _restore(self, metadata: dict[str, Any]) -> None:
        table = Table(metadata.items())
        for name in self.removed:
            if name in table:
                table.remove(name)
        table.rename({old: new for old, new in self.renamed if old in table and new not in table})
        for name, before, value in self.restored:
            if name not in table:
                table.insert({name: value}, [(name, before)])
        _rewrite(metadata, table)


def _rewrite(metadata: dict[str, Any], table: Table) -> None:
    items = [(name, value) for name, value in table.everything() if name is not None]
    metadata.clear()
    metadata.update(items)
