"""Match the places of the state dict, of its copies and of optimizers, and the prefixes of names in copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.explain_optimizers import find_places
from anemoi_ckpt_migrate.autogenerate.name_similarity import likeness
from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, Path, TreeExplanation, joined, written
from anemoi_ckpt_migrate.op import At, MoveItem
from anemoi_ckpt_migrate.state.find_parameters import ParameterLocation, find_copies, find_main, is_pickled, keys_at
from anemoi_ckpt_migrate.state.schedulers import is_scheduler
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.paths import shown

_SURE = 0.9
_MOST = 200


def explain_places(old: Any, new: Any, main: str | None, names: Mapping[str, str]) -> TreeExplanation:
    """Explain what has another place in the new checkpoint, or other prefixes in its names.

    Parameters
    ----------
    old, new : object
        The two trees.
    main : str or None
        The path of the state dict, if the project configures it: then it stays there.
    names : mapping of str to str
        The new names of parameters that are in both, by the old ones.
    """
    one, other = find_main(old, main), find_main(new, main)
    if isinstance(one, str) or isinstance(other, str) or is_pickled(one) or is_pickled(other):
        return TreeExplanation()
    olds, news = ({place.path: place for place in copies(tree, found)} for tree, found in ((old, one), (new, other)))
    pairs = {path: path for path in olds if path in news} | _moved(olds.keys() - news.keys(), news.keys() - olds.keys())
    found = [_prefixes(keys_at(old, path), olds[path], news[target], names) for path, target in pairs.items()]
    kept = [(path, target) for path, target in pairs.items() if path != target]
    moves = [(keys_at(old, path), keys_at(new, target)) for path, target in kept]
    found += [_move("copy moved", *pair) for pair in moves]
    found += [_move("item moved", *pair) for pair in _other_moves(old, new)]
    if main is None and one.path != other.path and one.path and other.path:
        found.append(_move("item moved", keys_at(old, one.path), keys_at(new, other.path)))
    return joined(found)


def copies(tree: Any, main: ParameterLocation) -> list[ParameterLocation]:
    """Return the copies of the parameters in a tree that are dicts."""
    return [place for place in find_copies(tree, main, main.table()) if place.path and not is_pickled(place)]


def _moved(olds: Sequence[str] | set[str], news: Sequence[str] | set[str]) -> dict[str, str]:
    """Match paths that only one side has: the likest first, so that a single one meets a single one."""
    left, right = sorted(olds), sorted(news)
    scored = sorted(
        (-likeness(tuple(one.split(".")), tuple(other.split("."))), one, other) for one in left for other in right
    )
    found: dict[str, str] = {}
    for _, one, other in scored:
        if one not in found and other not in found.values():
            found[one] = other
    return found


def _other_moves(old: Any, new: Any) -> Iterator[tuple[Path, Path]]:
    """Yield the places of optimizers, and of schedulers, that only one side has, if each side has one of them."""
    sides = [find_places(tree) for tree in (old, new)]
    for wanted in (False, True):
        places = [[path for path, value in side.items() if is_scheduler(value) is wanted] for side in sides]
        gone = [path for path in places[0] if path not in places[1]]
        come = [path for path in places[1] if path not in places[0]]
        if len(gone) == len(come) == 1:
            yield gone[0], come[0]


def _move(kind: str, one: Path, other: Path) -> TreeExplanation:
    """Move an item, if the new place is in dicts: an operation makes no lists."""
    if any(is_a(key, int) for key in other) or other[: len(one)] == one or one[: len(other)] == other:
        return TreeExplanation()
    change = ItemChange(kind, shown(one), shown(other), "", _SURE)
    return TreeExplanation((change,), (ProposedOperation(MoveItem(written(one), written(other)), _SURE),))


def _prefixes(
    path: Path, one: ParameterLocation, other: ParameterLocation, names: Mapping[str, str]
) -> TreeExplanation:
    """Give the names in a copy the prefix that they have in the copy of the new checkpoint."""
    if (one.extra_prefix, one.missing_prefix) == (other.extra_prefix, other.missing_prefix):
        return TreeExplanation()
    keys = {}
    for name in one.table():
        new = names.get(name)
        made = None if new is None else one.extra_prefix + new.removeprefix(one.missing_prefix)
        wanted = None if new is None else other.extra_prefix + new.removeprefix(other.missing_prefix)
        if made is not None and wanted is not None and made != wanted and wanted in other.content:
            keys[made] = wanted
    if not keys or len(keys) > _MOST:
        return TreeExplanation()
    moves = tuple(MoveItem((made,), (wanted,)) for made, wanted in keys.items())
    change = ItemChange(
        "copy renamed", f"{shown(path)}.{one.extra_prefix}", f"{shown(path)}.{other.extra_prefix}", "", _SURE
    )
    return TreeExplanation((change,), (ProposedOperation(At((written(path),), moves), _SURE),))
