"""Names of parameters: their parts, placeholders for numbers, and the similarity of two names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

Parts = tuple[str, ...]
_DIGITS = re.compile(r"\d+")
NUMBER = "{}"
"""The placeholder for a number in a template."""


class Edit(NamedTuple):
    """One difference: the range of old parts that is replaced, and the range of new parts that replaces it."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def parts_of(name: str) -> Parts:
    """Return the parts of a name, which dots separate."""
    return tuple(name.split("."))


@lru_cache(maxsize=1 << 18)  # of the names of both sides, each of which is asked for many times
def template_of(name: str) -> tuple[Parts, Parts]:
    """Return the parts of a name with placeholders for numbers, and the numbers."""
    parts = parts_of(name)
    numbers = tuple(part for part in parts if part.isdigit())
    return (tuple(NUMBER if part.isdigit() else part for part in parts), numbers) if numbers else (parts, ())


def filled(template: Sequence[str], numbers: Sequence[str]) -> str:
    """Return the name that a template and numbers make."""
    left = iter(numbers)
    return ".".join(next(left) if part == NUMBER else part for part in template)


def in_numbers(numbers: Sequence[str]) -> tuple[int, ...]:
    """Return the sort key of numbers in names."""
    return tuple(map(int, numbers))


def common_start(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal parts at the beginning."""
    count = 0
    for part, also in zip(one, other, strict=False):
        if part != also:
            break
        count += 1
    return count


def common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal parts at the end."""
    return common_start(one[::-1], other[::-1])


@lru_cache(maxsize=1 << 16)
def part_likeness(one: str, other: str) -> float:
    """Return the similarity of two parts: 1 if they are equal, 0 if they have nothing in common."""
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
    """Return the letters of a part and all pairs of neighbours; ``^`` and ``$`` mark its beginning and end."""
    whole = f"^{part}$"
    return frozenset(part) | {whole[at : at + 2] for at in range(len(whole) - 1)}


def _abbreviates(short: str, long: str) -> bool:
    """Return whether a part abbreviates another: attn and attention, q and query."""
    if not short or short[0] != long[0]:
        return False
    rest = iter(long)
    return all(letter in rest for letter in short if letter != "_")


def likeness(one: Parts, other: Parts) -> float:
    """Return the similarity of two names: the share of parts that have a counterpart, in order.

    Surplus parts in one name, such as those of a wrapper, count less than parts that differ in both.
    """
    if one == other:
        return 1.0
    if not one or not other:
        return 0.0
    numbers: dict[str, str] = {}  # it only counts which of them are equal
    return _likeness(
        tuple([numbers.setdefault(part, str(len(numbers))) if part.isdigit() else part for part in one]),
        tuple([numbers.setdefault(part, str(len(numbers))) if part.isdigit() else part for part in other]),
    )


@lru_cache(maxsize=1 << 16)
def _likeness(one: Parts, other: Parts) -> float:
    row = [0.0] * (len(other) + 1)
    for part in one:
        left = row
        row = [0.0]
        for place, also in enumerate(other):
            row.append(max(left[place + 1], row[place], left[place] + part_likeness(part, also)))
    return 1.2 * row[-1] / (len(one) + len(other)) + 0.4 * row[-1] / min(len(one), len(other))


def edits(one: Parts, other: Parts) -> tuple[Edit, ...]:
    """Return the edits that turn one name into another, as few as possible."""
    start = common_start(one, other)
    end = common_end(one[start:], other[start:])
    middle = _edits(one[start : len(one) - end], other[start : len(other) - end])
    return tuple(Edit(*(place + start for place in edit)) for edit in middle) if start else middle


def distance(one: Parts, other: Parts) -> int:
    """Return the number of edits between two names."""
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
    """Return the cost of replacing a part: least between similar parts, prohibitive between a word and a number."""
    if part == other:
        return 0.0
    if part.isdigit() is not other.isdigit():
        return 2.5
    return 1.0 + round(0.01 * (1 - part_likeness(part, other)), 4)
