"""Operations that make one of several and several of one, for all blocks at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from anemoi_ckpt_migrate.differences.items import Link
from anemoi_ckpt_migrate.differences.names import template_of
from anemoi_ckpt_migrate.differences.selecting import PLACES, shared_numbers, with_places
from anemoi_ckpt_migrate.op import Fuse, Split, Stack, Unstack
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.patterns import pattern

_Texts = tuple[tuple[str, ...], tuple[str, ...]]
"""Patterns of what there is, and of what comes about."""


def merges(
    links: Sequence[Link], current: Mapping[str, str], table: Mapping[str, object], plain: bool
) -> Iterator[tuple[Operation, list[Link]]]:
    """Return operations, each with the links that it is for.

    Parameters
    ----------
    links : sequence of Link
        What became of what.
    current : mapping of str to str
        What is called how now, by old names.
    table : mapping
        Names that are there.
    plain : bool
        Whether each link is to have its own operation.
    """
    groups: defaultdict[tuple[_Texts, str, int, tuple[int, ...]], list[Link]] = defaultdict(list)
    for link in links:
        sources = tuple(current[name] for name in link.old)
        texts = (sources, link.new) if plain else _counting(link, sources) or _opened(sources, link.new)
        groups[texts, link.kind, link.dim, _sizes(link)].append(link)
    for (texts, kind, dim, sizes), group in groups.items():
        rows = [tuple(current[name] for name in link.old) for link in group]
        if _selects(texts[0], rows, table):
            yield _operation(texts, kind, dim, sizes), group
        else:
            for link, names in zip(group, rows, strict=True):
                yield _operation((names, link.new), kind, dim, sizes), [link]


def _sizes(link: Link) -> tuple[int, ...]:
    return link.sizes if link.kind in ("cat", "narrow") and len(set(link.sizes)) > 1 else ()


def _operation(texts: _Texts, kind: str, dim: int, sizes: tuple[int, ...]) -> Operation:
    sources, targets = texts
    if kind == "cat":
        return Fuse(sources, targets[0], dim, sizes if len(sizes) == len(sources) else None)
    if kind == "stack":
        return Stack(sources, targets[0], dim)
    if kind == "select":
        return Unstack(sources[0], targets, dim)
    return Split(sources[0], targets, dim, sizes or None)


def _opened(sources: Sequence[str], targets: Sequence[str]) -> _Texts:
    """Return patterns with placeholders for the numbers that all names begin with."""
    same = shared_numbers((*sources, *targets))
    opened = [with_places(name, same) for name in (*sources, *targets)]
    return tuple(opened[: len(sources)]), tuple(opened[len(sources) :])


def _counting(link: Link, sources: Sequence[str]) -> _Texts | None:
    """Return patterns with a placeholder that counts, if that is what the names of the parts differ in."""
    joining = link.kind in ("cat", "stack")
    if link.kind == "narrow":
        return None
    parts, whole = (sources, link.new[0]) if joining else (link.new, sources[0])
    found = [template_of(name) for name in parts]
    own = template_of(whole)[1]
    if len(parts) < 2 or len({template for template, _ in found}) > 1 or len(found[0][1]) != len(own) + 1:
        return None
    at = next((at for at in range(len(own) + 1) if found[0][1][at] != found[1][1][at]), 0)
    if any((*numbers[:at], *numbers[at + 1 :]) != own for _, numbers in found) or len(own) >= len(PLACES):
        return None
    counts = [numbers[at] for _, numbers in found]
    if counts != sorted(counts, key=int) or (not joining and counts != [str(count) for count in range(len(counts))]):
        return None
    part = with_places(parts[0], len(own) + 1)
    one = with_places(whole, len(own), PLACES[:at] + PLACES[at + 1 :])
    return ((part,), (one,)) if joining else ((one,), (part,))


def _selects(texts: Sequence[str], sources: Sequence[Sequence[str]], table: Mapping[str, object]) -> bool:
    """Tell whether patterns stand for these names and no others."""
    if len(texts) == 1:
        selected = {name for name, _ in pattern(texts[0]).among(table)}
        return selected == {name for names in sources for name in names}
    return all(
        {name for name, _ in pattern(text).among(table)} == set(names)
        for text, names in zip(texts, zip(*sources, strict=True), strict=True)
    )
