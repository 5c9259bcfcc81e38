"""Folding of many similar changes into few lines: ``h.{0..11}.attn.*``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.explain import Change

_NUMBER = lazy_regex(r"(?<![^.])\d+(?![^.])")


class Line(NamedTuple):
    """Similar changes, shown in one line.

    Attributes
    ----------
    kind : str
        As in `Change`.
    old, new : str
        The names, folded.
    detail : str
        As in `Change`.
    many : int
        The number of changes.
    confidence : float
        The lowest confidence among them.
    alternatives : tuple of str
        Other possible names for one of them.
    """

    kind: str
    old: str
    new: str
    detail: str
    many: int
    confidence: float
    alternatives: tuple[str, ...]


def folded(changes: Iterable[Change]) -> list[Line]:
    """Fold changes that differ only in block numbers, then those that differ only in the last part of names."""
    groups: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        shapes = tuple(_NUMBER.sub("{}", name) for name in (*change.old, "->", *change.new))
        groups.setdefault((change.kind, change.detail, *shapes), []).append(change)
    lines = [_line(group) for group in groups.values()]
    return _by_module(lines)


def _line(group: Sequence[Change]) -> Line:
    first = group[0]
    old, new = _names([change.old for change in group]), _names([change.new for change in group])
    lowest = min(group, key=lambda change: change.confidence)
    return Line(first.kind, old, new, first.detail, len(group), lowest.confidence, lowest.alternatives)


def _names(several: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(_folded([names[place] for names in several]) for place in range(len(several[0])))


def _folded(names: Sequence[str]) -> str:
    """Write the numbers that differ as ranges."""
    if len(set(names)) == 1:
        return names[0]
    numbers = list(zip(*(_NUMBER.findall(name) for name in names), strict=True))
    ranges = iter(_range([int(each) for each in dict.fromkeys(column)]) for column in numbers)
    return _NUMBER.sub(lambda _: next(ranges), names[0])


def _range(numbers: Sequence[int]) -> str:
    found = sorted(numbers)
    if len(found) == 1:
        return str(found[0])
    if found == list(range(found[0], found[-1] + 1)):
        return f"{{{found[0]}..{found[-1]}}}"
    return f"{{{','.join(map(str, found))}}}"


def _by_module(lines: Sequence[Line]) -> list[Line]:
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        old, new = line.old.rpartition("."), line.new.rpartition(".")
        single = "," not in re.sub(r"\{[^}]*\}", "", line.old + line.new)
        alike = not line.old or not line.new or old[2] == new[2]
        if single and alike and not line.detail and not line.alternatives:
            groups.setdefault((line.kind, old[0], new[0], bool(line.old), bool(line.new)), []).append(line)
        else:
            groups[(id(line),)] = [line]
    return [_together(group) for group in groups.values()]


def _together(group: Sequence[Line]) -> Line:
    first = group[0]
    if len(group) == 1:
        return first
    many = sum(line.many for line in group)
    old, new = (f"{name.rpartition('.')[0]}.*".lstrip(".") if name else "" for name in (first.old, first.new))
    return first._replace(old=old, new=new, many=many, confidence=min(line.confidence for line in group))
