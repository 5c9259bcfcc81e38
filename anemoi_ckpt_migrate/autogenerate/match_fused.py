"""Match several parameters with one, and one with several: fused, split, stacked, unstacked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

from anemoi_ckpt_migrate.autogenerate.match_families import Family, families
from anemoi_ckpt_migrate.autogenerate.match_state import Board
from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, Parts, common_start, in_numbers, likeness
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Link, Step
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

# Parts that transformers fuse, in the usual order. A part of a name is compared without the words in `_WORDS`.
_SETS = (
    ("q", "k", "v"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("k", "v"),
    ("key", "value"),
    ("gate", "up"),
    ("w1", "w3"),
)
_WORDS = ("proj", "projection", "to", "lin", "linear", "weight", "bias", "w", "c", "attn", "in", "layer", "dense", "fc")
_MOST_CANDIDATES = 8
_LEAST = 0.5
_MOST_PERMUTED = 4
_MOST_MEMBERS = 64


@dataclass(frozen=True)
class FusionCandidate:
    """A family that could be the fusion of others, or could be split into them.

    Attributes
    ----------
    whole : Family
        The fused family.
    parts : tuple of Family
        The other families, in their order within the whole.
    dim : int
        The dimension along which they are joined.
    steps : tuple of Step
        The steps after joining, or before splitting.
    familiar : bool
        Whether the names are a known set, such as q, k, v.
    likely : float
        The similarity of the names.
    alone : bool
        Whether no other choice of parts has the right size.
    """

    whole: Family
    parts: tuple[Family, ...]
    dim: int
    steps: tuple[Step, ...]
    familiar: bool
    likely: float
    alone: bool


def link_joined(board: Board, familiar: bool) -> None:
    """Match several with one, and one with several.

    Parameters
    ----------
    board : Board
        The unmatched parameters.
    familiar : bool
        Whether to match only known sets of names, such as q, k, v, and stacks.
    """
    for parting in (False, True):
        wholes = families((board.old if parting else board.new).values())
        parts = families((board.new if parting else board.old).values())
        if not wholes or not parts:
            continue
        if familiar:
            _link_stacked(board, wholes, parts, parting)
        _link_fused(board, wholes, parts, parting, familiar)


def _link_fused(
    board: Board, wholes: Mapping[Parts, Family], parts: Mapping[Parts, Family], parting: bool, familiar: bool
) -> None:
    index = _siblings(parts)
    for whole in wholes.values():
        found = [joint for joint in _joints(board, whole, index) if joint.familiar or not familiar]
        found.sort(key=lambda joint: (not joint.familiar, bool(joint.steps), -joint.likely, joint.dim))
        for joint in found:
            if _link_joint(board, joint, parting):
                break


Key = tuple[frozenset[Parts], int, tuple[int, ...]]
"""Numbers, a dimension, and the sizes of all other dimensions."""


def _siblings(parts: Mapping[Parts, Family]) -> Mapping[Key, Mapping[tuple[int, Parts], list[Family]]]:
    """Group families that differ only in one part of their names and in one dimension."""
    found: defaultdict[Key, defaultdict[tuple[int, Parts], list[Family]]] = defaultdict(lambda: defaultdict(list))
    for family in parts.values():
        shape = family.first.shape
        if len({item.shape for item in family.members.values()}) > 1:
            continue
        numbers = frozenset(family.members)
        for dim in range(len(shape)):
            rest = (*shape[:dim], *shape[dim + 1 :])
            for place in range(max(len(family.template) - 3, 0), len(family.template)):
                if family.template[place] != NUMBER:
                    key = (place, (*family.template[:place], "", *family.template[place + 1 :]))
                    found[numbers, dim, rest][key].append(family)
    return {
        key: {one: group for one, group in groups.items() if 1 < len(group) <= _MOST_MEMBERS}
        for key, groups in found.items()
    }


def _joints(
    board: Board, whole: Family, index: Mapping[Key, Mapping[tuple[int, Parts], list[Family]]]
) -> Iterator[FusionCandidate]:
    shapes = {item.shape for item in whole.members.values()}
    if len(shapes) > 1:
        return
    shape = whole.first.shape
    forms: list[tuple[tuple[int, ...], tuple[Step, ...]]] = [(shape, ())]
    if len(shape) == 2:
        forms.append((shape[::-1], (("permute", (1, 0)),)))
    for form, steps in forms:
        for dim in range(len(form)):
            rest = (*form[:dim], *form[dim + 1 :])
            families_ = index.get((frozenset(whole.members), dim, rest), {})
            likely = [(_alike(whole.template, key), key, group) for key, group in families_.items()]
            likely.sort(key=lambda each: -each[0])
            for likeliness, (place, _), group in likely[:_MOST_CANDIDATES]:
                if likeliness < _LEAST:
                    break
                for chosen, familiar, alone in _subsets(group, place, dim, form[dim]):
                    yield FusionCandidate(whole, chosen, dim, steps, familiar, likeliness, alone)


def _alike(whole: Parts, key: tuple[int, Parts]) -> float:
    """Return the similarity of a name and the common name of a group, with or without the part that differs."""
    place, parts = key
    return max(likeness(whole, parts), likeness(whole, (*parts[:place], *parts[place + 1 :])))


def _subsets(
    group: Sequence[Family], place: int, dim: int, total: int
) -> Iterator[tuple[tuple[Family, ...], bool, bool]]:
    """Yield families of a group whose sizes add up to a total.

    Each comes with two flags: whether the names are a known set, and whether no other choice adds up. A known set
    comes alone; so does the whole group.
    """
    words = {_word(family.template[place]): family for family in group}
    for each in _SETS:
        known = [words[word] for word in each if word in words]
        if len(known) == len(each) and _sum(known, dim) == total:
            yield tuple(known), True, False
            return
    if _sum(group, dim) == total and len(group) <= _MOST_MEMBERS:
        yield tuple(group), False, True
        return
    windows = [
        tuple(group[start:end])
        for start in range(len(group))
        for end in range(start + 2, min(len(group), start + 4) + 1)
        if _sum(group[start:end], dim) == total
    ]
    for window in windows[:_MOST_PERMUTED]:
        yield window, False, len(windows) == 1


def _word(part: str) -> str:
    words = [word for word in part.lower().split("_") if word and word not in _WORDS]
    return "_".join(words) or part.lower()


def _sum(group: Sequence[Family], dim: int) -> int:
    return sum(family.first.shape[dim] for family in group)


def _link_joint(board: Board, joint: FusionCandidate, parting: bool) -> bool:
    """Add the links of a joint unless content or other matches contradict it; return whether they were added."""
    involved = [joint.whole, *joint.parts]
    here = (board.old if parting else board.new, board.new if parting else board.old)
    if any(item.name not in here[0] for item in joint.whole.members.values()):
        return False
    if any(item.name not in here[1] for family in joint.parts for item in family.members.values()):
        return False
    known = all(item.digest is not None for family in involved for item in family.members.values())
    ordered = _proven(board, joint, parting) if known and board.contents is not None else None
    if ordered is None and (board.strict or joint.likely < 0.6):
        return False
    parts, proven = ordered or joint.parts, ordered is not None
    sure = 1.0 if proven else (0.9 if joint.familiar else 0.8 if joint.alone else 0.5) - 0.1 * bool(joint.steps)
    note = "" if proven else "the order of the parts is a guess from shapes and names"
    for numbers, item in joint.whole.members.items():
        names = tuple(family.members[numbers].name for family in parts)
        sizes = tuple(family.members[numbers].shape[joint.dim] for family in parts)
        confidence = sure if proven else sure - 0.1 * bool(joint.steps)
        joined = Link(names, (item.name,), "cat", joint.dim, sizes, joint.steps, confidence, note=note)
        board.link(_parted(board, joined) if parting else _cast(board, joined))
    return True


def _proven(board: Board, joint: FusionCandidate, parting: bool) -> tuple[Family, ...] | None:
    """Return the parts in the order that content proves; None if content proves none."""
    orders = permutations(joint.parts) if len(joint.parts) <= _MOST_PERMUTED else iter([joint.parts])
    for order in orders:
        if all(_is_joined(board, joint, order, numbers, parting) for numbers in joint.whole.members):
            return order
    return None


def _is_joined(board: Board, joint: FusionCandidate, order: Sequence[Family], numbers: Parts, parting: bool) -> bool:
    whole = joint.whole.members[numbers]
    parts = [family.members[numbers] for family in order]
    if not parting:
        return _same(board, "cat", (joint.dim,), parts, whole, joint.steps)
    start, dim = 0, 1 - joint.dim if joint.steps else joint.dim
    for part in parts:
        size = part.shape[joint.dim]
        if not _same(board, "narrow", (dim, start, size), [whole], part, joint.steps):
            return False
        start += size
    return True


def _same(
    board: Board, kind: str, args: tuple[Any, ...], old: Sequence[Item], new: Item, steps: tuple[Step, ...]
) -> bool:
    cast: tuple[Step, ...] = (("cast", new.dtype),) if new.dtype != old[0].dtype else ()
    names = [item.name for item in old]
    return board.contents is not None and board.contents.same(kind, args, names, new.name, (*steps, *cast))


def _cast(board: Board, joined: Link) -> Link:
    """Return a link of parts that became one parameter, with the step that changes their dtype, if any."""
    (whole,) = joined.new
    old, new = board.old[joined.old[0]].dtype, board.new[whole].dtype
    cast: tuple[Step, ...] = (("cast", new),) if old != new else ()
    return replace(joined, steps=joined.steps + cast)


def _parted(board: Board, joined: Link) -> Link:
    """Return the link of one parameter that became parts, for a link that would join the parts."""
    (whole,) = joined.new
    old, new = board.old[whole].dtype, board.new[joined.old[0]].dtype
    cast: tuple[Step, ...] = (("cast", new),) if old != new else ()
    kind, dim, steps = {"cat": "narrow", "stack": "select"}[joined.kind], joined.dim, joined.steps
    if steps:  # transposed before the split; each part can be transposed afterwards just as well
        dim = 1 - dim if joined.kind == "cat" else dim
        steps = (("permute", (1, 0)),)
    return replace(joined, old=(whole,), new=joined.old, kind=kind, dim=dim, steps=steps + cast)


def _link_stacked(board: Board, wholes: Mapping[Parts, Family], parts: Mapping[Parts, Family], parting: bool) -> None:
    """Match numbered parameters, such as those of experts, with one parameter that holds all of them."""
    index = _counted(parts)
    for whole in wholes.values():
        for shape, kind, dim, steps in _stackings(whole):
            found = index.get((frozenset(whole.members), shape[0], shape[1]), [])
            likely = sorted(found, key=lambda each: -likeness(whole.template, _without(each[0].template, each[1])))
            done = False
            for family, place in likely:
                named = likeness(whole.template, _without(family.template, place))
                if named >= 0.6 and _link_stack(board, whole, family, place, kind, dim, steps, parting):
                    done = True
                    break
            if done:
                break


def _without(template: Parts, place: int) -> Parts:
    """Return a template without one of its numbers."""
    at = [where for where, part in enumerate(template) if part == NUMBER][place]
    return (*template[:at], *template[at + 1 :])


def _counted(
    parts: Mapping[Parts, Family],
) -> Mapping[tuple[frozenset[Parts], int, tuple[int, ...]], list[tuple[Family, int]]]:
    """Return families with one number taken as the index of a stack.

    The key holds the remaining numbers, the size of the stack, and the shape. Each value is a family with the
    place of the number that counts.
    """
    found: defaultdict[tuple[frozenset[Parts], int, tuple[int, ...]], list[tuple[Family, int]]] = defaultdict(list)
    for family in parts.values():
        shapes = {item.shape for item in family.members.values()}
        for place in range(family.template.count(NUMBER)):
            rest = defaultdict(list)
            for numbers in family.members:
                rest[(*numbers[:place], *numbers[place + 1 :])].append(numbers[place])
            counts = {tuple(sorted(each, key=int)) for each in rest.values()}
            if len(counts) == 1 and len(shapes) == 1:
                count = len(next(iter(counts)))
                found[frozenset(rest), count, next(iter(shapes))].append((family, place))
    return found


def _stackings(whole: Family) -> Iterator[tuple[tuple[int, tuple[int, ...]], str, int, tuple[Step, ...]]]:
    """Yield the ways to join equal parts into a whole: count and shape of the parts, kind, dimension and steps."""
    shape = whole.first.shape
    if len({item.shape for item in whole.members.values()}) > 1:
        return
    for dim, count in enumerate(shape):
        yield (count, (*shape[:dim], *shape[dim + 1 :])), "stack", dim, ()
    if len(shape) == 3 and shape[1] != shape[2]:
        yield (shape[0], (shape[2], shape[1])), "stack", 0, (("permute", (0, 2, 1)),)
    for dim, size in enumerate(shape):
        for count in range(2, min(size, _MOST_MEMBERS) + 1):
            if size % count == 0:
                yield (count, (*shape[:dim], size // count, *shape[dim + 1 :])), "cat", dim, ()


def _link_stack(
    board: Board,
    whole: Family,
    family: Family,
    place: int,
    kind: str,
    dim: int,
    steps: tuple[Step, ...],
    parting: bool,
) -> bool:
    here = (board.old if parting else board.new, board.new if parting else board.old)
    if any(item.name not in here[0] for item in whole.members.values()):
        return False
    if any(item.name not in here[1] for item in family.members.values()):
        return False
    rows: dict[Parts, list[Parts]] = {numbers: [] for numbers in whole.members}
    for numbers in sorted(family.members, key=in_numbers):
        rows[(*numbers[:place], *numbers[place + 1 :])].append(numbers)
    known = all(item.digest is not None for each in (whole, family) for item in each.members.values())
    proven = known and all(
        _is_stacked(board, whole.members[one], [family.members[each] for each in row], kind, dim, steps, parting)
        for one, row in rows.items()
    )
    if not proven and board.strict:
        return False
    start = common_start(whole.template, family.template)
    sure = 1.0 if proven else 0.95 if kind == "stack" and start and not steps else 0.8
    note = "" if proven else "the order of their numbers is a guess"
    for numbers, row in rows.items():
        names = tuple(family.members[each].name for each in row)
        item = whole.members[numbers]
        size = family.first.shape[dim] if kind == "cat" else 1
        joined = Link(names, (item.name,), kind, dim, (size,) * len(names), steps, sure, note=note)
        board.link(_parted(board, joined) if parting else _cast(board, joined))
    return True


def _is_stacked(
    board: Board, whole: Item, row: Sequence[Item], kind: str, dim: int, steps: tuple[Step, ...], parting: bool
) -> bool:
    if not parting:
        return _same(board, kind, (dim,), row, whole, steps)
    turned: tuple[Step, ...] = (("permute", (1, 0)),) if steps else ()
    for index, item in enumerate(row):
        size = item.shape[dim] if kind == "cat" else 1
        ask, args = ("select", (dim, index)) if kind == "stack" else ("narrow", (dim, index * size, size))
        if not _same(board, ask, args, [whole], item, turned):
            return False
    return True
