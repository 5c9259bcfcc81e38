"""Ways to match groups of shapes to a sequence of shapes, each group in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST_STATES = 400_000

Shape = tuple[int, ...]
Assignment = list[list[int]]
"""For each group, the place in the sequence of each of its members."""


def assignments(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[Assignment]:
    """Find ways to match; at most two, for two are as good as many.

    Parameters
    ----------
    shapes : sequence of shape
        The sequence.
    groups : sequence of sequences of shape or None
        Each is a subsequence of it, no place is taken twice, and some may be taken by none. None fits anything.

    Returns
    -------
    list of Assignment
        None, one, or two that differ; two empty ones if there are too many to look through.
    """
    total = sum(map(len, groups))
    if total > len(shapes):
        return []
    start = (0,) * len(groups)
    end = tuple(map(len, groups))
    layers = _layers(shapes, groups, start, total)
    if layers is None:
        return [[], []]
    alive: list[set[tuple[int, ...]]] = [set() for _ in layers]
    if end not in layers[-1]:
        return []
    alive[-1] = {end}
    for place in range(len(shapes) - 1, -1, -1):
        alive[place] = {
            state
            for state in layers[place]
            if any(after in alive[place + 1] for after, _ in _moves(state, shapes[place], groups))
        }
    return _paths(shapes, groups, alive)


def _layers(shapes: Sequence[Shape], groups: Any, start: tuple[int, ...], total: int) -> Any:
    layers: list[set[tuple[int, ...]]] = [{start}]
    count = 1
    for place, shape in enumerate(shapes):
        left = len(shapes) - place - 1
        layer = {
            after for state in layers[-1] for after, _ in _moves(state, shape, groups) if total - sum(after) <= left
        }
        layers.append(layer)
        count += len(layer)
        if count > _MOST_STATES:
            return None
    return layers


def _moves(state: tuple[int, ...], shape: Shape, groups: Any) -> list[tuple[tuple[int, ...], int | None]]:
    found: list[tuple[tuple[int, ...], int | None]] = [(state, None)]
    for index, group in enumerate(groups):
        done = state[index]
        if done < len(group) and group[done] in (None, shape):
            found.append(((*state[:index], done + 1, *state[index + 1 :]), index))
    return found


def _paths(shapes: Sequence[Shape], groups: Any, alive: list[set[tuple[int, ...]]]) -> list[Assignment]:
    """Walk through what leads to the end; where two ways part, take each once."""
    found: list[Assignment] = []
    for choose_last in (False, True):
        state = (0,) * len(groups)
        own: Assignment = [[] for _ in groups]
        for place, shape in enumerate(shapes):
            moves = [move for move in _moves(state, shape, groups) if move[0] in alive[place + 1]]
            state, group = moves[-1 if choose_last else 0]
            if group is not None:
                own[group].append(place)
        if own not in found:
            found.append(own)
    return found
