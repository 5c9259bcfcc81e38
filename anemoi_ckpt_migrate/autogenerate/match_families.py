"""Match parameters by the similarity of their names, together with all whose names differ only by numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from anemoi_ckpt_migrate.autogenerate.match_state import Board
from anemoi_ckpt_migrate.autogenerate.name_similarity import Parts, filled, in_numbers, likeness, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.tensor_changes import class_of
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

_MOST_PAIRS = 6000
_NEAR = 5
_MANY = 30_000
_ROUNDS = 4
_AHEAD = 0.25


@dataclass
class Family:
    """Parameters whose names differ only by numbers.

    Attributes
    ----------
    template : tuple of str
        The parts of their names, with a placeholder for each number.
    members : dict of tuple of str to Item
        The parameters, by the numbers in their names.
    place : int
        The position of the first of them.
    """

    template: Parts
    place: int
    members: dict[Parts, Item] = field(default_factory=dict)

    @property
    def kind(self) -> object:
        """The key under which two families can match: the shape classes of their members."""
        return frozenset(class_of(item.shape) for item in self.members.values())

    @property
    def first(self) -> Item:
        """The first member."""
        return next(iter(self.members.values()))


def families(items: Iterable[Item], one_by_one: bool = False) -> dict[Parts, Family]:
    """Return families by template; with `one_by_one`, each parameter is a family of its own."""
    found: dict[Parts, Family] = {}
    for place, item in enumerate(items):
        template, numbers = (parts_of(item.name), ()) if one_by_one else template_of(item.name)
        found.setdefault(template, Family(template, place)).members[numbers] = item
    return found


class _Pair(NamedTuple):
    score: float
    named: float
    old: Family
    new: Family


def link_families(board: Board, least: float, margin: float, one_by_one: bool = False) -> None:
    """Match families of the same shapes, the likeliest first.

    Matching runs in rounds, because each match shows where the modules of other families went.

    Parameters
    ----------
    board : Board
        The unmatched parameters.
    least : float
        The similarity that a match needs.
    margin : float
        The lead in similarity over any rival that a match needs.
    one_by_one : bool
        Match single parameters instead.
    """
    if one_by_one and not any(template_of(name)[1] for name in (*board.old, *board.new)):
        return
    for _ in range(_ROUNDS):
        pairs = list(_pairs(board, one_by_one))
        if not _link_best(board, pairs, least, margin) or len(pairs) > _MANY:
            return


def _pairs(board: Board, one_by_one: bool) -> Iterator[_Pair]:
    olds = _by_kind(families(board.old.values(), one_by_one))
    news = _by_kind(families(board.new.values(), one_by_one))
    for kind, left in olds.items():
        right = news.get(kind, [])
        near = len(left) * len(right) > _MOST_PAIRS
        leaves: defaultdict[str, list[int]] = defaultdict(list)
        for place, family in enumerate(right):
            leaves[family.template[-1]].append(place)
        for place, family in enumerate(left):
            at = place / len(left)
            for other in (
                _candidates(family, place * len(right) // len(left), right, leaves) if near else range(len(right))
            ):
                if _can_be(family, right[other]):
                    yield _scored(board, family, right[other], 1 - abs(at - other / len(right)))


def _can_be(old: Family, new: Family) -> bool:
    """Return whether the numbers allow a match: as many members, or a common number."""
    return len(old.members) == len(new.members) or not old.members.keys().isdisjoint(new.members)


def _by_kind(found: Mapping[Parts, Family]) -> Mapping[object, list[Family]]:
    kinds: defaultdict[object, list[Family]] = defaultdict(list)
    for family in found.values():
        kinds[family.kind].append(family)
    return kinds


def _candidates(family: Family, place: int, right: list[Family], leaves: Mapping[str, list[int]]) -> list[int]:
    """Return the candidates to compare if there are too many: those near by, in all and among equal last parts."""
    near = set(range(max(place - _NEAR, 0), min(place + _NEAR + 1, len(right))))
    same = leaves.get(family.template[-1], [])
    at = len([each for each in same if each < place]) if len(same) < 200 else 0
    return sorted(near | set(same[max(at - _NEAR, 0) : at + _NEAR]))


def _scored(board: Board, old: Family, new: Family, order: float) -> _Pair:
    named = likeness(old.template, new.template)
    if board.modules.support(old.template, new.template):
        named += 0.5
    shape, other = old.first.shape, new.first.shape
    exact = other == (shape[::-1] if board.turning else shape)
    numbers = old.members.keys() == new.members.keys()
    return _Pair(named + 0.2 * order + 0.1 * exact + 0.1 * numbers, named, old, new)


def _link_best(board: Board, pairs: list[_Pair], least: float, margin: float) -> bool:
    pairs.sort(key=lambda pair: -pair.score)
    by_old, by_new = _sides(pairs)
    taken: set[int] = set()
    sure: set[int] = set()  # taken by a pair without a rival
    linked = False
    for pair in pairs:
        if pair.named < least or id(pair.old) in taken or id(pair.new) in taken:
            continue
        rivals = [each for each in by_old[id(pair.old)] if each.new is not pair.new and id(each.new) not in sure]
        rivals += [each for each in by_new[id(pair.new)] if each.old is not pair.old and id(each.old) not in sure]
        left = [each for each in rivals if taken.isdisjoint((id(each.old), id(each.new)))]
        if margin and any(each.score > pair.score - margin for each in left):
            continue
        if margin and _is_refuted(board, pair):
            continue
        confidence, others = _confidence(pair, rivals)
        if _link_members(board, pair, confidence, others):
            taken |= {id(pair.old), id(pair.new)}
            sure |= set() if others else {id(pair.old), id(pair.new)}
            linked = True
    return linked


def _is_refuted(board: Board, pair: _Pair) -> bool:
    """Return whether content contradicts a pair, so that another may be proven."""
    numbers = next((each for each in pair.old.members if each in pair.new.members), None)
    if not board.strict or numbers is None:
        return False
    how = board.turned(pair.old.members[numbers], pair.new.members[numbers])
    return how is not None and how.changed


def _sides(pairs: list[_Pair]) -> tuple[Mapping[int, list[_Pair]], Mapping[int, list[_Pair]]]:
    by_old: defaultdict[int, list[_Pair]] = defaultdict(list)
    by_new: defaultdict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        by_old[id(pair.old)].append(pair)
        by_new[id(pair.new)].append(pair)
    return by_old, by_new


def _confidence(pair: _Pair, rivals: list[_Pair]) -> tuple[float, list[Family]]:
    length = (len(pair.old.template) + len(pair.new.template)) / 2
    ahead = {id(each): (pair.named - each.named) * length for each in rivals}  # in parts of names
    close = [each for each in rivals if ahead[id(each)] < _AHEAD]
    others = [each.new if each.new is not pair.new else each.old for each in close]
    if close:
        return round(1 / (1 + len(close)), 2), others
    if not rivals:
        return (1.0 if pair.named >= 0.4 else 0.7), []
    return round(min(1.0, 0.7 + 0.3 * min(ahead.values())), 2), []


def _link_members(board: Board, pair: _Pair, sure: float, others: list[Family]) -> bool:
    numbers = _numbers(pair.old.members, pair.new.members)
    linked = False
    for one, other in numbers.items():
        old, new = pair.old.members[one], pair.new.members[other]
        how = board.turned(old, new, loose=pair.named > 0.9)
        if how is None or (board.strict and how.changed and pair.named < 0.6):
            continue
        names = [
            filled(each.template, one) if each.template.count("{}") == len(one) else each.first.name for each in others
        ]
        board.pair_turned(old, new, how, sure if one == other else min(sure, 0.8), names)
        linked = True
    return linked


def _numbers(old: Mapping[Parts, Item], new: Mapping[Parts, Item]) -> dict[Parts, Parts]:
    """Return the new numbers by the old ones: all unchanged, or all in order, or the common ones only."""
    if old.keys() == new.keys():
        return {numbers: numbers for numbers in old}
    forms = Counter((item.shape, item.dtype) for item in old.values())
    if len(old) == len(new) and forms == Counter((item.shape, item.dtype) for item in new.values()):
        one, other = sorted(old, key=in_numbers), sorted(new, key=in_numbers)
        if all(old[a].shape == new[b].shape for a, b in zip(one, other, strict=True)):
            return dict(zip(one, other, strict=True))
    return {numbers: numbers for numbers in old if numbers in new}
