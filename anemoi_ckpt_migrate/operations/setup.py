"""The declarations of `migrate_setup` in a script, as operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, name_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.missing_classes import PutPlaceholders
from anemoi_ckpt_migrate.operations.tree_operation import Run, TreeOperation
from anemoi_ckpt_migrate.tree.class_names import Name, closeness, covers, names_in, rename, spelled

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.setup_context import MigrationContext
    from anemoi_ckpt_migrate.storage.pickle.opaque import OpaqueName

Pairs = tuple[tuple[str, str], ...]


def operations_of(context: MigrationContext, migrates: bool, reversible: bool) -> tuple[Operation, ...]:
    """Return the operations of a script with a setup: move names, run `migrate`, put placeholders for removed classes.

    Parameters
    ----------
    context : MigrationContext
        The context after the setup ran.
    migrates, reversible : bool
        Whether the script has a ``migrate``, and a ``rollback``.

    Raises
    ------
    BadOperation
        A name is moved into a module or class that is declared removed.
    """
    found: list[Operation] = []
    gone = tuple(context.deleted)
    if context.moved_attributes or context.moved_modules:
        moving = MoveNames(_pairs(context.moved_attributes), _pairs(context.moved_modules), gone)
        moving.check_written()
        found.append(moving)
    if migrates:
        found.append(Run("migrate", "rollback" if reversible else None))
    if gone:
        found.append(PutPlaceholders(gone))
    return tuple(found)


def _pairs(moved: dict[str, str]) -> Pairs:
    return tuple(moved.items())


@operation
class MoveNames(TreeOperation):
    """Rename classes and modules everywhere in the checkpoint; names that it does not contain are no error.

    The most specific rule wins. A class whose module moves may move on from there.

    Parameters
    ----------
    classes, modules : list of pair of str
        Pairs of an old and a new name.
    spared : list of str
        Patterns of names that stay; see `class_names.covers`.
    """

    everywhere = True
    classes: Pairs = ()
    modules: Pairs = ()
    spared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("classes", "modules"):
            pairs = getattr(self, field)
            if not isinstance(pairs, (tuple, list)) or not all(map(_is_pair, pairs)):
                raise BadOperation(f"MoveNames: {field} must be a list of pairs of names, not {pairs!r:.60}")
            set_fields(self, **{field: tuple((old, new) for old, new in pairs)})
        for pair in self.classes:
            for name in pair:
                split(self, "classes", name)
        set_fields(self, spared=names_of(self, "spared", self.spared, 0))

    def check_written(self) -> None:
        """Refuse moves to names that are declared removed."""
        ends = [(old, new, split(self, "classes", new)) for old, new in self.classes]
        ends += [(old, new, (new, "")) for old, new in self.modules]
        for old, new, name in ends:
            if any(covers(pattern, name) for pattern in self.spared):
                raise BadOperation(f"{old} is moved to {new}, which is also deleted")

    def inverse(self) -> Operation | None:
        """Return the inverse: old and new exchanged; None if two names become one, or a name may move twice."""
        ends = [new for _, new in (*self.classes, *self.modules)]
        twice = any(
            covers(f"{new}.**", split(self, "classes", old)) for old, _ in self.classes for _, new in self.modules
        )
        if len(set(ends)) < len(ends) or twice:
            return None
        return MoveNames(_turned(self.classes), _turned(self.modules))

    def class_names(self) -> tuple[str, ...]:
        """Return the old and new names of classes, and patterns of all names in the modules."""
        modules = (f"{name}.**" for pair in self.modules for name in pair)
        return *(name for pair in self.classes for name in pair), *modules

    def loss(self, tree: Any) -> str:
        """Return a sentence if two names would become the same."""
        return merged(names_in(tree), self.moved)

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Rename the classes and modules, and return the rollback."""
        back = moved_back(names_in(tree), self.moved)
        return [MoveNames(back)] if back else []

    def moved(self, name: Name) -> Name:
        """Return the new name of a class or function."""
        class_ = _closest(name, [old for old, _ in self.classes])
        module = _closest(name, [f"{old}.**" for old, _ in self.modules])
        spared = _closest(name, self.spared)
        if spared and closeness(spared) >= max(map(closeness, filter(None, (class_, module))), default=(-3, 0)):
            return name
        if class_:
            return self._class_moved(name, class_)
        if not module:
            return name
        start = module[:-3]
        name = dict(self.modules)[start] + name[0][len(start) :], name[1]
        class_ = _closest(name, [old for old, _ in self.classes])
        return self._class_moved(name, class_) if class_ else name

    def _class_moved(self, name: Name, start: str) -> Name:
        module, end = split(self, "classes", dict(self.classes)[start])
        return module, end + ".".join(name)[len(start) :]


def merged(found: Iterable[OpaqueName], moved: Callable[[Name], Name]) -> str:
    """Return a sentence about two names of a tree that a move makes the same; empty if there are none."""
    before: dict[Name, Name] = {}
    for name in dict.fromkeys(each.pickled_name for each in found):
        other = before.setdefault(moved(name), name)
        if other != name:
            both = " and ".join(sorted(map(spelled, (other, name))))
            return f"the checkpoint had both {both}, which now have one name"
    return ""


def moved_back(found: list[OpaqueName], moved: Callable[[Name], Name]) -> Pairs:
    """Move names that were found in a tree; return pairs of the new and the old name."""
    names = {name: moved(name) for name in dict.fromkeys(each.pickled_name for each in found)}
    rename(found, names.__getitem__)
    return tuple((spelled(new), spelled(old)) for old, new in names.items() if old != new)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(name, str) for name in value)


def _turned(pairs: Pairs) -> Pairs:
    return tuple((new, old) for old, new in pairs)


def _closest(name: Name, patterns: Iterable[str]) -> str:
    """Return the most specific pattern that covers a name; empty if none does."""
    return max((pattern for pattern in patterns if covers(pattern, name)), key=closeness, default="")


def split(kind: Operation, what: str, text: Any) -> Name:
    """Read a name: ``package.module.Class``, or ``package.module:Outer.Inner``.

    Raises
    ------
    BadOperation
        The text is not a class name.
    """
    module, colon, name = name_of(kind, what, text).partition(":")
    if not colon:
        module, _, name = text.rpartition(".")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise BadOperation(f"{type(kind).__name__}: {what} must be a class, as package.module.Class, not {text!r:.60}")
    return module, name
