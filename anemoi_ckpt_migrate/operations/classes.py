"""Operations on the classes that a checkpoint names, without importing them."""

from __future__ import annotations

from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, name_of, operation
from anemoi_ckpt_migrate.operations.items import RestoreItem
from anemoi_ckpt_migrate.operations.setup import MoveNames, merged, moved_back, split
from anemoi_ckpt_migrate.operations.tree_operation import TreeOperation
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName, class_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import paths
from anemoi_ckpt_migrate.tree.class_names import Name, inside, names_in
from anemoi_ckpt_migrate.tree.paths import NoSuchPath
from anemoi_ckpt_migrate.tree.walk import Path, walk


class Moving(TreeOperation):
    """Base class of operations that rename classes and functions, everywhere in the checkpoint."""

    everywhere = True

    def moved(self, name: Name) -> Name:
        """Return the new name of a class or function."""
        raise NotImplementedError

    def loss(self, tree: Any) -> str:
        """Return a sentence if two names would become the same."""
        return merged(names_in(tree), self.moved)


@operation
class MoveClass(Moving):
    """Rename a class everywhere in the checkpoint, without importing it.

    If the checkpoint names both classes, they become one, and the revision cannot be undone on it.

    Parameters
    ----------
    old, new : str
        ``"package.module.Class"``, or ``"package.module:Outer.Inner"`` for a nested class.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        split(self, "old", self.old)
        split(self, "new", self.new)

    def inverse(self) -> Operation | None:
        """Return the inverse: `old` and `new` exchanged."""
        return MoveClass(self.new, self.old)

    def class_names(self) -> tuple[str, ...]:
        """Return the old name and the new one."""
        return self.old, self.new

    def moved(self, name: Name) -> Name:
        """Return the new name of a class or function."""
        return split(self, "new", self.new) if name == split(self, "old", self.old) else name

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Rename the class."""
        found = names_in(tree)
        if not any(name.pickled_name == split(self, "old", self.old) for name in found):
            raise NoSuchPath(f"the checkpoint names no class {self.old}{near(self.old, found)}")
        moved_back(found, self.moved)
        return [MoveClass(self.new, self.old)]


@operation
class MoveModule(Moving):
    """Move all classes and functions of a module and its submodules to another module, without importing them.

    If the checkpoint also names something in the new module, a downgrade moves back only the moved names.

    Parameters
    ----------
    old, new : str
        ``"package.old_module"``.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        for what, value in (("old", self.old), ("new", self.new)):
            if not all(part.isidentifier() for part in name_of(self, what, value).split(".")):
                raise BadOperation(f"MoveModule: {what} must be a module, as package.module, not {value!r:.60}")

    def inverse(self) -> Operation | None:
        """Return the inverse: `old` and `new` exchanged."""
        return MoveModule(self.new, self.old)

    def class_names(self) -> tuple[str, ...]:
        """Return patterns of all names in the old module and in the new one."""
        return f"{self.old}.**", f"{self.new}.**"

    def moved(self, name: Name) -> Name:
        """Return the new name of a class or function."""
        return (self.new + name[0][len(self.old) :], name[1]) if inside(name[0], self.old) else name

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Rename the module."""
        found = names_in(tree)
        modules = {name.pickled_name[0] for name in found}
        if not any(inside(module, self.old) for module in modules):
            raise NoSuchPath(f"the checkpoint has no names in {self.old}{near(self.old, found)}")
        shared = any(inside(module, self.new) and not inside(module, self.old) for module in modules)
        back = moved_back(found, self.moved)
        return [MoveNames(back) if shared else MoveModule(self.new, self.old)]


@operation
class DropClass(TreeOperation):
    """Remove all objects of a class from dicts, lists and attributes; they are stashed for the downgrade.

    Parameters
    ----------
    name : str
        As for `MoveClass`.
    """

    name: str

    def __post_init__(self) -> None:
        split(self, "name", self.name)

    def class_names(self) -> tuple[str, ...]:
        """Return the name, which a downgrade needs again."""
        return (self.name,)

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Remove the objects, and return the rollback."""
        wanted = split(self, "name", self.name)
        every = walk(tree, _content, every_place=True)
        found = [path for path, value in every if is_a(value, Opaque) and class_of(value) == wanted]
        if not found:
            raise NoSuchPath(f"the checkpoint holds no {self.name}{near(self.name, names_in(tree))}")
        if () in found:
            raise NoSuchPath(f"the checkpoint itself is a {self.name}")
        undo: list[Operation] = []
        for path in reversed(found):
            if any(path[: len(other)] == other and path != other for other in found):
                continue  # removed together with the object that contains it
            value, before = paths.take(paths.get(tree, path[:-1]), path[-1])
            stash.append(value)
            undo.insert(0, RestoreItem(path, len(stash) - 1, before, True))
        return undo


def _content(path: Path, value: Any) -> list[tuple[Any, Any]]:
    """Return the values that can be removed from an object, a dict or a list, with their keys."""
    found: list[tuple[Any, Any]] = []
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        for holder in (*parts.attributes(), parts.pairs):
            found += holder.items()
        found += enumerate(parts.items)
    elif is_a(value, dict):
        found += value.items()
    elif is_a(value, list):
        found += enumerate(value)
    return [(key, each) for key, each in found if is_a(key, (str, int))]


def near(text: str, found: list[OpaqueName]) -> str:
    """Suggest a similar name that exists, for a name that does not."""
    from difflib import get_close_matches

    names = {".".join(name.pickled_name) for name in found} | {name.pickled_name[0] for name in found}
    close = get_close_matches(text, sorted(names), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""
