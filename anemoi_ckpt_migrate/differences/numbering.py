"""Blocks that are numbered otherwise: from 0 instead of from 1, or after one was put between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.differences.items import Item
from anemoi_ckpt_migrate.differences.names import parts_of

Blocks = dict[str, dict[str, Item]]
"""For each number, what is in the block, by the rest of the name."""


def renumbered(old: Mapping[str, Item], new: Mapping[str, Item]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return what blocks with other numbers hold: old names, with new ones and others that it might have been."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    before, after = _containers(old.values()), _containers(new.values())
    for container, blocks in before.items():
        others = after.get(container)
        if others is None:
            continue
        for number, now in _aligned(blocks, others).items():
            if number == now:
                continue
            for rest, item in blocks[number].items():
                target = others[now].get(rest)
                if target is not None and item.name not in found:
                    same = (item.name,) if item.name in new else ()
                    found[item.name] = (target.name, same)
    return _moved_only(found, old, new)


def _moved_only(
    found: dict[str, tuple[str, tuple[str, ...]]], old: Mapping[str, Item], new: Mapping[str, Item]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Leave out what two would become."""
    taken: set[str] = set()
    kept = {}
    for name, (target, others) in found.items():
        if target not in taken and target in new and name in old:
            taken.add(target)
            kept[name] = (target, others)
    return kept


def _containers(items: Iterable[Item]) -> dict[str, Blocks]:
    found: dict[str, Blocks] = {}
    for item in items:
        parts = parts_of(item.name)
        for place, part in enumerate(parts):
            if part.isdigit() and place + 1 < len(parts):
                blocks = found.setdefault(".".join(parts[:place]), {})
                blocks.setdefault(part, {})[".".join(parts[place + 1 :])] = item
    return found


def _aligned(old: Blocks, new: Blocks) -> dict[str, str]:
    """Return which number became which, if not all kept theirs."""
    one, other = sorted(old, key=int), sorted(new, key=int)
    common = [number for number in one if number in new]
    signs = {number: _sign(block) for number, block in old.items()}
    also = {number: _sign(block) for number, block in new.items()}
    keeps = all(signs[number] == also[number] for number in common)
    if keeps and (len(common) == min(len(one), len(other)) or not common):
        shifted = len(one) == len(other) and not common and _fits(one, other, signs, also)
        return dict(zip(one, other, strict=True)) if shifted else {}
    if len(one) == len(other) and one != other and _fits(one, other, signs, also):
        return dict(zip(one, other, strict=True))
    return {} if keeps else _in_order(one, other, signs, also)


def _sign(block: Mapping[str, Item]) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((rest, item.shape) for rest, item in block.items())


def _fits(one: Sequence[str], other: Sequence[str], signs: Mapping[str, object], also: Mapping[str, object]) -> bool:
    return all(signs[number] == also[now] for number, now in zip(one, other, strict=True))


def _in_order(
    one: Sequence[str], other: Sequence[str], signs: Mapping[str, object], also: Mapping[str, object]
) -> dict[str, str]:
    """Match as many blocks that look the same as possible, in order; the same number, where that is left open."""
    if len(one) * len(other) > 40_000:
        return {}
    best = [[(0, 0)] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) - 1, -1, -1):
        for j in range(len(other) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if signs[one[i]] == also[other[j]]:
                count, same = best[i + 1][j + 1]
                best[i][j] = max(best[i][j], (count + 1, same + (one[i] == other[j])))
    found = {}
    i = j = 0
    while i < len(one) and j < len(other):
        if best[i][j] == best[i + 1][j]:
            i += 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            found[one[i]] = other[j]
            i, j = i + 1, j + 1
    stays = sum(signs[number] == also.get(number) for number in one)
    return found if len(found) > stays else {}
