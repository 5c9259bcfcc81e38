"""Match parameters that grew or shrank: rows for words that came or went, columns for inputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from anemoi_ckpt_migrate.autogenerate.match_state import Board
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Link, Step

_SURE, _DOUBTFUL = 0.9, 0.6


def link_resized(board: Board, smaller: bool) -> None:
    """Match parameters with larger ones of the same name, or of the name expected after their module moved.

    Parameters
    ----------
    board : Board
        The links so far.
    smaller : bool
        Whether to match smaller ones too: a part of a tensor is smaller as well, so other matches come first.
    """
    for old in list(board.old.values()):
        expected = (old.name, board.modules.expected(old.name, True), board.modules.expected(old.name))
        new = next((board.new[name] for name in expected if name is not None and name in board.new), None)
        if new is None or not _is_resized(old, new, smaller):
            continue
        ends = next((ends for ends in _ends(old, new) if _is_there(board, old, new, ends)), None)
        cast: tuple[Step, ...] = (("cast", new.dtype),) if new.dtype != old.dtype else ()
        steps = _steps(old, new, ends or (True,) * len(old.shape)) + cast
        sure, note = (1.0, "") if ends is not None else _doubt(board, old, new)
        board.link(Link((old.name,), (new.name,), steps=steps, confidence=sure, note=note))


def _doubt(board: Board, old: Item, new: Item) -> tuple[float, str]:
    """Return the confidence that both tensors begin with the values they share, and the reason for the doubt."""
    grew, shrank = _sizes(old, new)
    verb = "grew and shrank" if grew and shrank else "grew" if grew else "shrank"
    told = f"it {verb} from {list(old.shape)} to {list(new.shape)}"
    if any(size == 1 < larger for size, larger in zip(old.shape, new.shape, strict=True)):
        return _DOUBTFUL, f"{told}; its values may also be repeated"
    if board.strict:
        return _DOUBTFUL, f"{told}; its values are not in it, so their place at the start is a guess"
    return _SURE, f"{told}; the place of its values at the start is a guess"


def _sizes(old: Item, new: Item) -> tuple[bool, bool]:
    """Return whether a dimension grew, and whether one shrank."""
    pairs = list(zip(old.shape, new.shape, strict=True))
    return any(before < after for before, after in pairs), any(before > after for before, after in pairs)


def _is_resized(old: Item, new: Item, smaller: bool) -> bool:
    if len(old.shape) != len(new.shape) or not old.size or not new.size or old.shape == new.shape:
        return False
    return smaller or not _sizes(old, new)[1]


def _ends(old: Item, new: Item) -> Iterator[tuple[bool, ...]]:
    """Yield for each dimension whether values come or go at the end (the usual case), or at the start."""
    yield from product(
        *((True, False) if one != other else (True,) for one, other in zip(old.shape, new.shape, strict=True))
    )


def _is_there(board: Board, old: Item, new: Item, ends: tuple[bool, ...]) -> bool:
    """Return whether the larger tensor holds the smaller one, bit for bit, at one end of each dimension."""
    grew, shrank = _sizes(old, new)
    if board.contents is None or new.digest is None or old.dtype != new.dtype or (grew and shrank):
        return False
    sizes = zip(ends, old.shape, new.shape, strict=True)
    starts = [0 if end else abs(after - before) for end, before, after in sizes]
    if grew:
        return board.contents.holds(new.name, starts, old.name)
    return board.contents.is_part(new.name, starts, old.name)


def _steps(old: Item, new: Item, ends: tuple[bool, ...]) -> tuple[Step, ...]:
    found = []
    for dim, (before, after, end) in enumerate(zip(old.shape, new.shape, ends, strict=True)):
        if before != after:
            kind = "pad" if before < after else "crop"
            found.append((kind, (dim, abs(after - before), None if end else 0)))
    return tuple(found)
