"""An ordered table of names and values, on which operations on parameters work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

Places = Sequence[tuple[str, str | None]]
"""Positions of names: each with its predecessor, None at the beginning. In order."""

_GAP = 1 << 20


class _Entry:
    __slots__ = ("after", "before", "name", "rank", "value")

    def __init__(self, name: str | None, value: Any, rank: int) -> None:
        self.name, self.value, self.rank = name, value, rank
        self.before: _Entry | None = None
        self.after: _Entry | None = None


_RANK = attrgetter("rank")


class Table(Mapping[str, Any]):
    """An ordered mapping from names to values, with cheap renaming and replacing.

    Parameters
    ----------
    items : iterable of (str or None, object)
        The names and values, in order. An item without a name keeps its place, and only `everything` shows it.
    """

    def __init__(self, items: Iterable[tuple[str | None, Any]] = ()) -> None:
        self._fill(items)
        self.changed = False
        self._origins: dict[str, Sequence[str]] = {}
        self._gone: list[str] = []

    def moves(self) -> list[tuple[str, str | None]]:
        """Return pairs of old and new names since the last call; the new name is None for removed names."""
        found: list[tuple[str, str | None]] = []
        for name, origins in self._origins.items():
            found += [(origin, name) for origin in origins if origin != name]
        found += [(name, None) for name in self._gone]
        self._origins, self._gone = {}, []
        return found

    def __getitem__(self, name: str) -> Any:
        return self._entries[name].value

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        entry = self._first.after
        while entry is not None:
            if entry.name is not None:
                yield entry.name
            entry = entry.after

    def everything(self) -> Iterator[tuple[str | None, Any]]:
        """Yield all names and values, including items without a name, in order."""
        entry = self._first.after
        while entry is not None:
            yield entry.name, entry.value
            entry = entry.after

    def set(self, name: str, value: Any) -> None:
        """Change the value of a name."""
        self._entries[name].value = value
        self.changed = True

    def before(self, name: str) -> str | None:
        """Return the predecessor of a name; None for the first."""
        entry = self._entries[name].before
        while entry is not None and entry is not self._first and entry.name is None:
            entry = entry.before
        return None if entry is None or entry is self._first else entry.name

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return names in the order of the table."""
        return sorted(names, key=lambda name: self._entries[name].rank)

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename several names at once; the new names have to differ from each other and from the remaining ones."""
        origins = [self._origins.pop(old, (old,)) for old in names]
        entries = [self._entries.pop(old) for old in names]
        self._origins.update(zip(names.values(), origins, strict=True))
        for new, entry in zip(names.values(), entries, strict=True):
            entry.name = new
            self._entries[new] = entry
        self.changed = self.changed or bool(entries)

    def places(self, names: Sequence[str]) -> Places | None:
        """Return the positions of names for `replace`; None if they are adjacent and in this order."""
        ordered = self.in_order(names)
        found = [(name, self.before(name)) for name in ordered]
        side_by_side = all(before == previous for previous, (_, before) in zip(ordered, found[1:], strict=False))
        return None if ordered == list(names) and side_by_side else found

    def replace(self, old: Sequence[str], new: Mapping[str, Any], places: Places | None = None) -> None:
        """Replace old names by new ones, in a row at the place of the first old name, or at the given positions."""
        at = min((self._entries[name] for name in old), key=_RANK).before or self._first
        origins = [origin for name in old for origin in self._origins.pop(name, (name,))]
        for name in old:
            self._unlink(self._entries.pop(name))
        self.insert(new, places, at)
        self._origins.update((name, list(origins)) for name in new)

    def insert(self, new: Mapping[str, Any], places: Places | None = None, at: _Entry | None = None) -> None:
        """Insert names at their positions, or in a row after `at`; at the end if neither is given."""
        if at is None:
            at = self._last
        known = dict(places or ())
        self._origins.update((name, []) for name in new)
        for name in [name for name, _ in places] if places else new:
            before = known.get(name, "")
            if name in known:
                at = self._begin() if before is None else self._entries.get(before, at)
            at = self._link(_Entry(name, new[name], 0), at)
        self.changed = True

    def _begin(self) -> _Entry:
        """Return the entry before the first name. It may have no name, such as the counter of an average."""
        at = self._first
        while at.after is not None and at.after.name is None:
            at = at.after
        return at

    def insert_at(
        self, name: str, value: Any, index: int | None, after: str | None = None, first: bool = False
    ) -> None:
        """Insert a name at an index, after another name, first, or at the end."""
        if after is not None or first:
            self.insert({name: value}, [(name, after)])
        elif index is None or index >= len(self):
            self.insert({name: value})
        else:
            ordered = list(self)
            self.insert({name: value}, [(name, ordered[index - 1] if index > 0 else None)])

    def remove(self, name: str) -> Any:
        """Remove a name, and return its value."""
        entry = self._entries.pop(name)
        self._unlink(entry)
        self._gone += self._origins.pop(name, [name])
        self.changed = True
        return entry.value

    def reorder(self, names: Sequence[str]) -> None:
        """Put these names into this order, within the places that they occupy together."""
        slots = sorted((self._entries[name] for name in names), key=_RANK)
        values = [(name, self._entries[name].value) for name in names]
        for slot, (name, value) in zip(slots, values, strict=True):
            slot.name, slot.value = name, value
            self._entries[name] = slot
        self.changed = True

    def arrange(self, names: Sequence[str]) -> None:
        """Put these names into this order, as `reorder` does, where the order means nothing: no change is noted."""
        changed = self.changed
        self.reorder(names)
        self.changed = changed

    def refill(self, items: Iterable[tuple[str | None, Any]]) -> None:
        """Replace everything that it holds."""
        self._fill(items)
        self.changed = True

    def release(self) -> None:
        """Let go of everything, once nobody needs it: entries refer to each other, so they would stay for long."""
        entry: _Entry | None = self._first
        while entry is not None:
            entry.before, entry = None, entry.after
        self._fill(())

    def _fill(self, items: Iterable[tuple[str | None, Any]]) -> None:
        self._entries: dict[str, _Entry] = {}
        self._first = self._last = at = _Entry(None, None, 0)  # a sentinel before all others; the last with a name
        rank = 0
        for name, value in items:
            rank += _GAP
            entry = _Entry(name, value, rank)
            entry.before, at.after = at, entry
            at = entry
            if name is not None:
                self._entries[name] = self._last = entry

    def _link(self, entry: _Entry, at: _Entry) -> _Entry:
        after = at.after
        entry.before, entry.after, at.after = at, after, entry
        if after is not None:
            after.before = entry
        if entry.rank == 0:
            entry.rank = at.rank + _GAP if after is None else (at.rank + after.rank) // 2
            if after is not None and entry.rank in (at.rank, after.rank):
                self._number()
        if entry.name is not None:
            self._entries[entry.name] = entry
            self._last = entry if entry.rank > self._last.rank else self._last
        return entry

    def _unlink(self, entry: _Entry) -> None:
        before, after = entry.before, entry.after
        if before is not None:
            before.after = after
        if after is not None:
            after.before = before
        if entry is self._last:
            self._last = before or self._first
            while self._last.name is None and self._last.before is not None:
                self._last = self._last.before

    def _number(self) -> None:
        rank, entry = 0, self._first.after
        while entry is not None:
            rank += _GAP
            entry.rank, entry = rank, entry.after
