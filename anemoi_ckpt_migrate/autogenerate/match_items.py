"""Match hyper-parameters that appeared, vanished, or have another name or place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from anemoi_ckpt_migrate.autogenerate.name_similarity import likeness
from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, Path, TreeExplanation, written
from anemoi_ckpt_migrate.op import ConvertItem, DropItem, MoveItem, NestItem, SetItem
from anemoi_ckpt_migrate.state.find_parameters import is_parameters, is_tensor
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.optimizer_formats import is_optimizer
from anemoi_ckpt_migrate.tree.paths import shown
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

_CONFIGS = ("hyper_parameters", "hparams", "config", "cfg", "conf", "args", "settings", "options", "opt")
_ENDINGS = tuple(f"_{word}" for word in _CONFIGS)
_LEAST = 0.5
_SURE, _NEW, _GONE = 0.9, 0.7, 0.7
_LONGEST = 500
_MOST = 300
_SMALL = 4


def is_config(key: Any, value: Any) -> bool:
    """Return whether an item of a checkpoint holds hyper-parameters, as its key and its content tell."""
    if not is_a(key, str) or not (key in _CONFIGS or key.endswith(_ENDINGS)):
        return False
    return not _is_of_tensors(value) and not is_optimizer(value) and is_a(_plain(value), dict)


def _is_of_tensors(value: Any) -> bool:
    return is_parameters(value) and 2 * sum(map(is_tensor, value.values())) > len(value)


def explain_items(old: Any, new: Any) -> TreeExplanation:
    """Explain the differences between the hyper-parameters of two checkpoints. All operations are guesses.

    Values that differ under the same key are choices of a run, and left alone.
    """
    if not is_a(old, dict) or not is_a(new, dict):
        return TreeExplanation()
    sides = [{key: _plain(value) for key, value in tree.items() if is_config(key, value)} for tree in (old, new)]
    if not sides[1]:
        return TreeExplanation()  # NEW says nothing of them
    found = _Differences()
    found.compare((), *sides)
    moves = _moves(found)
    return _Writer(old, new, found, moves).explanation()


def _plain(value: Any) -> Any:
    return config_objects.plain(value, objects=True)


@dataclass
class _Differences:
    """Where two trees of plain dicts differ in their keys."""

    gone: dict[Path, Any] = field(default_factory=dict)
    come: dict[Path, Any] = field(default_factory=dict)
    nested: dict[Path, Path] = field(default_factory=dict)

    def compare(self, path: Path, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> None:
        """Collect the differences between two dicts at a path."""
        for key, value in old.items():
            if key not in new:
                self.gone[(*path, key)] = value
            elif is_a(value, dict) and is_a(new[key], dict):
                self.compare((*path, key), value, new[key])
            elif is_a(new[key], dict) and (under := _under(key, value, new[key])):
                self.nested[(*path, key)] = under
        self.come |= {(*path, key): value for key, value in new.items() if key not in old}


def _under(key: Any, value: Any, inside: Mapping[Any, Any]) -> Path:
    """Return the keys in a dict below which a value went that stood in its place; empty if that is unclear."""
    leaves = [(path, leaf) for path, leaf in _leaves((), inside) if path]
    same = [path for path, leaf in leaves if path[-1] == key] or [
        path for path, leaf in leaves if _is_telling(value) and repr(leaf) == repr(value)
    ]
    return same[0] if len(same) == 1 else ()


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if is_a(value, dict) and value:
        for key, each in value.items():
            yield from _leaves((*path, key), each)
    else:
        yield path, value


@dataclass(frozen=True)
class _Move:
    new: Path
    confidence: float
    others: tuple[Path, ...] = ()


def _moves(found: _Differences) -> dict[Path, _Move]:
    """Match what is gone with what has come: whole values first, then the leaves of those that are left."""
    moves = _matched(found.gone, found.come)
    taken = {move.new for move in moves.values()}
    gone = {path: value for path, value in found.gone.items() if path not in moves}
    come = {path: value for path, value in found.come.items() if path not in taken}
    leaves = [dict(leaf for path, value in side.items() for leaf in _leaves(path, value)) for side in (gone, come)]
    return moves | {old: move for old, move in _matched(*leaves).items() if old not in moves}


def _matched(gone: Mapping[Path, Any], come: Mapping[Path, Any]) -> dict[Path, _Move]:
    if len(gone) * len(come) > _MOST * _MOST:
        return {}
    scores = {
        (old, new): score
        for old, before in gone.items()
        for new, after in come.items()
        if (score := _score(old, before, new, after)) >= _LEAST
    }
    moves: dict[Path, _Move] = {}
    taken: set[Path] = set()
    for (old, new), score in sorted(scores.items(), key=lambda each: -each[1]):
        if old in moves or new in taken:
            continue
        rivals = [other for (one, other), also in scores.items() if one == old and other != new and also > score - 0.1]
        rivals = [other for other in rivals if other not in taken]
        moves[old] = _Move(new, min(round(score / (1 + len(rivals)), 2), _SURE), tuple(rivals[:2]))
        taken.add(new)
    return moves


def _score(old: Path, before: Any, new: Path, after: Any) -> float:
    """Return how likely it is that a value has another name or place now, from 0 to 1."""
    if is_a(before, dict) is not is_a(after, dict) or new[: len(old)] == old or old[: len(new)] == new:
        return 0.0
    named = likeness(_words(old[-1]), _words(new[-1]))
    beside = 0.2 if old[:-1] == new[:-1] else 0.0
    if is_a(before, dict):
        keys = set(before) | set(after)
        shared = len(set(before) & set(after)) / len(keys) if keys else 0.0
        return 0.5 * shared + 0.3 * named + beside
    if not _are_alike(before, after):
        return 0.0
    same = repr(before) == repr(after)
    return 0.5 * named + beside + (0.3 if same and _is_telling(before) else 0.1 if same else 0.0)


def _words(key: Any) -> tuple[str, ...]:
    return tuple(str(key).strip("_").lower().split("_"))


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether a value may have become another one: of the same type, numbers alike, or None."""
    numbers = [is_a(value, (int, float)) and not is_a(value, bool) for value in (one, other)]
    return type(one) is type(other) or all(numbers) or one is None or other is None


def _is_telling(value: Any) -> bool:
    """Return whether an equal value is hardly a coincidence."""
    if is_a(value, bool) or value is None:
        return False
    if is_a(value, int):
        return abs(value) > _SMALL
    if is_a(value, float):
        return value not in (0.0, 1.0)
    return is_a(value, (str, list, dict)) and len(value) > 1


class _Writer:
    """Writes differences as operations."""

    def __init__(self, old: Any, new: Any, found: _Differences, moves: Mapping[Path, _Move]) -> None:
        self._old, self._new, self._found, self._moves = old, new, found, moves
        self._taken = {move.new for move in moves.values()}
        self._changes: list[ItemChange] = []
        self._guesses: list[ProposedOperation] = []

    def explanation(self) -> TreeExplanation:
        """Return the operations: convert and nest, move, drop, and set."""
        for key, value in self._new.items():
            if is_config(key, value):
                self._convert((key,))
        for path, under in self._found.nested.items():
            new = (*path, *under)
            self._add("item moved", path, new, NestItem(written(path), written(under)), _SURE)
        for path, move in self._moves.items():
            others = " or ".join(f"{shown(path)} may be {shown(other)} instead" for other in move.others)
            operation = MoveItem(written(path), written(move.new))
            self._add("item moved", path, move.new, operation, move.confidence, others)
        for path in self._found.gone:
            if path not in self._moves:
                self._add("item dropped", path, (), DropItem(written(path)), _GONE)
        for path, value in self._found.come.items():
            if path not in self._taken:
                self._set(path, value)
        return TreeExplanation(tuple(self._changes), tuple(self._guesses))

    def _set(self, path: Path, value: Any) -> None:
        """Set a value, or those parts of it that were not moved there."""
        if is_a(value, dict) and any(new[: len(path)] == path for new in self._taken):
            for key, each in value.items():
                if (*path, key) not in self._taken:
                    self._set((*path, key), each)
        elif is_settable(value):
            operation = SetItem(written(path), value, overwrite=False)
            self._add("item added", (), path, operation, _NEW, "the values of new items are those of NEW")
        # else: `remaining_differences` says that it is missing

    def _convert(self, path: Path) -> None:
        """Convert objects of a class to dicts, where NEW has dicts."""
        if not paths.there(self._old, path):
            return
        before, after = paths.get(self._old, path), paths.get(self._new, path)
        if not is_a(after, dict) or not is_a(_plain(before), dict):
            return
        if is_a(before, Opaque):
            operation = ConvertItem(written(path), "dict", classes=(config_objects.named(before),))
            self._add("item converted", path, path, operation, _SURE)
        else:
            for key in after:
                self._convert((*path, key))

    def _add(self, kind: str, old: Path, new: Path, operation: Any, confidence: float, note: str = "") -> None:
        value = getattr(operation, "value", None) if kind == "item added" else None
        detail = f"{value!r:.60}" if kind == "item added" else ""
        self._changes.append(ItemChange(kind, shown(old), shown(new), detail, confidence))
        self._guesses.append(ProposedOperation(operation, confidence, (note,) if note else ()))


def is_settable(value: Any) -> bool:
    """Return whether a script can hold a value: text, finite numbers, None, and lists and dicts of these, not long."""
    return _is_plain(value) and len(repr(value)) <= _LONGEST


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, int, bool)


def missing_items(made: Any, new: Any) -> list[str]:
    """Return the paths of hyper-parameters that NEW has and a result lacks, and those that it has too many."""
    sides = [{key: _plain(value) for key, value in tree.items() if is_config(key, value)} for tree in (made, new)]
    if not sides[1]:
        return []
    found = _Differences()
    found.compare((), *sides)
    return [
        *(f"{shown(path)} is missing" for path in found.come),
        *(f"{shown(path)} is left over" for path in found.gone),
    ]
