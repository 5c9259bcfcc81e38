"""Operations that rename or reorder parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, name_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.state.name_patterns import among, check_stars, literal, literals, pattern, turns
from anemoi_ckpt_migrate.util.text import first_repeated

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


class _Naming(Operation):
    """Base class of operations that rename."""

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the old and new name of each parameter that it renames, given all names.

        Raises
        ------
        ValueError
            The new names cannot be determined; the message says why.
        """
        raise NotImplementedError

    def renamed(self, context: ParameterContext) -> dict[str, str]:
        """Return old and new names; call `missing` if there are none."""
        try:
            found = dict(self.found(context.table))
        except ValueError as error:
            context.fault(str(error))
            return {}
        if not found:
            self.missing(context)
        return found

    def missing(self, context: ParameterContext) -> None:
        """Report a fault if it has to match at least one name."""

    def targets(self) -> list[str]:
        """Return patterns of the new names."""
        return []

    def apply(self, context: ParameterContext) -> list[Operation]:
        """Rename the parameters, and return the rollback."""
        names = self.renamed(context)
        for same in [old for old, new in names.items() if old == new]:
            del names[same]
        lacked = context.missing_prefix
        context.relate(names)
        if context.has_faults or not names or not context.free(names.values(), names, self.targets()):
            return []
        context.table.rename(names)
        if not context.undoes:
            return []
        if context.missing_prefix != lacked:
            from anemoi_ckpt_migrate.operations.find_hints import MissingPrefix

            return [MissingPrefix(lacked)]
        short = self.inverse()
        if isinstance(short, _Naming) and _turns(short, names, context.table):
            return [short]
        return [RenameEach(tuple((new, old) for old, new in names.items()))]


def _turns(naming: _Naming, names: Mapping[str, str], now: Mapping[str, object]) -> bool:
    """Return whether an operation on the new names gives the old ones back, and changes no other."""
    count = 0
    for new, old in naming.found(now):
        if new != old:
            if names.get(old) != new:
                return False
            count += 1
    return count == len(names)


@operation
class Rename(_Naming):
    """Rename a parameter, or all that match a pattern.

    Parameters
    ----------
    old, new : str
        Names, or patterns with the same placeholders. For ``Rename("h.{i}.attn.*", ...)`` use `RenamePrefix`.
    optional : bool
        Whether there may be no such parameter; then nothing happens.
    """

    old: str
    new: str
    optional: bool = False

    def __post_init__(self) -> None:
        set_fields(self, old=name_of(self, "old", self.old), new=name_of(self, "new", self.new))
        flag_of(self, "optional", self.optional)
        old, new = pattern(self.old), pattern(self.new)
        check_stars("Rename", [self.old, self.new])
        if not set(new.places) <= set(old.places):
            raise BadOperation(f"Rename: {self.new} has a placeholder that {self.old} does not have")

    def inverse(self) -> Operation | None:
        """Return the inverse: `old` and `new` exchanged; None if the names do not determine it."""
        return Rename(self.new, self.old, self.optional) if turns(self.old, self.new) else None

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the names that match, with their new names."""
        new = pattern(self.new)
        return ((name, new.fill(bound)) for name, bound in pattern(self.old).among(names))

    def missing(self, context: ParameterContext) -> None:
        """Report a fault: no name matches."""
        if not self.optional:
            context.missing(self.old, [self.new])

    def targets(self) -> list[str]:
        """Return the pattern of the new names."""
        return [self.new]


@operation
class RenamePrefix(_Naming):
    """Replace a prefix of names by another.

    Parameters
    ----------
    old, new : str
        The prefixes: ``RenamePrefix("encoder.", "model.encoder.")``. They may have placeholders.
    optional : bool
        Whether there may be no such parameter; then nothing happens.
    """

    old: str
    new: str
    optional: bool = False

    def __post_init__(self) -> None:
        set_fields(self, old=name_of(self, "old", self.old), new=name_of(self, "new", self.new))
        flag_of(self, "optional", self.optional)
        if not set(pattern(self.new).places) <= set(pattern(self.old).places):
            raise BadOperation(f"RenamePrefix: {self.new} has a placeholder that {self.old} does not have")

    def check_written(self) -> None:
        """Refuse a star in the new prefix."""
        check_stars("RenamePrefix", [self.new])

    def inverse(self) -> Operation | None:
        """Return the inverse: `old` and `new` exchanged; None if the names do not determine it."""
        return RenamePrefix(self.new, self.old, self.optional) if turns(f"{self.old}*", f"{self.new}*") else None

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the names with the prefix, with their new names."""
        other = pattern(self.new)
        return ((name, other.fill(bound) + name[end:]) for name, bound, end in pattern(self.old).beginnings(names))

    def missing(self, context: ParameterContext) -> None:
        """Report a fault: no name has the prefix."""
        if not self.optional:
            context.missing(f"{self.old}*", [f"{self.new}*"])

    def targets(self) -> list[str]:
        """Return the pattern of the new names."""
        return [f"{self.new}*"]


@operation
class RenameRegex(_Naming):
    r"""Replace the matches of a regular expression in names, as `re.sub` does.

    Parameters
    ----------
    pattern, replacement : str
        ``RenameRegex(r"layers\.(\d+)\.self_attn", r"blocks.\1.attention")``.
    optional : bool
        Whether there may be no such parameter; then nothing happens.
    """

    recorded = False  # matching can take exponential time; its rollback is pairs of names
    pattern: str
    replacement: str
    optional: bool = False

    def __post_init__(self) -> None:
        name_of(self, "pattern", self.pattern)
        flag_of(self, "optional", self.optional)
        if not isinstance(self.replacement, str):
            raise BadOperation(f"RenameRegex: replacement must be text, not {self.replacement!r:.60}")
        try:
            re.sub(self.pattern, self.replacement, "")
            re.compile(self.pattern)
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise BadOperation(f"RenameRegex: {error}") from error

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the names that change, with their new names."""
        try:
            for name in names:
                new = re.sub(self.pattern, self.replacement, name)
                if new != name:
                    yield name, new
        except (re.error, IndexError) as error:
            raise ValueError(f"{self.replacement} is not a valid replacement: {error}") from error

    def missing(self, context: ParameterContext) -> None:
        """Report a fault: no name changes."""
        if context.main is None and not context.has_missing and not self.optional:
            context.fault(f"{self.pattern} changes no name")


@operation
class StripPrefix(_Naming):
    """Remove a prefix from all names that have it; without such names, nothing happens.

    The ``module.`` of an `AveragedModel` stays, which is recognised by the ``n_averaged`` beside it.

    Parameters
    ----------
    prefix : str
        The prefix: ``"module."`` comes from DistributedDataParallel, ``"_orig_mod."`` from torch.compile.
    anywhere : bool
        Whether to remove it after any dot too, for models of which only a part was wrapped.
    """

    prefix: str
    anywhere: bool = False

    def __post_init__(self) -> None:
        name_of(self, "prefix", self.prefix)
        flag_of(self, "anywhere", self.anywhere)

    @property
    def strips_wrappers(self) -> bool:
        """Whether it removes the prefix anywhere, and so in any order of wrappers."""
        return self.anywhere

    def inverse(self) -> Operation | None:
        """Return the operation that adds the prefix to every name; None if it was removed anywhere."""
        return None if self.anywhere else AddPrefix(self.prefix)

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the names that have the prefix, with their new names."""
        for name in names:
            new = self._stripped(name, names)
            if new not in (name, ""):
                yield name, new

    def _stripped(self, name: str, names: Mapping[str, object]) -> str:
        from anemoi_ckpt_migrate.state.find_parameters import is_of_average

        def taken(found: re.Match[str]) -> str:
            return found[0] if is_of_average(name, found.start(), names) else ""

        places = r"(?:^|(?<=\.))" if self.anywhere else "^"
        return re.sub(places + re.escape(self.prefix), taken, name)


@operation
class AddPrefix(_Naming):
    """Add a prefix to all names.

    Parameters
    ----------
    prefix : str
        The prefix.
    """

    prefix: str

    def __post_init__(self) -> None:
        name_of(self, "prefix", self.prefix)

    def inverse(self) -> Operation | None:
        """Return the operation that removes the prefix."""
        return StripPrefix(self.prefix)

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield all names, with their new names."""
        return ((name, self.prefix + name) for name in names)


@operation
class RenameEach(_Naming):
    """Rename several parameters at once, so that names may change places.

    Records contain it for renames that no pattern describes.

    Parameters
    ----------
    names : dict of str to str, or sequence of (str, str)
        New names by old names, without patterns. Each has to exist, at least in the state dict.

    Examples
    --------
    >>> from anemoi_ckpt_migrate import op
    >>> op.RenameEach({"up.weight": "down.weight", "down.weight": "up.weight"})
    RenameEach([["up.weight", "down.weight"], ["down.weight", "up.weight"]])
    """

    names: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        pairs = tuple(self.names.items()) if isinstance(self.names, Mapping) else self.names
        if not isinstance(pairs, (tuple, list)) or not all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
            for pair in pairs
        ):
            raise BadOperation(f"RenameEach: names must be a dict of old and new names, not {self.names!r:.60}")
        for own in zip(*pairs, strict=True):
            if (twice := first_repeated(own)) is not None:
                raise BadOperation(f"RenameEach: names has {twice} twice")
        set_fields(self, names=tuple((old, new) for old, new in pairs))

    def inverse(self) -> Operation | None:
        """Return the inverse: old and new names exchanged."""
        return RenameEach(tuple((new, old) for old, new in self.names))

    def found(self, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the names that exist, with their new names."""
        return ((old, new) for old, new in self.names if old in names)

    def renamed(self, context: ParameterContext) -> dict[str, str]:
        """Return old and new names; an old name that is missing is a fault."""
        for old, _ in self.names:
            if old not in context.table:
                context.missing(literal(old))
        return dict(self.found(context.table))


@operation
class Reorder(Operation):
    """Change the order of parameters, within the positions that they occupy.

    Parameters
    ----------
    names : sequence of str
        Names or patterns, in the new order. If all have a placeholder, each of its values is ordered by itself.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        set_fields(self, names=names_of(self, "names", self.names))

    def changes_order(self, names: Mapping[str, object]) -> bool:
        """Return whether it matches a name."""
        return any(found for _, found in among(self.names, names))

    def beside_others(self, names: Mapping[str, object], group: Callable[[str], int | None]) -> str | None:
        """Return a name that it orders together with one of another group."""
        for own in self._sets(names):
            first, *rest = own
            if (other := next((name for name in rest if group(name) != group(first)), None)) is not None:
                return other
        return None

    def _sets(self, names: Mapping[str, object]) -> list[list[str]]:
        """Return the names that it matches: those in a list are ordered among themselves."""
        found: dict[tuple[str, ...], dict[str, None]] = {}
        shared = sorted(set.intersection(*(set(pattern(text).places) for text in self.names)))
        for _, matching in among(self.names, names):
            for name, bound in matching:
                found.setdefault(tuple(bound[place] for place in shared), {})[name] = None
        return [list(own) for own in found.values()]

    def apply(self, context: ParameterContext) -> list[Any]:
        """Reorder the parameters, and return the rollback."""
        for text, found in among(self.names, context.table):
            if not found:
                context.missing(text)
        undo: list[Any] = []
        for group in self._sets(context.table):
            before = context.table.in_order(group)
            if before != group:
                context.table.reorder(group)
                undo.append(Reorder(literals(before)))
        return undo
