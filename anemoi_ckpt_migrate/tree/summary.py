"""Summarise a tree as plain facts: structure, tensors, shared storages, optimizers. Runs no code, needs no torch."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName, class_of
from anemoi_ckpt_migrate.storage.pickle.placeholders import stands_for
from anemoi_ckpt_migrate.storage.tensors.refs import (
    STORAGES,
    ContentNeeded,
    RebuildFunction,
    StoredStorage,
    StoredTensor,
    dtype_of,
    is_a,
    is_stored,
    is_usual,
    kind_of,
    pickled_name,
    reduced,
    storages_of,
)
from anemoi_ckpt_migrate.tree.optimizer_formats import is_flattened, is_optimizer, unflattened
from anemoi_ckpt_migrate.tree.walk import Path, walk
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

_ORDINARY = "_rebuild_tensor_v2"
_CONTAINERS = (dict, list, tuple, set, frozenset)
# Longest key and longest path to show, in characters: one long key may lie above a million tensors.
_LONGEST_KEY, _LONGEST_PATH = 250, 500
_DEEPEST = 200  # deeper levels are not shown, and Python's own stack would overflow


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes
    ----------
    path : str
        Its path in the tree, keys joined by dots.
    kind : str
        ``tensor``, ``parameter``, ``sparse_tensor`` and the like; for a subclass, the class name.
    dtype : str or None
        Its dtype without ``torch.``; None if unknown without torch.
    shape : tuple of int or None
        Its shape; None if unknown without torch.
    size : int
        Bytes of the storages it refers to.
    storages : tuple of str
        Their keys; several for a sparse tensor.
    location : str
        Its device.
    """

    path: str
    kind: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size: int
    storages: tuple[str, ...]
    location: str


@dataclass(frozen=True)
class Optimizer:
    """The state of an optimizer.

    Attributes
    ----------
    path : str
        Its path in the tree.
    groups, parameters : int
        Numbers of parameter groups and of the parameters in them.
    states : tuple of str
        Names of the moments and other values per parameter: ``exp_avg`` for example.
    size : int
        Bytes of those values.
    """

    path: str
    groups: int
    parameters: int
    states: tuple[str, ...]
    size: int


@dataclass
class Node:
    """A place in the tree.

    Attributes
    ----------
    name : str
        Its key, index or attribute.
    what : str
        The class, or a short value.
    tensor : Tensor or None
        The tensor, if it is one.
    children : list of Node
        Its content.
    size : int
        Bytes of the storages that appear here first. The sizes of one level add up.
    """

    name: str
    what: str
    tensor: Tensor | None = None
    children: list[Node] = field(default_factory=list)
    size: int = 0


def survey(tree: Any) -> Node:
    """Return the structure of a tree."""
    return _Surveyor().node("", "", tree, 0)


def tensors(node: Node) -> Iterator[Tensor]:
    """Yield all tensors below a node, in the order of the tree."""
    if node.tensor is not None:
        yield node.tensor
    for child in node.children:
        yield from tensors(child)


def shared(found: Iterable[Tensor]) -> dict[str, list[str]]:
    """Return the storages that several tensors share: key, and paths of the tensors."""
    users: dict[str, list[str]] = {}
    for tensor in found:
        for key in dict.fromkeys(tensor.storages):
            users.setdefault(key, []).append(tensor.path)
    return {key: paths for key, paths in users.items() if len(paths) > 1}


def optimizers(tree: Any) -> list[Optimizer]:
    """Find the optimizer states, flattened or not."""
    found = walk(tree, _containers, _DEEPEST)
    return [
        _optimizer(_shortened(".".join(map(_brief, path)), _LONGEST_PATH), value)
        for path, value in found
        if is_optimizer(value)
    ]


class _Surveyor:
    """Walks a tree. It enters each container once and counts each storage once."""

    def __init__(self) -> None:
        self._entered: set[int] = set()
        self._counted: set[str] = set()
        self._kinds: dict[tuple[RebuildFunction, Any], tuple[str, str | None]] = {}

    def node(self, name: str, path: str, value: Any, depth: int) -> Node:
        """Describe a value and its content."""
        if is_stored(value):
            return self._tensor(name, path, value)
        found = Node(name, _what(value))
        if is_a(value, StoredStorage):
            found.size = self._new([value])
        if not is_a(value, (*_CONTAINERS, Opaque)) or id(value) in self._entered or depth > _DEEPEST:
            return found
        self._entered.add(id(value))
        for key, child in _children(value):
            shown = _brief(key)
            found.children.append(self.node(shown, _joined(path, shown), child, depth + 1))
        found.size = sum(child.size for child in found.children)
        return found

    def _tensor(self, name: str, path: str, value: StoredTensor) -> Node:
        function, args, state = reduced(value)
        if state is None and is_usual(args) and function.pickled_name[1] == _ORDINARY:
            storage = args[0]
            kind, dtype = self._kinds.get((function, storage.kind)) or self._kind(value)
            size = _size(storage)
            tensor = Tensor(path, kind, dtype, args[2], size, (storage.key,), storage.location)
            fresh = storage.key not in self._counted
            self._counted.add(storage.key)
            return Node(name, kind, tensor, size=size if fresh else 0)
        storages = storages_of(value)
        keys = tuple(dict.fromkeys(storage.key for storage in storages))
        try:
            sizes = tuple(value.shape)
            shape = sizes if all(type(size) is int for size in sizes) else None
        except (ContentNeeded, TypeError, IndexError):  # the shape of a subclass may be anywhere
            shape = None
        size = sum(_size(storage) for storage in {storage.key: storage for storage in storages}.values())
        location = storages[0].location if storages else "meta"
        tensor = Tensor(path, kind_of(value), dtype_of(value), shape, size, keys, location)
        return Node(name, tensor.kind, tensor, size=self._new(storages))

    def _kind(self, usual: StoredTensor) -> tuple[str, str | None]:
        function, args, _ = reduced(usual)
        found = self._kinds[function, args[0].kind] = kind_of(usual), dtype_of(usual)
        return found

    def _new(self, storages: list[StoredStorage]) -> int:
        fresh = {storage.key: _size(storage) for storage in storages if storage.key not in self._counted}
        self._counted.update(fresh)
        return sum(fresh.values())


def _what(value: Any) -> str:
    if is_a(value, Opaque):
        missing = stands_for(value)
        return ".".join(class_of(value)) if missing is None else f"placeholder for {'.'.join(missing)}"
    if is_a(value, OpaqueName):
        return f"the class {'.'.join(value.pickled_name)}"
    if is_a(value, _CONTAINERS):
        return f"{type(value).__name__} of {len(value)}"
    if is_a(value, (type(None), bool, int, float, complex, str, bytes)):
        return reprlib.repr(value) if is_a(value, str) else _brief(value)
    return type(value).__name__


def _brief(key: Any) -> str:
    """Format a key, shortened to fit."""
    try:
        return _shortened(key, _LONGEST_KEY) if is_a(key, str) else reprlib.repr(key)
    except ValueError:  # Python does not spell out an integer of several thousand digits
        return "a huge number"


def _joined(path: str, key: str) -> str:
    return _shortened(f"{path}.{key}" if path else key, _LONGEST_PATH)


def _shortened(text: str, longest: int) -> str:
    """Shorten long text by cutting out its middle."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _children(value: Any) -> list[tuple[Any, Any]]:
    if is_a(value, dict):
        found = list(value.items())
        return found + [(f"({name})", held) for name, held in getattr(value, "__dict__", {}).items()]
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        held = [pair for attributes in parts.attributes() for pair in attributes.items()]
        state = [] if parts.attributes() or parts.state is None else [("(state)", parts.state)]
        arguments = [("(arguments)", parts.args)] if parts.args and _worth_showing(parts.args) else []
        return [*arguments, *held, *state, *enumerate(parts.items), *parts.pairs.items()]
    return list(enumerate(value))


def _worth_showing(args: tuple[Any, ...]) -> bool:
    return any(is_a(arg, (*_CONTAINERS, Opaque)) or is_stored(arg) for arg in args)


def _size(storage: StoredStorage) -> int:
    kind = pickled_name(storage.kind)[1]
    return storage.numel * STORAGES.get(kind, ("", 1))[1]


def _containers(path: Path, value: Any) -> list[tuple[Any, Any]]:
    """Return the containers directly in a value."""
    if not is_a(value, (*_CONTAINERS, Opaque)) or is_stored(value):
        return []
    return [(key, child) for key, child in _children(value) if is_a(child, (*_CONTAINERS, Opaque))]


def _optimizer(path: str, content: dict[str, Any]) -> Optimizer:
    value = unflattened(content, _is_same) if is_flattened(content) else content
    groups = value["param_groups"]
    states = [state for state in value["state"].values() if is_a(state, dict)]
    names = dict.fromkeys(_brief(name) for state in states for name in state)
    held = {s.key: _size(s) for state in states for tensor in state.values() for s in storages_of(tensor)}
    return Optimizer(path, len(groups), sum(len(group["params"]) for group in groups), tuple(names), sum(held.values()))


def _is_same(one: Any, other: Any) -> bool:
    return one is other or not (is_stored(one) or is_stored(other) or one != other)
