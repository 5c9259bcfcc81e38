"""Names of parameters: their parts, what stands for a number in them, and how alike two are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

Parts = tuple[str, ...]
_DIGITS = re.compile(r"\d+")
NUMBER = "{}"
"""What stands in a template where names have a number."""


class Edit(NamedTuple):
    """One part that differs: which of the old ones goes, and which of the new ones comes instead."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def parts_of(name: str) -> Parts:
    """Return what stands between the dots."""
    return tuple(name.split("."))


@lru_cache(maxsize=1 << 16)
def template_of(name: str) -> tuple[Parts, Parts]:
    """Return the parts with numbers taken out, and the numbers."""
    parts = parts_of(name)
    numbers = tuple(part for part in parts if part.isdigit())
    return (tuple(NUMBER if part.isdigit() else part for part in parts), numbers) if numbers else (parts, ())


def filled(template: Sequence[str], numbers: Sequence[str]) -> str:
    """Return the name that a template stands for."""
    left = iter(numbers)
    return ".".join(next(left) if part == NUMBER else part for part in template)


def in_numbers(numbers: Sequence[str]) -> tuple[int, ...]:
    """Return what numbers are sorted by."""
    return tuple(map(int, numbers))


def common_start(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts are the same from the beginning."""
    count = 0
    for part, also in zip(one, other, strict=False):
        if part != also:
            break
        count += 1
    return count


def common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts are the same up to the end."""
    return common_start(one[::-1], other[::-1])


@lru_cache(maxsize=1 << 16)
def part_likeness(one: str, other: str) -> float:
    """Return how alike two parts are: 1 for the same, 0 for nothing in common."""
    if one == other:
        return 1.0
    if one.isdigit() or other.isdigit() or NUMBER in (one, other):
        return 0.4 if one.isdigit() and other.isdigit() else 0.0
    short, long = sorted((one.lower(), other.lower()), key=len)
    numbers, others = _DIGITS.findall(one), _DIGITS.findall(other)
    if _abbreviates(short, long) and not numbers + others:
        return 0.75
    letters, more = _letters(short), _letters(long)
    alike = 1.6 * len(letters & more) / (len(letters) + len(more))
    if numbers and others:
        return min(alike + 0.2, 0.9) if numbers == others else alike / 2
    return alike


@lru_cache(maxsize=1 << 16)
def _letters(part: str) -> frozenset[str]:
    """Return letters, pairs of them, and with what it begins and ends."""
    whole = f"^{part}$"
    return frozenset(part) | {whole[at : at + 2] for at in range(len(whole) - 1)}


def _abbreviates(short: str, long: str) -> bool:
    """Tell whether a part is made of letters of another, from the first on: attn and attention, q and query."""
    if not short or short[0] != long[0]:
        return False
    rest = iter(long)
    return all(letter in rest for letter in short if letter != "_")


@lru_cache(maxsize=1 << 18)
def likeness(one: Parts, other: Parts) -> float:
    """Return how alike two names are: the share of parts that have a counterpart, in order.

    That some parts are too many, as those of a wrapper, counts less than that some have no counterpart.
    """
    if one == other:
        return 1.0
    if not one or not other:
        return 0.0
    row = [0.0] * (len(other) + 1)
    for part in one:
        left = row
        row = [0.0]
        for place, also in enumerate(other):
            row.append(max(left[place + 1], row[place], left[place] + part_likeness(part, also)))
    return 1.2 * row[-1] / (len(one) + len(other)) + 0.4 * row[-1] / min(len(one), len(other))


def edits(one: Parts, other: Parts) -> tuple[Edit, ...]:
    """Return the fewest parts that differ."""
    start = common_start(one, other)
    end = common_end(one[start:], other[start:])
    middle = _edits(one[start : len(one) - end], other[start : len(other) - end])
    return tuple(Edit(*(place + start for place in edit)) for edit in middle) if start else middle


def distance(one: Parts, other: Parts) -> int:
    """Return how many parts differ."""
    return 0 if one == other else len(edits(one, other))


@lru_cache(maxsize=1 << 16)
def _edits(one: Parts, other: Parts) -> tuple[Edit, ...]:
    if not one:
        return tuple(Edit(0, 0, place, place + 1) for place in range(len(other)))
    if not other:
        return tuple(Edit(place, place + 1, 0, 0) for place in range(len(one)))
    costs = _costs(one, other)
    found = []
    i, j = len(one), len(other)
    while i or j:
        cost = costs[i][j]
        if i and j and cost == costs[i - 1][j - 1] + _exchange(one[i - 1], other[j - 1]):
            if one[i - 1] != other[j - 1]:
                found.append(Edit(i - 1, i, j - 1, j))
            i, j = i - 1, j - 1
        elif i and cost == costs[i - 1][j] + 1:
            found.append(Edit(i - 1, i, j, j))
            i -= 1
        else:
            found.append(Edit(i, i, j - 1, j))
            j -= 1
    return tuple(reversed(found))


def _costs(one: Parts, other: Parts) -> list[list[float]]:
    costs: list[list[float]] = [[float(place) for place in range(len(other) + 1)]]
    for part in one:
        above = costs[-1]
        row = [above[0] + 1]
        for place, also in enumerate(other):
            row.append(min(above[place + 1] + 1, row[-1] + 1, above[place] + _exchange(part, also)))
        costs.append(row)
    return costs


@lru_cache(maxsize=1 << 16)
def _exchange(part: str, other: str) -> float:
    """Return what it costs to put a part in the place of another: like ones least, a word for a number never."""
    if part == other:
        return 0.0
    if part.isdigit() is not other.isdigit():
        return 2.5
    return 1.0 + round(0.01 * (1 - part_likeness(part, other)), 4)
