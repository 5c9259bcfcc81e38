"""Match parameters that grew: rows for new words, columns for new inputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from anemoi_ckpt_migrate.autogenerate.match_state import Board
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Link, Step

_SURE, _DOUBTFUL = 0.9, 0.6


def link_grown(board: Board) -> None:
    """Match parameters with larger ones of the same name, or of the name expected after their module moved."""
    for old in list(board.old.values()):
        expected = (old.name, board.modules.expected(old.name, True), board.modules.expected(old.name))
        new = next((board.new[name] for name in expected if name is not None and name in board.new), None)
        if new is None or not _is_grown(old, new):
            continue
        ends = next((ends for ends in _ends(old, new) if _is_there(board, old, new, ends)), None)
        cast: tuple[Step, ...] = (("cast", new.dtype),) if new.dtype != old.dtype else ()
        steps = _pads(old, new, ends or (True,) * len(old.shape)) + cast
        sure, note = (1.0, "") if ends is not None else _doubt(board, old, new)
        board.link(Link((old.name,), (new.name,), steps=steps, confidence=sure, note=note))


def _doubt(board: Board, old: Item, new: Item) -> tuple[float, str]:
    """Return the confidence that the new tensor begins with the old values, and the reason for the doubt."""
    told = f"it grew from {list(old.shape)} to {list(new.shape)}"
    if any(size == 1 < larger for size, larger in zip(old.shape, new.shape, strict=True)):
        return _DOUBTFUL, f"{told}; its values may also be repeated"
    if board.strict:
        return _DOUBTFUL, f"{told}; its values are not in it, so their place at the start is a guess"
    return _SURE, f"{told}; the place of its values at the start is a guess"


def _is_grown(old: Item, new: Item) -> bool:
    if len(old.shape) != len(new.shape) or not old.size or old.shape == new.shape:
        return False
    return all(size <= larger for size, larger in zip(old.shape, new.shape, strict=True))


def _ends(old: Item, new: Item) -> Iterator[tuple[bool, ...]]:
    """Yield for each dimension whether the new values come last (the usual case) or first."""
    grown = [size < larger for size, larger in zip(old.shape, new.shape, strict=True)]
    yield from product(*((True, False) if each else (True,) for each in grown))


def _is_there(board: Board, old: Item, new: Item, ends: tuple[bool, ...]) -> bool:
    """Return whether the new tensor holds the old values, bit for bit, at one end of each dimension."""
    if board.contents is None or new.digest is None or old.dtype != new.dtype:
        return False
    starts = [0 if end else larger - size for end, size, larger in zip(ends, old.shape, new.shape, strict=True)]
    return board.contents.holds(new.name, starts, old.name)


def _pads(old: Item, new: Item, ends: tuple[bool, ...]) -> tuple[Step, ...]:
    found = []
    for dim, (size, larger, end) in enumerate(zip(old.shape, new.shape, ends, strict=True)):
        if size < larger:
            found.append(("pad", (dim, larger - size, None if end else 0)))
    return tuple(found)
