"""Operations that reorder parameters, and that add parameters at their places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.name_similarity import Parts, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.select_patterns import placed, shared_numbers, with_places
from anemoi_ckpt_migrate.autogenerate.simulate import leads_to
from anemoi_ckpt_migrate.op import Add, Reorder
from anemoi_ckpt_migrate.state.name_patterns import pattern


def reorders(names: Sequence[str], wanted: Sequence[str], plain: bool = False) -> Sequence[Reorder]:
    """Return operations that bring names into an order.

    Parameters
    ----------
    names : sequence of str
        The current order.
    wanted : sequence of str
        The new order.
    plain : bool
        Whether to list each name that moves, without patterns.
    """
    if list(names) == list(wanted):
        return []
    one_by_one = [Reorder(tuple(new for old, new in zip(names, wanted, strict=True) if old != new))]
    if plain:
        return one_by_one
    selected = _prefixes(names)
    windows = list(_windows(names, wanted, selected))
    ways = (_at_once(windows, wanted, selected), _one_after_the_other(windows, wanted, selected), one_by_one)
    items = [Item(name, (), "") for name in names]
    return next(way for way in ways if leads_to(way, items, [Item(name, (), "") for name in wanted]))


def _at_once(
    windows: Sequence[list[str]], wanted: Sequence[str], selected: Mapping[str, list[str]]
) -> Sequence[Reorder]:
    """Return operations that reorder all blocks alike at once, and one for the rest."""
    alike: defaultdict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for keys in windows:
        alike[_opened(keys) or ()].append(keys)
    single = alike.pop((), [])
    single += [each[0] for each in alike.values() if len(each) == 1]
    found = [Reorder(opened) for opened, each in alike.items() if len(each) > 1]
    return [*found, *_one_after_the_other(single, wanted, selected)]


def _one_after_the_other(
    windows: Sequence[list[str]], wanted: Sequence[str], selected: Mapping[str, list[str]]
) -> Sequence[Reorder]:
    place = {name: at for at, name in enumerate(wanted)}
    listed = [key for keys in windows for key in keys]
    listed.sort(key=lambda key: place[selected[key][0] if key in selected else key])
    return [Reorder(tuple(listed))] if listed else []


def _windows(names: Sequence[str], wanted: Sequence[str], selected: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Yield the shortest list of keys for each stretch that holds the same names in another order."""
    place = {name: at for at, name in enumerate(wanted)}
    ends: list[int] = []  # for each place, the end of its stretch
    last = start = 0
    for at, name in enumerate(names):
        last = max(last, place[name])
        if last == at:
            ends += [at + 1] * (at + 1 - start)
            start = at + 1
    done = 0
    for start, end in enumerate(ends):
        if start < done or end == start + 1:
            continue
        whole = wanted[start:end]
        moving = [new for old, new in zip(names[start:end], whole, strict=True) if old != new]
        ways = [_keys(whole, selected), _keys(moving, selected)]
        first, last = _block(wanted, start, end)
        if first < done or ends[first] != first + 1:
            first = start
        if ends[last - 1] != last:
            last = end
        until = [end, end]
        for begin, stop in ((first, end), (start, last), (first, last)):
            ways.append(_keys(wanted[begin:stop], selected))
            until.append(stop)
        best = min(range(len(ways)), key=lambda way: len(ways[way]))
        done = until[best]
        yield ways[best]


def _block(names: Sequence[str], start: int, end: int) -> tuple[int, int]:
    """Return the bounds of a stretch, extended over the rest of the numbered blocks at its two ends."""
    one, other = _number(names[start]), _number(names[end - 1])
    while start > 0 and one is not None and _number(names[start - 1]) == one:
        start -= 1
    while end < len(names) and other is not None and _number(names[end]) == other:
        end += 1
    return start, end


def _number(name: str) -> Parts | None:
    parts = parts_of(name)
    at = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None else parts[: at + 1]


def _prefixes(names: Sequence[str]) -> dict[str, list[str]]:
    """Return patterns of modules with the names they select."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = parts_of(name)
        for count in range(1, len(parts)):
            found[".".join(parts[:count]) + ".*"].append(name)
    return dict(found)


def _keys(names: Sequence[str], selected: Mapping[str, list[str]]) -> list[str]:
    """Return the keys for an order: a module's pattern replaces its names where these keep their order."""
    found = []
    at = 0
    while at < len(names):
        parts = parts_of(names[at])
        key, step = names[at], 1
        for count in range(1, len(parts)):
            text = ".".join(parts[:count]) + ".*"
            inside = selected.get(text, [])
            if 1 < len(inside) <= len(names) - at and inside == list(names[at : at + len(inside)]):
                key, step = text, len(inside)
                break
        found.append(key)
        at += step
    return found


def _opened(keys: Sequence[str]) -> tuple[str, ...] | None:
    """Return keys with placeholders for the leading numbers that all share; None if they share none."""
    same = shared_numbers(keys)
    return tuple(with_places(key, same) for key in keys) if same else None


class Adding:
    """Makes the operations that add parameters, with one operation for similar ones.

    Parameters
    ----------
    names : sequence of str
        The names of the parameters so far.
    new : sequence of Item
        All parameters of the result, in order. Those in `names` have that order already.
    plain : bool
        Whether to add each parameter on its own.
    """

    def __init__(self, names: Sequence[str], new: Sequence[Item], plain: bool = False) -> None:
        self._there = dict.fromkeys(names)
        self._plain = plain
        self._place = {item.name: at for at, item in enumerate(new)}
        self._last = max((self._place[name] for name in names), default=-1)
        self._left: dict[str, tuple[Item, str | None]] = {}
        self._alike: defaultdict[object, list[str]] = defaultdict(list)
        for before, item in zip([None, *new], new, strict=False):
            if item.name not in self._there:
                after = None if before is None else before.name
                self._left[item.name] = (item, after)
                self._alike[self._kind(item, after)].append(item.name)

    def _kind(self, item: Item, after: str | None) -> tuple[Parts, Parts, tuple[int, ...], str, bool] | None:
        if after is None or self._plain:
            return None
        (one, numbers), (other, also) = template_of(item.name), template_of(after)
        return (one, other, item.shape, item.dtype, item.buffer) if numbers and numbers == also else None

    def run(self) -> list[tuple[Add, list[str]]]:
        """Return operations, with the names that each adds."""
        found = []
        while self._left:
            name, (item, after) = next(iter(self._left.items()))
            together = self._together(item, after)
            if together is not None:
                found.append(together)
            else:
                found.append((self._alone(item, after), [name]))
            for each in found[-1][1]:
                del self._left[each]
                self._there[each] = None
                self._last = max(self._last, self._place[each])
        return found

    def _alone(self, item: Item, after: str | None) -> Add:
        if after is None:
            first = 0 if self._there else None
            return Add(item.name, item.shape, item.dtype, index=first, buffer=item.buffer)
        at_end = self._place[after] == self._last
        return Add(item.name, item.shape, item.dtype, after=None if at_end else after, buffer=item.buffer)

    def _together(self, item: Item, after: str | None) -> tuple[Add, list[str]] | None:
        kind = self._kind(item, after)
        if kind is None:
            return None
        names = [name for name in self._alike.pop(kind, ()) if name in self._left]
        key, anchor = placed(kind[0]), placed(kind[1])
        if len(names) < 2 or key is None or anchor is None:
            return None
        anchors = {self._left[name][1] for name in names}
        if {name for name, _ in pattern(anchor).among(self._there)} != anchors:
            return None
        return Add(key, item.shape, item.dtype, after=anchor, buffer=item.buffer), names
