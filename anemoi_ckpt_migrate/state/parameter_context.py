"""The context in which an operation is applied to one copy of the parameters, and the outcome that it returns."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anemoi_ckpt_migrate.state.find_parameters import AVERAGED
from anemoi_ckpt_migrate.state.name_patterns import Pattern, among, literal, pattern
from anemoi_ckpt_migrate.state.pickled_module import Pickled
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameters import ParameterSet

_Bound = tuple[tuple[str, str], ...]
"""Placeholders with their values, in order."""

Undo = TypeVar("Undo")
"""The type of the operations that undo others; this module does not know operations."""


@dataclass(frozen=True)
class Outcome(Generic[Undo]):
    """The outcome of an operation on one copy of the parameters.

    Attributes
    ----------
    undo : tuple of Operation
        The rollback.
    losses : tuple of str
        Reasons why there is no rollback, if any.
    faults : tuple of str
        Reasons why the operation cannot be applied, if any.
    missing : tuple of Pattern
        Names that are missing because of these faults.
    stashed : tuple of object
        Values to stash, after those that are stashed already.
    added : tuple of str
        Names that the operation added.
    """

    undo: tuple[Undo, ...] = ()
    losses: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    missing: tuple[Pattern, ...] = ()
    stashed: tuple[Any, ...] = ()
    added: tuple[str, ...] = ()

    def then(self, other: Outcome[Undo]) -> Outcome[Undo]:
        """Return the outcome of this operation and the next; the rollback has the opposite order."""
        return Outcome(
            other.undo + self.undo,
            self.losses + other.losses,
            self.faults + other.faults,
            self.missing + other.missing,
            self.stashed + other.stashed,
            self.added + other.added,
        )


class ParameterContext:
    """The context of one operation on one copy of the parameters.

    Parameters
    ----------
    parameters : ParameterSet
        The copy.
    stash : sequence of object
        The values that this revision has stashed so far.
    discard_changes : bool
        Whether a downgrade may discard changes made since the upgrade.
    tied : mapping of str to list of str
        For each tied name, all names that shared its memory before the operation.
    missing : sequence of Pattern
        Names that are missing only because of an earlier fault.
    added : sequence of str
        Names that the operation has just added to the main copy; other copies get only these.
    undoes : bool
        Whether the rollback is wanted. An operation may leave it out if it is not.

    Attributes
    ----------
    path, table, values, main, whole, optimizer, place
        Those of the copy.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        stash: Sequence[Any] = (),
        discard_changes: bool = False,
        tied: Mapping[str, list[str]] | None = None,
        missing: Sequence[Pattern] = (),
        added: Sequence[str] = (),
        undoes: bool = True,
    ) -> None:
        self.path, self.table, self.values = parameters.path, parameters.table, parameters.values
        self.main, self.whole, self.optimizer = parameters.main, parameters.whole, parameters.optimizer
        self.place, self.discard_changes, self.added = parameters.place, discard_changes, added
        self.undoes = undoes
        self._parameters, self._old, self._tied = parameters, stash, tied or {}
        self._missing, self._missing_before = list(missing), len(missing)
        self._new: list[Any] = []
        self._losses: list[str] = []
        self._faults: list[str] = []
        self._added: list[str] = []

    def outcome(self, undo: Iterable[Undo]) -> Outcome[Undo]:
        """Return the rollback, with everything that was noted."""
        return Outcome(
            tuple(undo),
            tuple(self._losses),
            tuple(self._faults),
            tuple(self._missing[self._missing_before :]),
            tuple(self._new),
            tuple(self._added),
        )

    @property
    def has_faults(self) -> bool:
        """Whether the operation cannot be applied."""
        return bool(self._faults)

    @property
    def has_missing(self) -> bool:
        """Whether names may be missing because of an earlier fault."""
        return bool(self._missing)

    @property
    def missing_prefix(self) -> str:
        """The prefix of its names that they lack in the tree."""
        return self._parameters.missing_prefix

    def add(self, names: Iterable[str]) -> None:
        """Note names that the operation added."""
        self._added += names

    def parameter(self, value: Any) -> Any:
        """Return a newly made tensor in the form in which the copy holds parameters."""
        content = None if self.place is None else self.place.content
        return content.parameter(value) if is_a(content, Pickled) else value

    def lose(self, reason: str) -> None:
        """Note a reason why there is no rollback."""
        self._losses.append(reason)

    def stash(self, value: Any) -> int:
        """Stash a value, and return its number."""
        self._new.append(self.values.keep(value))
        return len(self._old) + len(self._new) - 1

    def stashed(self, number: int) -> Any:
        """Return the stashed value with a number."""
        return self.values.kept(self._old[number])

    def has_shape(self, name: str) -> bool:
        """Return whether the value of a name is a tensor."""
        try:
            self.values.shape(self.table[name])
        except Mismatch:
            return False
        return True

    def shape(self, name: str, doing: str) -> tuple[int, ...] | None:
        """Return the shape of a name's value; None, with a fault noted, if it is no tensor with a shape."""
        try:
            return self.values.shape(self.table[name])
        except Mismatch as error:
            self.fault(f"{doing}: {error}")
            return None

    def is_cast_of(self, name: str, value: Any, dtype: str) -> bool:
        """Return whether the value of a name is just another value, cast."""
        return self.values.same(self.table[name], self.values.make("cast", (dtype,), [value]))

    def other_name(self, name: str) -> str | None:
        """Return another name tied to a name that was just dropped, for the parameter in an optimizer."""
        if not self.optimizer or self.main is None:
            return None
        return next((other for other in self._tied.get(name, ()) if other in self.main.table), None)

    def anchor(self, name: str) -> str | None:
        """Return the nearest preceding name of the main copy that this copy also has."""
        before = None if self.main is None else self.main.table.before(name)
        while before is not None and before not in self.table and self.main is not None:
            before = self.main.table.before(before)
        return before

    def stands_first(self, name: str) -> bool:
        """Return whether a name stands before all others that this copy shares with the main copy."""
        return self.main is not None and self.anchor(name) is None

    def fault(self, sentence: str, targets: Iterable[str] = ()) -> None:
        """Note a fault, and the names that are missing because of it; no further fault reports them."""
        self._faults.append(sentence if self.main is None else f"in {self.path}, {sentence}")
        self.expect_missing(targets)

    def expect_missing(self, targets: Iterable[str]) -> None:
        """Note names that are missing because of a fault; no further faults report these as missing."""
        self._missing += [pattern(target) for target in targets]

    def is_unknown(self, text: str) -> bool:
        """Return whether names may be missing only because of an earlier fault."""
        return any(known.text == text or known.bind(text) is not None for known in self._missing)

    def missing(self, text: str, targets: Iterable[str] = ()) -> None:
        """Note a fault because a required name is missing."""
        if self.main is not None:
            return
        if self.is_unknown(text):
            self.expect_missing(targets)
            return
        if pattern(text).open:
            self.fault(f"no name matches {text}", targets)
        else:
            name = pattern(text).fill({})
            self.fault(f"there is no {name}{_near(name, self.table)}", targets)

    def select(self, texts: Sequence[str]) -> list[str]:
        """Return the names that patterns select, in order; each pattern has to select one."""
        found: dict[str, None] = {}
        for text, names in among(texts, self.table):
            if not names:
                self.missing(text, [text])
            found.update((name, None) for name, _ in names)
        return list(found)

    def relate(self, names: Mapping[str, str]) -> None:
        """Update the missing prefix if a renaming changes only that; the names in the tree then stay unchanged."""
        before = self.missing_prefix
        if self.place is None or not before:
            return
        after = {old[len(before) :]: names.get(old, old) for old in self.table}
        if all(new.startswith(before) for new in after.values()):
            return
        begin = next(new.removesuffix(rest) for rest, new in after.items())
        if all(new == begin + rest for rest, new in after.items()):
            if self.place.extra_prefix not in ("", AVERAGED):
                self.fault(
                    f"names begin with {self.place.extra_prefix}, but those of the state dict with {before}, so the "
                    "wrappers cannot be matched; use op.Run to change both"
                )
                return
            self.place.set_prefixes(self.place.extra_prefix, begin)

    def free(self, new: Iterable[str], gone: Container[str], targets: Iterable[str] = ()) -> bool:
        """Return whether new names are available once others are removed; note a fault if not."""
        seen: set[str] = set()
        new = list(new)
        if not self.missing_prefix and len(set(new)) == len(new) and not any(name in self.table for name in new):
            return True
        prefix = self.missing_prefix
        for name in new:
            if not name.startswith(prefix):
                before = f"names lack {prefix}, which the state dict has before them"
                self.fault(f"{before}, so the source of {name} is unknown")
                return False
            if name in seen or (name in self.table and name not in gone):
                twice = "twice" if name in seen else "but exists already"
                self.fault(f"{name} would be added, {twice}", targets)
                return False
            seen.add(name)
        return True

    def bound(self, sources: Sequence[str], target: str) -> Iterator[tuple[list[str], dict[str, str]]]:
        """Yield the names that source patterns match, with the values of the target's placeholders.

        A placeholder that only the sources have is a counter: its numbers are used from the lowest up.
        """
        fixed = set(pattern(target).places)
        patterns = [pattern(source) for source in sources]
        if not any(each.places for each in patterns):
            yield from self._exact([each.fill({}) for each in patterns], target)
            return
        groups: dict[_Bound, dict[_Bound, dict[str, str]]] = {}
        for each in patterns:
            places = sorted(each.places)
            common = [place for place in places if place in fixed]
            for _, bound in each.among(self.table):
                every = tuple([(place, bound[place]) for place in places])
                key = every if len(common) == len(places) else tuple([(place, bound[place]) for place in common])
                groups.setdefault(key, {}).setdefault(every, bound)
        if not groups:
            self.missing(sources[0], [target])
        for key, full in groups.items():
            if fixed - {place for place, _ in key}:
                self.fault(f"{target} has a placeholder that {' and '.join(sources)} do not have", [target])
                return
            names = [each.fill(bound) for bound in _counted(full.values()) for each in patterns]
            yield from ((found, dict(key)) for found, _ in self._exact(list(dict.fromkeys(names)), target))

    def _exact(self, names: Sequence[str], target: str) -> Iterator[tuple[list[str], dict[str, str]]]:
        there = [name for name in names if name in self.table]
        if len(there) == len(names):
            yield list(names), {}
        elif self.main is None:
            for name in names:
                if name not in self.table:
                    self.missing(literal(name), [target])
        elif there:
            lacking = next(name for name in names if name not in self.table)
            self.fault(f"{there[0]} exists, but {lacking} does not", [target])

    def make(self, kind: str, args: tuple[Any, ...], names: Sequence[str], doing: str) -> Any:
        """Make a value from the values of names; None, with a fault noted, if that fails."""
        try:
            return self.values.make(kind, args, [self.table[name] for name in names])
        except Mismatch as error:
            self.fault(f"{doing}: {error}", [])
            return None

    def alone(self, text: str, made: Iterable[str]) -> bool:
        """Return whether a pattern matches exactly these names."""
        return [name for name, _ in pattern(text).among(self.table)] == self.table.in_order(set(made))


def _counted(bound: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    def key(one: Mapping[str, str]) -> list[tuple[int, str]]:
        return [(int(text) if text.isdecimal() else 0, text) for text in one.values()]

    return sorted(bound, key=key)


def _near(text: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(text, list(names)[:5000], 1, 0.75)
    return f"; there is {found[0]}" if found else ""
