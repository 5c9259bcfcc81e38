"""Match renumbered blocks (counted from 0 instead of 1, or shifted by an insertion), and square matrices."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, Parts, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Link
from anemoi_ckpt_migrate.util.dataclass import replace

Blocks = dict[str, dict[str, Item]]
"""For each block number, the parameters of the block by the rest of the name."""


def renumbered(old: Mapping[str, Item], new: Mapping[str, Item]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the parameters of renumbered blocks: each old name with its new name and the alternatives."""
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
    """Drop entries whose new name is taken by an earlier entry or is not left to match."""
    taken: set[str] = set()
    stash = {}
    for name, (target, others) in found.items():
        if target not in taken and target in new and name in old:
            taken.add(target)
            stash[name] = (target, others)
    return stash


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
    """Return the new number of each old block; nothing if all blocks kept their numbers."""
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
    """Match as many equal blocks as possible, in order; among equally good matches prefer unchanged numbers."""
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


_TURNED = ("permute", (1, 0))
_ADAPTER = re.compile(r"(.*)\.lora_\w+(?:\.|$)")
_MERGED = "lora_A and lora_B seem to be merged into it; no operation adds their product to its values"
_NOTE = "it is square; a transpose is assumed, because its neighbours are transposed"


def turned_alike(
    links: list[Link], old: Mapping[str, Item], new: Mapping[str, Item], contents: Contents | None
) -> list[Link]:
    """Return links in which square matrices are transposed where all others of the same blocks are.

    Parameters
    ----------
    links : list of Link
        The matches.
    old, new : mapping of str to Item
        All parameters.
    contents : Contents or None
        Contents have been compared already, if they are given.
    """
    turned: dict[Parts | None, bool] = {}
    for link in links:
        block, form = _block(link), new[link.new[0]].shape
        if link.kind == "one" and block is not None and len(form) == 2 and form[0] != form[1]:
            turned[block] = turned.get(block, True) and _TURNED in link.steps
    return [_turned(link) if turned.get(_block(link)) and _open(link, old, new, contents) else link for link in links]


def with_adapters(
    links: list[Link], old: Mapping[str, Item], new: Mapping[str, Item], dropped: Iterable[str]
) -> list[Link]:
    """Return the links, with a note where the product of adapters may have been added to the values."""
    adapted = {found[1] for name in dropped if (found := _ADAPTER.match(name))}
    return [
        replace(link, note=_MERGED, confidence=min(link.confidence, 0.9), changed=False)
        if link.kind == "one" and _adapted(link.old[0], adapted) and not _is_same(old[link.old[0]], new[link.new[0]])
        else link
        for link in links
    ]


def _adapted(name: str, adapted: Collection[str]) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.removesuffix(".base_layer") in adapted


def _is_same(old: Item, new: Item) -> bool:
    return old.digest is not None and old.digest == new.digest


def _block(link: Link) -> Parts | None:
    """Return the numbered block that holds the old parameter; None if there is none."""
    template, numbers = template_of(link.old[0])
    return template[: template.index(NUMBER)] if numbers else None


def _open(link: Link, old: Mapping[str, Item], new: Mapping[str, Item], contents: Contents | None) -> bool:
    """Return whether neither content nor shapes show if a parameter was transposed."""
    before, after = [old[name] for name in link.old], [new[name] for name in link.new]
    known = all(item.digest is not None for item in (*before, *after))
    if link.steps or (known and (contents is not None or before[0].digest == after[0].digest)):
        return False
    parts = before if link.kind == "cat" else after
    return link.kind in ("one", "cat", "narrow") and all(
        len(item.shape) == 2 and item.shape[0] == item.shape[1] for item in parts
    )


def _turned(link: Link) -> Link:
    dim = 1 - link.dim if link.kind == "cat" else link.dim
    return replace(link, dim=dim, steps=(_TURNED,), confidence=min(link.confidence, 0.7), note=link.note or _NOTE)
