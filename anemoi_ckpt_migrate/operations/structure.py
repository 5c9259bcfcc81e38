"""Operations on the tree of a checkpoint: the classes that it names, and whatever is no parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from anemoi_ckpt_migrate.checkpoints.opaque import Opaque, OpaqueName, class_of
from anemoi_ckpt_migrate.checkpoints.tensors import is_a, is_stored, reduced
from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations import paths
from anemoi_ckpt_migrate.operations.base import Operation, name_of, operation, set_fields
from anemoi_ckpt_migrate.operations.paths import NoSuchPath, path_of, shown
from anemoi_ckpt_migrate.operations.tensors import is_real


class TreeOperation(Operation):
    """An operation on the tree as a whole."""

    on_parameters = False

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Change a tree, and return what undoes it.

        Parameters
        ----------
        tree : object
            The checkpoint.
        kept : list of object
            What is put aside in it.

        Raises
        ------
        NoSuchPath
            It cannot be done; the message says why.
        """
        raise NotImplementedError


def _parent(tree: Any, path: Sequence[Any]) -> Any:
    return paths.get(tree, path[:-1])


def is_plain(value: Any) -> bool:
    """Tell whether a value can stand in a record as it is."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


@operation
class SetItem(TreeOperation):
    """Set what stands at a path; a new key goes to the end.

    Parameters
    ----------
    path : str or list
        ``"hyper_parameters.lr"``, or a list of keys.
    value : object
        What: text, numbers, None, and lists and dicts of these.
    """

    path: tuple[Any, ...]
    value: Any

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))

    def __hash__(self) -> int:
        return hash((self.path, repr(self.value)))

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Set it."""
        parent, key = _parent(tree, self.path), self.path[-1]
        if not paths.has(parent, key):
            paths.put(parent, key, _own(self.value))
            return [DropItem(self.path)]
        before = paths.get(parent, (key,))
        paths.put(parent, key, _own(self.value))
        if is_plain(before):
            return [SetItem(self.path, before)]
        kept.append(before)
        return [PutItem(self.path, len(kept) - 1, None, False)]


def _own(value: Any) -> Any:
    """Copy a value: what stands in the tree may be changed there."""
    return json.loads(json.dumps(value)) if is_plain(value) else value


@operation
class DropItem(TreeOperation):
    """Take away what stands at a path; it is kept for the way back.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    """

    path: tuple[Any, ...]

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Take it away."""
        paths.get(tree, self.path)
        value, before = paths.take(_parent(tree, self.path), self.path[-1])
        kept.append(value)
        return [PutItem(self.path, len(kept) - 1, before, True)]


@operation
class PutItem(TreeOperation):
    """Put back what was kept."""

    written = False
    path: tuple[Any, ...]
    number: int
    before: Any
    placed: bool

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path))

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Put it back, where it stood."""
        paths.put(_parent(tree, self.path), self.path[-1], kept[self.number], self.before, self.placed)
        return []


@operation
class MoveItem(TreeOperation):
    """Move what stands at a path to another, where nothing stands.

    Parameters
    ----------
    path, new : str or list
        As for `SetItem`. Under the same parent it keeps its place; else it goes to the end.
    """

    path: tuple[Any, ...]
    new: tuple[Any, ...]
    before: Any = None
    placed: bool = False

    def __post_init__(self) -> None:
        set_fields(self, path=path_of(self, "path", self.path), new=path_of(self, "new", self.new))

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return MoveItem(self.new, self.path)

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Move it."""
        paths.get(tree, self.path)
        parent, target = _parent(tree, self.path), _parent(tree, self.new)
        if paths.has(target, self.new[-1]):
            raise NoSuchPath(f"{shown(self.new)} is there already")
        value, before = paths.take(parent, self.path[-1])
        same = target is parent and not self.placed
        paths.put(target, self.new[-1], value, before if same else self.before, same or self.placed)
        return [MoveItem(self.new, self.path, before, True)]


@operation
class MoveClass(TreeOperation):
    """Have objects be of a class of another name, wherever the checkpoint names it; nothing is imported.

    Parameters
    ----------
    old, new : str
        ``"package.module.Class"``; the class of a nested one as ``"package.module:Outer.Inner"``.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        _split(self, "old", self.old)
        _split(self, "new", self.new)

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return MoveClass(self.new, self.old)

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Rename the class."""
        old, new = _split(self, "old", self.old), _split(self, "new", self.new)
        found = _names(tree)
        if not any(name.pickled_name == old for name in found):
            raise NoSuchPath(f"the checkpoint names no class {self.old}{_near(self.old, found)}")
        if any(name.pickled_name == new for name in found):
            raise NoSuchPath(f"the checkpoint names {self.new} too, and the way back could not tell them apart")
        _rename(found, lambda name: new if name == old else name)
        return [MoveClass(self.new, self.old)]


@operation
class MoveModule(TreeOperation):
    """Have all classes and functions of a module, and of those below it, be in another; nothing is imported.

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
        """Return it the other way around."""
        return MoveModule(self.new, self.old)

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Rename the module."""
        found = _names(tree)
        modules = {name.pickled_name[0] for name in found}
        if not any(_inside(module, self.old) for module in modules):
            raise NoSuchPath(f"the checkpoint names nothing in {self.old}{_near(self.old, found)}")
        if any(_inside(module, self.new) and not _inside(module, self.old) for module in modules):
            raise NoSuchPath(f"the checkpoint names {self.new} too, and the way back could not tell them apart")
        _rename(
            found, lambda name: (self.new + name[0][len(self.old) :], name[1]) if _inside(name[0], self.old) else name
        )
        return [MoveModule(self.new, self.old)]


@operation
class DropClass(TreeOperation):
    """Take away all objects of a class, from dicts, lists and attributes; they are kept for the way back.

    Parameters
    ----------
    name : str
        As for `MoveClass`.
    """

    name: str

    def __post_init__(self) -> None:
        _split(self, "name", self.name)

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Take them away."""
        wanted = _split(self, "name", self.name)
        found = [path for path, value in _places(tree, (), set()) if is_a(value, Opaque) and class_of(value) == wanted]
        if not found:
            raise NoSuchPath(f"the checkpoint holds no {self.name}{_near(self.name, _names(tree))}")
        if () in found:
            raise NoSuchPath(f"the checkpoint itself is a {self.name}")
        undo: list[Operation] = []
        for path in reversed(found):
            if any(path[: len(other)] == other and path != other for other in found):
                continue  # it goes with what holds it
            value, before = paths.take(_parent(tree, path), path[-1])
            kept.append(value)
            undo.insert(0, PutItem(path, len(kept) - 1, before, True))
        return undo


@operation
class Run(TreeOperation):
    """Run functions of the script, for what no other operation does.

    Parameters
    ----------
    migrate : function or str
        A function of the script, which takes a checkpoint and returns it.
    rollback : function or str, optional
        What undoes it.
    """

    migrate: str
    rollback: str | None = None

    def __post_init__(self) -> None:
        for what, value in (("migrate", self.migrate), ("rollback", self.rollback)):
            if value is None and what == "rollback":
                continue
            name = getattr(value, "__name__", value)
            if not isinstance(name, str) or not name.isidentifier():
                raise BadOperation(f"Run: {what} must be a function of the script, not {value!r:.60}")
            set_fields(self, **{what: name})

    @property
    def reversible(self) -> bool:
        """Whether there is a function that undoes it."""
        return self.rollback is not None

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return None if self.rollback is None else Run(self.rollback, self.migrate)

    def change(self, tree: Any, kept: list[Any]) -> list[Operation]:
        """Be run by the executor, which knows the script."""
        raise NotImplementedError


def _split(kind: Operation, what: str, text: Any) -> tuple[str, str]:
    module, colon, name = name_of(kind, what, text).partition(":")
    if not colon:
        module, _, name = text.rpartition(".")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise BadOperation(f"{type(kind).__name__}: {what} must be a class, as package.module.Class, not {text!r:.60}")
    return module, name


def _inside(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")


def _near(text: str, found: list[OpaqueName]) -> str:
    from difflib import get_close_matches

    names = {".".join(name.pickled_name) for name in found} | {name.pickled_name[0] for name in found}
    near = get_close_matches(text, sorted(names), 1, 0.6)
    return f"; there is {near[0]}" if near else ""


def _rename(found: list[OpaqueName], new: Callable[[tuple[str, str]], tuple[str, str]]) -> None:
    for name in found:
        name.__name_and_calls__ = (new(name.pickled_name), name.__name_and_calls__[1])


def _names(tree: Any) -> list[OpaqueName]:
    """Find all names that are not imported in a tree, however deep."""
    found: dict[int, OpaqueName] = {}
    waiting, seen = [tree], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or is_a(value, (str, int, float, bytes, type(None))) or is_real(value):
            continue
        seen.add(id(value))
        if is_a(value, OpaqueName):
            found[id(value)] = value
        else:
            waiting += _inner(value)
    return list(found.values())


def _inner(value: Any) -> list[Any]:
    if is_stored(value):
        function, args, state = reduced(value)
        # The name of a storage's class is torch's own.
        return [*args, state] if function.pickled_name[1] not in ("_rebuild_tensor_v2", "_rebuild_tensor") else []
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        made = [type(value)] if type(value) is not Opaque else []
        return [*made, parts.function, parts.args, parts.kwargs, parts.state, parts.items, parts.pairs, parts.setter]
    if is_a(value, dict):
        return [*value.keys(), *value.values(), *getattr(value, "__dict__", {}).values()]
    if is_a(value, (list, tuple, set, frozenset)):
        return list(value)
    return []


def _places(tree: Any, path: tuple[Any, ...], seen: set[int]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Go through a tree, with paths as `paths` takes them."""
    yield path, tree
    if id(tree) in seen:
        return
    seen.add(id(tree))
    children: list[tuple[Any, Any]] = []
    if is_a(tree, Opaque):
        parts = tree.__opaque_parts__
        for holder in (*parts.attributes(), parts.pairs):
            children += holder.items()
        children += enumerate(parts.items)
    elif is_a(tree, dict):
        children += tree.items()
    elif is_a(tree, list):
        children += enumerate(tree)
    for key, value in children:
        if isinstance(key, (str, int)):
            yield from _places(value, (*path, key), seen)
