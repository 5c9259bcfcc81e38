"""Patterns that select some names and no others."""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, Parts, parts_of, template_of
from anemoi_ckpt_migrate.state.name_patterns import literal, pattern

PLACES = "ijklmn"
"""The names of placeholders, one for each number in a name."""


def placed(template: Sequence[str]) -> str | None:
    """Return a template as a pattern; None if it has too many numbers."""
    if template.count(NUMBER) > len(PLACES):
        return None
    letters = iter(PLACES)
    return ".".join(f"{{{next(letters)}}}" if part == NUMBER else part for part in template)


def shared_numbers(names: Iterable[str]) -> int:
    """Return the number of leading numbers that all names share."""
    numbers = [template_of(name)[1] for name in names]
    return len(list(takewhile(lambda each: len(set(each)) == 1, zip(*numbers, strict=False))))


def with_places(name: str, count: int, letters: str = PLACES) -> str:
    """Return a name with placeholders in place of its first numbers."""
    template, numbers = template_of(name)
    found = iter([f"{{{letter}}}" for letter in letters[:count]] + list(numbers[min(count, len(letters)) :]))
    return ".".join(next(found) if part == NUMBER else part for part in template)


def selecting(wanted: Collection[str], names: Collection[str], spare: Collection[str] = ()) -> list[str]:
    """Return a small number of patterns that select some names.

    Parameters
    ----------
    wanted : collection of str
        The names to select.
    names : collection of str
        All names.
    spare : collection of str
        Names that the patterns may select as well.
    """
    if len(wanted) > 1 and len(wanted) + len(spare) >= len(names):
        return ["*"]
    table = dict.fromkeys(names)
    left, found = dict.fromkeys(wanted), []
    allowed = {*wanted, *spare}
    for text in _by_size(_candidates(wanted, names, allowed)):
        if not left:
            break
        selects = [name for name, _ in pattern(text).among(table)] if pattern(text).open else [text]
        covered = [name for name in selects if name in left]
        if covered and allowed.issuperset(selects):
            found.append((text, len(covered)))
            for name in covered:
                del left[name]
    order = {name: place for place, name in enumerate(names)}
    texts = [text for text, _ in found] + [literal(name) for name in left]
    firsts = {text: min((order[name] for name, _ in pattern(text).among(table)), default=0) for text in texts}
    return sorted(texts, key=firsts.__getitem__)


def _candidates(
    wanted: Collection[str], names: Collection[str], allowed: Collection[str]
) -> Mapping[str, tuple[int, set[str]]]:
    """Return patterns that select wanted names and probably no others, with their rank and the names."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    ranks: dict[str, int] = {}
    for name in wanted:
        for text, rank in _patterns(name):
            found[text].add(name)
            ranks[text] = min(rank, ranks.get(text, rank))
    for text in _patterns_of_any(name for name in names if name not in allowed):
        found.pop(text, None)
    return {text: (ranks[text], selected) for text, selected in found.items()}


def _patterns(name: str) -> Iterator[tuple[str, int]]:
    """Yield patterns that select a name, each with its rank: 0 for the name itself, more for wider patterns."""
    yield name, 0
    parts = parts_of(name)
    template, numbers = template_of(name)
    for count in range(1, len(parts)):
        yield ".".join(parts[:count]) + ".*", 1
        yield "*." + ".".join(parts[count:]), 4
    for part in parts[1:-1]:
        yield f"*.{part}.*", 5
    if numbers:
        for count in range(1, len(template)):
            text = placed(template[:count])
            if text is not None:
                yield text + ".*", 3
        text = placed(template)
        if text is not None:
            yield text, 2


def _patterns_of_any(names: Iterable[str]) -> Iterator[str]:
    """Yield the patterns that `_patterns` makes for any of the names; those that many names share once."""
    templates: set[Parts] = set()
    starts: set[str] = set()
    ends: set[str] = set()
    inner: set[str] = set()
    for name in names:
        yield name
        at = name.rfind(".")
        while at >= 0 and (start := name[: at + 1]) not in starts:
            starts.add(start)
            yield f"{start}*"
            at = name.rfind(".", 0, at)
        at = name.find(".")
        while at >= 0 and (end := name[at:]) not in ends:
            ends.add(end)
            yield f"*{end}"
            at = name.find(".", at + 1)
        new = [part for part in parts_of(name)[1:-1] if part not in inner]
        inner.update(new)
        yield from (f"*.{part}.*" for part in new)
        template, numbers = template_of(name)
        if numbers and template not in templates:
            templates.add(template)
            if (text := placed(template)) is not None:
                yield text
            texts = (placed(template[:count]) for count in range(1, len(template)))
            yield from (f"{text}.*" for text in texts if text is not None)


def _by_size(candidates: Mapping[str, tuple[int, set[str]]]) -> Iterator[str]:
    """Yield patterns in greedy order: each time the one with the most names that no earlier one selects.

    Simple patterns win ties. The usual names of adapters come before all others.
    """
    heap = [(-len(names), rank, len(text), text) for text, (rank, names) in candidates.items()]
    heapq.heapify(heap)
    yield from (text for text in candidates if re.fullmatch(r"\*\.lora_\w+\.\*", text))  # the usual names of adapters
    done: set[str] = set()
    while heap:
        size, rank, length, text = heapq.heappop(heap)
        left = len(candidates[text][1] - done)
        if not left:
            continue
        if left < -size:
            heapq.heappush(heap, (-left, rank, length, text))
            continue
        yield text
        done |= candidates[text][1]
