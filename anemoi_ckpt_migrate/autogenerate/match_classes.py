"""Match classes that moved: names that only the old checkpoint has, with names that only the new one has."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, Path, TreeExplanation, joined
from anemoi_ckpt_migrate.op import MoveClass, MoveModule
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, class_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.class_names import Name, inside, names_in, spelled
from anemoi_ckpt_migrate.tree.walk import walk

_LIBRARIES = ("torch", "numpy", "omegaconf", "collections", "builtins", "typing", "_codecs", "copyreg")
_SAME_NAME, _SAME_PLACE = 0.9, 0.7


def explain_classes(old: Any, new: Any) -> TreeExplanation:
    """Explain the classes of a project that moved, by their name, or by their place and their attributes."""
    before, after = own_names(old), own_names(new)
    gone, come = before - after, after - before
    moved = _by_name(gone, come)
    rest = gone - moved.keys(), come - set(moved.values())
    placed = _by_place(_places(old), _places(new), *rest)
    found = TreeExplanation()
    for (module, target), names in _modules(moved).items():
        whole = len(names) > 1 and len(names) == sum(inside(name[0], module) for name in before)
        found = found.then(
            _of_module(module, target, names) if whole else joined(_of_class(*pair, _SAME_NAME) for pair in names)
        )
    for one, other in placed.items():
        note = f"{spelled(one)} and {spelled(other)} have the same place and the same attributes"
        found = found.then(_of_class(one, other, _SAME_PLACE, note))
    return found


def own_names(tree: Any) -> set[Name]:
    """Return the names of classes and functions in a tree, without those of Python, torch and numpy."""
    known = (*_LIBRARIES, *sys.stdlib_module_names)
    return {name.pickled_name for name in names_in(tree) if name.pickled_name[0].partition(".")[0] not in known}


def _by_name(gone: Collection[Name], come: Collection[Name]) -> dict[Name, Name]:
    """Match names in other modules; a name that several modules have says nothing."""
    olds, news = (Counter(name for _, name in side) for side in (gone, come))
    where = {name: (module, name) for module, name in come}
    return {each: where[each[1]] for each in sorted(gone) if olds[each[1]] == news[each[1]] == 1}


def _by_place(
    olds: Mapping[Path, tuple[Name, frozenset[Any]]],
    news: Mapping[Path, tuple[Name, frozenset[Any]]],
    gone: Collection[Name],
    come: Collection[Name],
) -> dict[Name, Name]:
    """Match names of objects at the same places, if their attributes are the same."""
    votes: defaultdict[Name, Counter[Name]] = defaultdict(Counter)
    for path, (one, attributes) in olds.items():
        other, others = news.get(path, (one, frozenset()))
        if one in gone and other in come and attributes and attributes == others:
            votes[one][other] += 1
    targets = Counter(other for counted in votes.values() for other in counted)
    clear = {one: next(iter(counted)) for one, counted in votes.items() if len(counted) == 1}
    return {one: other for one, other in sorted(clear.items()) if targets[other] == 1}


def _places(tree: Any) -> dict[Path, tuple[Name, frozenset[Any]]]:
    """Return the class and the attributes of each object, by its place."""
    return {
        path: (class_of(value), frozenset(key for key, _ in _content(path, value)))
        for path, value in walk(tree, _content, every_place=True)
        if is_a(value, Opaque)
    }


def _content(path: Path, value: Any) -> Iterator[tuple[Any, Any]]:
    if is_a(value, Opaque):
        parts = value.__opaque_parts__
        for holder in (*parts.attributes(), parts.pairs):
            yield from holder.items()
        yield from enumerate(parts.items)
    elif is_a(value, dict):
        yield from value.items()
    elif is_a(value, (list, tuple)):
        yield from enumerate(value)


def _modules(moved: Mapping[Name, Name]) -> dict[tuple[str, str], list[tuple[Name, Name]]]:
    """Return the moved names by their old and new modules."""
    found: defaultdict[tuple[str, str], list[tuple[Name, Name]]] = defaultdict(list)
    for one, other in moved.items():
        found[one[0], other[0]].append((one, other))
    return found


def _of_module(old: str, new: str, names: list[tuple[Name, Name]]) -> TreeExplanation:
    """Return the move of a module with all the names that it has in the checkpoint."""
    changes = tuple(ItemChange("class moved", spelled(one), spelled(other), "", _SAME_NAME) for one, other in names)
    return TreeExplanation(changes, (ProposedOperation(MoveModule(old, new), _SAME_NAME),))


def _of_class(one: Name, other: Name, confidence: float, note: str = "") -> TreeExplanation:
    change = ItemChange("class moved", spelled(one), spelled(other), "", confidence)
    operation = MoveClass(spelled(one), spelled(other))
    return TreeExplanation((change,), (ProposedOperation(operation, confidence, (note,) if note else ()),))
