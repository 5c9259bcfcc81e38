"""Find as few rename operations as possible that, applied in order, give names their targets."""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, distance, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.rename_rules import (
    Rule,
    keys_of,
    numbers_in,
    rounded,
    rules,
    shared_keys_of,
    without_words,
)
from anemoi_ckpt_migrate.op import Rename, RenamePrefix
from anemoi_ckpt_migrate.operations.base import Operation

_MOST_WIDE = 400
_WIDE_SCAN = 2000
_MOST_TRIED, _TRIED_BY_NAME = 200_000, 4
"""So many times a rule is tried on a name, in all and for each name; names with a pattern need far fewer."""
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")


class Renamed(NamedTuple):
    """One rename operation.

    Attributes
    ----------
    operation : Operation
        The operation to apply.
    finished : list of str
        The parameters that have their target name afterwards, by their original names.
    """

    operation: Operation
    finished: list[str]


class _Effect(NamedTuple):
    gain: int
    finished: int
    blocked: str | None


_Class = tuple[str, str | None]
"""The key of names that every rule without numbers treats alike: name and target without their numbers."""


class _Places(NamedTuple):
    """The class of a name, the index entries that it shares with the whole class, and its own."""

    own: _Class
    shared: frozenset[tuple[str, str]]
    keys: Set[tuple[str, str]]


class Renaming:
    """A search for renames that give names their targets.

    Parameters
    ----------
    targets : mapping of str to str or None
        The target of each name; None if any name will do.
    greedy : bool
        Prefer the rule that brings names nearest to their targets; otherwise the one that finishes the most names.
    alike : mapping of str to list of str, optional
        Names in blocks that are all alike, by the same name in the one block that stands for them. Rules without
        numbers treat them as that name, so they get no entries in the index until a rule does otherwise.
    """

    def __init__(
        self,
        targets: Mapping[str, str | None],
        greedy: bool = True,
        alike: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._targets = dict(targets)  # by current names
        self._origins = {name: name for name in targets}
        self._places: dict[str, _Places] = {}
        self._members: dict[_Class, dict[str, None]] = {}
        self._index: defaultdict[tuple[str, str], dict[_Class, dict[str, None]]] = defaultdict(dict)
        self._alike = dict(alike or {})
        self._unfiled = {name for names in self._alike.values() for name in names}
        self._left: set[str] = set()
        for name in targets:
            self._enter(name)
        self._greedy = greedy
        self._aside: set[str] = set()
        self._seen: set[Rule] = set()
        self._heap: list[tuple[tuple[object, ...], Rule]] = []
        self._waiting: defaultdict[str, list[Rule]] = defaultdict(list)
        self._budget = _MOST_TRIED + _TRIED_BY_NAME * len(targets)
        self.done: list[Renamed] = []

    @property
    def current(self) -> dict[str, str]:
        """The current names by the original ones."""
        return {origin: name for name, origin in self._origins.items()}

    def run(self) -> list[Renamed]:
        """Find operations until all names have their targets, and return them."""
        while self._left:
            progress = self._exhaust(literal=False) or self._exhaust(literal=True)
            if self._budget < 0:
                self._directly()
            elif not progress and self._left:
                self._break_cycle()
        return self.done

    def _enter(self, name: str) -> None:
        if name not in self._unfiled:
            self._file(name)
            if self._targets[name] not in (None, name):
                self._left.add(name)

    def _part(self) -> None:
        """Put all names into the index: from now on each stands for itself."""
        if self._alike:
            for filed in (self._alike, self._unfiled, self._places, self._members, self._index):
                filed.clear()
            for name in self._targets:  # all of them, since the order of a class is that of all names
                self._enter(name)

    def _with_alike(self, names: Iterable[str]) -> Iterator[str]:
        """Yield names, each with those for which it stands."""
        for name in names:
            yield name
            yield from self._alike.get(name, ())

    def _count(self, names: Collection[str]) -> int:
        return len(names) + sum(len(self._alike[name]) for name in names if name in self._alike)

    def _exhaust(self, literal: bool) -> bool:
        """Apply rules as long as one brings names nearer to their targets; return whether any did."""
        before = len(self.done)
        if literal:
            self._part()
        self._seen.clear()
        self._heap.clear()
        self._waiting.clear()
        self._propose(self._left, literal)
        while self._heap and self._left and self._budget >= 0:
            stored, rule = heapq.heappop(self._heap)
            effect = self._effect(rule)
            if effect is None:
                continue
            if effect.blocked is not None:
                self._waiting[effect.blocked].append(rule)
                continue
            if self._key(rule, effect) > stored:
                heapq.heappush(self._heap, (self._key(rule, effect), rule))
                continue
            names = self._names(rule)
            if names:
                self._apply(rule, names)
                self._propose([name for name in names.values() if name in self._left], literal)
        return len(self.done) > before

    def _propose(self, names: Iterable[str], literal: bool) -> None:
        classes: dict[_Class, tuple[str, str]] = {}
        for name in sorted(names):
            target = self._targets[name] or name
            classes.setdefault((name, target) if literal else self._class(name), (name, target))
        wide = len(classes) <= _MOST_WIDE
        for name, target in classes.values():
            if self._budget < 0:
                return
            for rule in rules(name, target, literal, wide):
                if rule not in self._seen:
                    self._seen.add(rule)
                    self._push(rule)

    def _push(self, rule: Rule) -> None:
        effect = self._effect(rule)
        if effect is None:
            return
        if effect.blocked is not None:
            self._waiting[effect.blocked].append(rule)
        else:
            heapq.heappush(self._heap, (self._key(rule, effect), rule))

    def _key(self, rule: Rule, effect: _Effect) -> tuple[object, ...]:
        if self._greedy:
            return (-effect.gain, -effect.finished, *rule.order, rule.kind)
        return (-effect.finished, -effect.gain, *rule.order, rule.kind)

    def _effect(self, rule: Rule) -> _Effect | None:
        """Return the effect of a rule on the names in its index entry.

        None if it brings no name nearer to its target, or fails to do so for a name that it renames.
        """
        renamed = rule.renaming()
        gain = finished = 0
        blocked = None
        for names, count in self._samples(rule):
            self._budget -= 1
            for place, name in enumerate(names):
                new = renamed(name)
                if new is None or new == name:
                    break
                target = self._targets[name]
                if target is not None and place == 0:
                    nearer = _far(name, target) - _far(new, target)
                    if nearer <= 0:
                        return None
                    gain += nearer * count
                    finished += (new == target) * count
                if blocked is not None or not self._index.get(("name", rounded(new))):
                    break  # no name differs from the new ones by numbers only, so none is taken
                if new in self._targets and renamed(new) in (None, new):
                    blocked = new
        return _Effect(gain, finished, blocked) if gain else None

    def _samples(self, rule: Rule) -> Iterator[tuple[Iterable[str], int]]:
        """Yield names that a rule may rename, together if the rule does the same to all of them, and their count.

        Of the names of a class, a rule without numbers gets one. A rule with numbers in words gets all, since the
        new name of each may be taken; unless the numbers in the words of their names differ.
        """
        in_words, text = rule.generic_but_in_words, rule.text
        for own, names in self._index[rule.where, rule.key].items():
            if rule.generic:
                yield (next(iter(names)),), self._count(names)
            elif in_words and (NUMBER in own[0] or without_words(own[0]) == own[0]):
                yield self._with_alike(names), self._count(names)
            else:
                for name in self._with_alike(names):
                    if text in name:
                        yield (name,), 1

    def _known(self, rule: Rule) -> list[str]:
        """Return all names in the index entry of a rule."""
        classes = self._index[rule.where, rule.key].values()
        if not self._alike:
            return [name for names in classes for name in names]
        place = {name: place for place, name in enumerate(self._targets)}
        return [name for names in classes for name in sorted(self._with_alike(names), key=place.__getitem__)]

    def _names(self, rule: Rule) -> dict[str, str] | None:
        """Return all renames by a rule, beyond its index entry if the rule is open; None if it must not be applied."""
        renamed = rule.renaming()
        names: dict[str, str] = {}
        for name in self._targets if rule.open else self._known(rule):
            new = renamed(name)
            if new is not None and new != name:
                names[name] = new
        if len(set(names.values())) < len(names):
            return None
        for name, new in names.items():
            if new in self._targets and new not in names:
                return None
            target = None if name in self._unfiled else self._targets[name]
            if target and _far(new, target) >= _far(name, target):
                return None
        return names

    def _apply(self, rule: Rule, names: Mapping[str, str]) -> None:
        self._move(rule.operation, names)
        for name in names:
            for waiting in self._waiting.pop(name, ()):
                self._push(waiting)

    def _move(self, operation: Operation, names: Mapping[str, str]) -> None:
        if self._alike and not self._stay_alike(names):
            self._part()
        for name in names:
            if name not in self._unfiled:
                self._unfile(name)
        for name in [name for name in names if name in self._alike]:
            self._alike[names[name]] = [names[each] for each in self._alike.pop(name)]
        if self._unfiled:
            self._unfiled = {names.get(name, name) for name in self._unfiled}
        moved = [(new, self._targets.pop(name), self._origins.pop(name)) for name, new in names.items()]
        finished = []
        for new, target, origin in moved:
            self._targets[new], self._origins[new] = target, origin
        for new, target, origin in moved:
            self._enter(new)
            if target == new:
                finished.append(origin)
        self.done.append(Renamed(operation, finished))

    def _stay_alike(self, names: Mapping[str, str]) -> bool:
        """Return whether all names that stand for others are renamed as these are, and keep their numbers."""
        return all(
            name in names
            and _renumbered(names[first], name) == names[name]
            and template_of(names[first])[1] == template_of(first)[1]
            for first, others in self._alike.items()
            if first in names
            for name in others
        ) and sum(name in self._unfiled for name in names) == sum(
            len(self._alike[name]) for name in names if name in self._alike
        )

    def _class(self, name: str) -> _Class:
        target = self._targets[name]
        if target is None:
            return rounded(name), None
        if numbers_in(name) == numbers_in(target):
            return rounded(name), rounded(target)
        (old, numbers), (new, also) = template_of(name), template_of(target)
        return (".".join(old), ".".join(new)) if numbers == also else (name, target)

    def _file(self, name: str) -> None:
        own, shared = self._class(name), shared_keys_of(rounded(name))
        places = self._places[name] = _Places(own, shared, keys_of(name) - shared)
        members = self._members.setdefault(own, {})
        if not members:
            for key in shared:
                self._index[key][own] = members
        members[name] = None
        for key in places.keys:
            self._index[key].setdefault(own, {})[name] = None

    def _unfile(self, name: str) -> None:
        self._left.discard(name)
        own, shared, keys = self._places.pop(name)
        members = self._members[own]
        del members[name]
        if not members:
            for key in shared:
                del self._index[key][own]
        for key in keys:
            classes = self._index[key]
            del classes[own][name]
            if not classes[own]:
                del classes[own]

    def _break_cycle(self) -> None:
        """Give temporary names to names that block each other, to as many as one operation can."""
        found = min(self._detours(), key=lambda each: (-len(each[1]), str(each[0])), default=None)
        if found is None:
            self._one_by_one()
            return
        self._aside.update(self._origins[name] for name in found[1])
        self._move(*found)

    def _directly(self) -> None:
        """Give each remaining name its target as soon as that is free."""
        self._part()
        waiting: dict[str, str] = {}
        for first in sorted(self._left):
            name: str | None = first
            while name is not None and name in self._left:
                target = self._targets[name] or name
                if target in self._targets:
                    waiting[target] = name
                    break
                self._move(Rename(name, target), {name: target})
                name = waiting.pop(name, None)
        if self._left:
            self._one_by_one()

    def _one_by_one(self) -> None:
        """Give all remaining names temporary names, and then their targets."""
        goals = {target for name in self._left if (target := self._targets[name])}
        for name in sorted(self._left | {goal for goal in goals if goal in self._targets}):
            aside = self._unused(name)
            self._move(Rename(name, aside), {name: aside})
        for name in sorted(self._left):
            target = self._targets[name] or name
            self._move(Rename(name, target), {name: target})

    def _detours(self) -> Iterator[tuple[Operation, dict[str, str]]]:
        """Yield operations that give temporary names to unfinished names, or to names that occupy a target."""
        for name in sorted(self._left)[:_WIDE_SCAN]:
            target = self._targets[name] or name
            for each in (name, target) if target in self._targets else (name,):
                if self._may_wait(each):
                    aside = self._unused(each)
                    yield Rename(each, aside), {each: aside}
            for rule in rules(name, target, literal=True, wide=False):
                if rule.kind == "RenamePrefix":
                    old, new = str(rule.args[0]), self._unused(str(rule.args[1])[:-1]) + "."
                    found = [each for each in self._known(rule) if each.startswith(old)]
                    if found and all(each in self._left and self._may_wait(each) for each in found):
                        yield RenamePrefix(old, new), {each: new + each[len(old) :] for each in found}

    def _may_wait(self, name: str) -> bool:
        """Return whether a name may get a temporary name: it had none before, and is not at its target."""
        return self._origins[name] not in self._aside and (name in self._left or self._targets[name] is None)

    def _unused(self, name: str) -> str:
        """Return a name derived from another one that is not the beginning of any name in use."""
        found = f"{name}__"
        taken = {*self._targets, *(target for target in self._targets.values() if target)}
        while any(each.startswith(found) for each in taken):
            found += "_"
        return found


def _alike(targets: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return the names of numbered blocks whose names and targets differ only by the number of the block.

    They are listed by the name in the first of these blocks. That block, and the first one in the order of texts, from
    which rules are made, are not among them.
    """
    blocks: defaultdict[tuple[str, str], dict[str, tuple[str, str | None]]] = defaultdict(dict)
    for name, target in targets.items():
        at = _number_in(name)
        if at is not None:
            goal = None if target is None else _without_number(name, at, target)
            blocks[name[: at[0]], name[at[0] : at[1]]][name[at[1] :]] = (name, goal)
    groups: defaultdict[object, list[tuple[str, dict[str, tuple[str, str | None]]]]] = defaultdict(list)
    for (module, number), block in blocks.items():
        shape = frozenset((rest, goal) for rest, (_, goal) in block.items())
        if not any(goal == "" for _, goal in shape):
            groups[module, shape].append((number, block))
    found: defaultdict[str, list[str]] = defaultdict(list)
    for alike in groups.values():
        (_, first), *others = alike
        least = min(number for number, _ in alike)
        for number, block in others:
            if number != least:
                for rest, (name, _) in block.items():
                    found[first[rest][0]].append(name)
    return dict(found)


def _number_in(name: str) -> tuple[int, int] | None:
    """Return the bounds of the first part of a name that is a number."""
    found = _NUMBER.search(name)
    return None if found is None else found.span()


def _without_number(name: str, at: tuple[int, int], target: str) -> str:
    """Return a target with a placeholder for the number of its block; empty if names and targets differ in numbers."""
    there = _number_in(target)
    if there is None or name[at[0] : at[1]] != target[there[0] : there[1]]:
        return ""
    same = template_of(name)[1] == template_of(target)[1]
    return f"{target[: there[0]]}{NUMBER}{target[there[1] :]}" if same else ""


def _renumbered(name: str, like: str) -> str | None:
    """Return a name with the number of the block of another name."""
    at, there = _number_in(name), _number_in(like)
    return None if at is None or there is None else name[: at[0]] + like[there[0] : there[1]] + name[at[1] :]


def _far(name: str, target: str) -> int:
    return distance(parts_of(name), parts_of(target))


def renamed(targets: Mapping[str, str | None]) -> tuple[list[Renamed], dict[str, str]]:
    """Return the shortest list of operations found, and the final names by the original ones.

    Parameters
    ----------
    targets : mapping of str to str or None
        The target of each name; None if any name will do.
    """
    alike = _alike(targets)
    best = Renaming(targets, alike=alike)
    best.run()
    if 2 < len(best.done) <= _MOST_WIDE:
        other = Renaming(targets, greedy=False, alike=alike)
        other.run()
        best = min(best, other, key=lambda each: len(each.done))
    return best.done, best.current
