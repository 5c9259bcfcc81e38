"""Operations that give parameters other names, or another order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, name_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.copies import Copy
from anemoi_ckpt_migrate.operations.patterns import pattern


class _Naming(Operation):
    """What renames: it says which names change, and knows what undoes that."""

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        raise NotImplementedError

    def back(self, copy: Copy, names: Mapping[str, str]) -> Operation | None:
        """Return a short inverse, if after renaming there is one; None if the names have to be listed."""
        return None

    def targets(self) -> list[str]:
        """Return patterns of what comes about."""
        return []

    def apply(self, copy: Copy) -> list[Operation]:
        """Rename, and return what undoes it."""
        names = {old: new for old, new in self.renamed(copy).items() if old != new}
        if not names or not copy.free(names.values(), names, self.targets()):
            return []
        copy.table.rename(names)
        return [self.back(copy, names) or RenameEach(tuple((new, old) for old, new in names.items()))]


@operation
class Rename(_Naming):
    """Rename a parameter, or all that match a pattern.

    Parameters
    ----------
    old, new : str
        Names, or patterns with the same placeholders: ``Rename("h.{i}.attn.*", ...)`` is `RenamePrefix`'s work.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        set_fields(self, old=name_of(self, "old", self.old), new=name_of(self, "new", self.new))
        old, new = pattern(self.old), pattern(self.new)
        if "*" in self.old + self.new:
            raise BadOperation("Rename: a star says not what becomes of what it stands for; use {placeholders}")
        if not set(new.places) <= set(old.places):
            raise BadOperation(f"Rename: {self.new} has a placeholder that {self.old} does not have")

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return Rename(self.new, self.old) if set(pattern(self.old).places) == set(pattern(self.new).places) else None

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        new = pattern(self.new)
        found = {name: new.fill(bound) for name, bound in pattern(self.old).among(copy.table)}
        if not found:
            copy.missing(self.old, [self.new])
        return found

    def back(self, copy: Copy, names: Mapping[str, str]) -> Operation | None:
        """Return it the other way around, if that stands for the same names."""
        return self.inverse() if copy.alone(self.new, names.values()) else None

    def targets(self) -> list[str]:
        """Return what comes about."""
        return [self.new]


@operation
class RenamePrefix(_Naming):
    """Give all names that begin with something another beginning.

    Parameters
    ----------
    old, new : str
        The beginnings: ``RenamePrefix("encoder.", "model.encoder.")``. They may have placeholders.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        set_fields(self, old=name_of(self, "old", self.old), new=name_of(self, "new", self.new))
        if not set(pattern(self.new).places) <= set(pattern(self.old).places):
            raise BadOperation(f"RenamePrefix: {self.new} has a placeholder that {self.old} does not have")

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        same = set(pattern(self.old).places) == set(pattern(self.new).places)
        return RenamePrefix(self.new, self.old) if same else None

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        found = _with_prefix(self.old, self.new, copy)
        if not found:
            copy.missing(f"{self.old}*", [f"{self.new}*"])
        return found

    def back(self, copy: Copy, names: Mapping[str, str]) -> Operation | None:
        """Return it the other way around, if that stands for the same names."""
        same = set(_with_prefix(self.new, self.old, copy)) == set(names.values())
        return self.inverse() if same else None

    def targets(self) -> list[str]:
        """Return what comes about."""
        return [f"{self.new}*"]


def _with_prefix(old: str, new: str, copy: Copy) -> dict[str, str]:
    begin, other = pattern(old), pattern(new)
    if not begin.open:
        return {name: new + name[len(old) :] for name in copy.table if name.startswith(old)}
    found = {}
    for name in copy.table:
        bound = begin.regex.match(name)
        if bound is not None:
            found[name] = other.fill(bound.groupdict()) + name[bound.end() :]
    return found


@operation
class RenameRegex(_Naming):
    r"""Rename whatever a regular expression finds in a name, as `re.sub` does.

    Parameters
    ----------
    pattern, replacement : str
        ``RenameRegex(r"layers\.(\d+)\.self_attn", r"blocks.\1.attention")``.
    """

    pattern: str
    replacement: str

    def __post_init__(self) -> None:
        name_of(self, "pattern", self.pattern)
        try:
            re.sub(self.pattern, self.replacement, "")
            re.compile(self.pattern)
        except (re.error, TypeError, IndexError) as error:
            raise BadOperation(f"RenameRegex: {error}") from error

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        found = {}
        for name in copy.table:
            try:
                new = re.sub(self.pattern, self.replacement, name)
            except (re.error, IndexError) as error:
                copy.fault(f"{self.replacement} is no replacement: {error}")
                return {}
            if new != name:
                found[name] = new
        if not found and copy.main is None and not copy.unknown:
            copy.fault(f"no name changes by {self.pattern}")
        return found


@operation
class StripPrefix(_Naming):
    """Take a beginning away from all names that have it; from none, if none has.

    Parameters
    ----------
    prefix : str
        ``"module."`` is what DistributedDataParallel puts there, ``"_orig_mod."`` what torch.compile does.
    anywhere : bool
        Also behind any dot, where only a part of the model was wrapped.
    """

    prefix: str
    anywhere: bool = False

    def __post_init__(self) -> None:
        name_of(self, "prefix", self.prefix)
        flag_of(self, "anywhere", self.anywhere)

    def inverse(self) -> Operation | None:
        """Return what puts it before every name."""
        return None if self.anywhere else AddPrefix(self.prefix)

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        if not self.anywhere:
            begins = (name for name in copy.table if name.startswith(self.prefix) and name != self.prefix)
            return {name: name[len(self.prefix) :] for name in begins}
        found = re.compile(rf"(?:^|(?<=\.)){re.escape(self.prefix)}")
        return {name: found.sub("", name) for name in copy.table if found.search(name)}

    def back(self, copy: Copy, names: Mapping[str, str]) -> Operation | None:
        """Return what puts it before every name, if every one had it."""
        every = len(names) == len(copy.table)
        return AddPrefix(self.prefix) if every and all(old == self.prefix + new for old, new in names.items()) else None


@operation
class AddPrefix(_Naming):
    """Put something before all names.

    Parameters
    ----------
    prefix : str
        What.
    """

    prefix: str

    def __post_init__(self) -> None:
        name_of(self, "prefix", self.prefix)

    def inverse(self) -> Operation | None:
        """Return what takes it away."""
        return StripPrefix(self.prefix)

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        return {name: self.prefix + name for name in copy.table}

    def back(self, copy: Copy, names: Mapping[str, str]) -> Operation | None:
        """Return what takes it away."""
        return self.inverse()


@operation
class RenameEach(_Naming):
    """Rename names one by one; what a record holds where no shorter inverse is right.

    Parameters
    ----------
    names : sequence of (str, str)
        Old names and new ones.
    """

    names: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.names, (tuple, list)) or not all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
            for pair in self.names
        ):
            raise BadOperation("RenameEach: names must be a list of pairs of names")
        set_fields(self, names=tuple((old, new) for old, new in self.names))

    def inverse(self) -> Operation | None:
        """Return it the other way around."""
        return RenameEach(tuple((new, old) for old, new in self.names))

    def renamed(self, copy: Copy) -> dict[str, str]:
        """Return old names and new ones."""
        for old, _ in self.names:
            if old not in copy.table:
                copy.missing(old)
        return {old: new for old, new in self.names if old in copy.table}


@operation
class Reorder(Operation):
    """Have parameters stand in another order, in the places that they have together.

    Parameters
    ----------
    names : sequence of str
        Names or patterns, in the order wanted. What has placeholders is put in order for each that they stand for.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        set_fields(self, names=names_of(self, "names", self.names))

    def apply(self, copy: Copy) -> list[Any]:
        """Put them in order, and return what undoes it."""
        groups: dict[tuple[str, ...], dict[str, None]] = {}
        shared = set(pattern(self.names[0]).places).intersection(*(pattern(text).places for text in self.names))
        for text in self.names:
            found = list(pattern(text).among(copy.table))
            if not found:
                copy.missing(text)
            for name, bound in found:
                groups.setdefault(tuple(bound[place] for place in sorted(shared)), {})[name] = None
        undo: list[Any] = []
        for group in groups.values():
            before = copy.table.in_order(group)
            if before != list(group):
                copy.table.reorder(list(group))
                undo.append(Reorder(tuple(before)))
        return undo
