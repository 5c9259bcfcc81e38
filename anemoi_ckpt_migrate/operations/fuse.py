"""Operations that join several parameters into one, and operations that divide one into several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import (
    Operation,
    integer_of,
    integers_of,
    name_of,
    names_of,
    operation,
    set_fields,
)
from anemoi_ckpt_migrate.state.name_patterns import check_stars, literal, literals, pattern, turns

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.ordered_names import Places
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


def _placed(kind: Operation, places: Any) -> Places | None:
    """Check positions from a record: pairs of a name and the name before it."""
    if places is None:
        return None
    if not isinstance(places, (tuple, list)) or not all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str) for pair in places
    ):
        raise BadOperation(f"{type(kind).__name__}: places must be pairs of names, not {places!r:.60}")
    return tuple((name, before) for name, before in places)


class _Joining(Operation):
    """Base class of operations that join several parameters into one."""

    sources: tuple[str, ...]
    target: str
    dim: int
    kind = ""
    makes = True

    def __post_init__(self) -> None:
        set_fields(
            self,
            sources=names_of(self, "sources", self.sources),
            target=name_of(self, "target", self.target),
            dim=integer_of(self, "dim", self.dim),
        )
        places = [set(pattern(source).places) for source in self.sources]
        if not set(pattern(self.target).places) <= set().union(*places):
            raise BadOperation(f"{type(self).__name__}: {self.target} has a placeholder that no source has")

    def check_written(self) -> None:
        """Refuse stars, and a concatenation that can only have one source."""
        check_stars(type(self).__name__, [*self.sources, self.target])
        one = len(self.sources) == 1 and set(pattern(self.sources[0]).places) <= set(pattern(self.target).places)
        if self.kind == "cat" and one:
            raise BadOperation(f"{type(self).__name__}: {self.sources[0]} is one source, but two are needed")

    def apply(self, context: ParameterContext) -> list[Operation]:
        """Join the sources at each match of the patterns, and return the rollback."""
        done: list[tuple[str, list[str], tuple[int, ...], Places | None]] = []
        word = type(self).__name__.lower()
        for names, bound in context.bound(self.sources, self.target):
            target = pattern(self.target).fill(bound)
            if not context.free([target], names, [self.target]):
                continue
            shapes = [context.values.shape(context.table[name]) for name in names if context.has_shape(name)]
            made = context.make(self.kind, (self.dim,), names, f"{_listed(names)} cannot {word} into {target}")
            if made is None:
                context.expect_missing([self.target])
                continue
            places = context.table.places(names)
            sizes = tuple(shape[self.dim] for shape in shapes) if self.kind == "cat" else (1,) * len(names)
            context.table.replace(names, {target: made})
            done.append((target, names, sizes, places))
        return self._short(context, done) or [
            self.parted(literal(target), literals(names), sizes, places) for target, names, sizes, places in done[::-1]
        ]

    def _short(
        self, context: ParameterContext, done: Sequence[tuple[str, list[str], tuple[int, ...], Places | None]]
    ) -> list[Any]:
        if len(done) < 2 or len({sizes for _, _, sizes, _ in done}) > 1 or any(places for *_, places in done):
            return []
        if not turns(self.target, *self.sources) or not context.alone(self.target, [target for target, *_ in done]):
            return []
        return [self.parted(self.target, self.sources, done[0][2], None)]

    def parted(self, target: str, names: tuple[str, ...], sizes: tuple[int, ...], places: Places | None) -> Operation:
        """Return the operation that divides the target again."""
        raise NotImplementedError


class _Parting(Operation):
    """Base class of operations that divide one parameter into several."""

    source: str
    targets: tuple[str, ...]
    dim: int
    noted = ("places",)
    places: Places | None
    makes = True

    def __post_init__(self) -> None:
        set_fields(
            self,
            source=name_of(self, "source", self.source),
            targets=names_of(self, "targets", self.targets),
            dim=integer_of(self, "dim", self.dim),
            places=_placed(self, self.places),
        )
        self.check()

    def check_written(self) -> None:
        """Refuse stars in the targets, and placeholders that the source does not have."""
        check_stars(type(self).__name__, self.targets)
        known = {*pattern(self.source).places, self.counting()}
        for target in self.targets:
            if not set(pattern(target).places) <= known:
                raise BadOperation(
                    f"{type(self).__name__}: {target} has a placeholder that {self.source} does not have"
                )

    def counting(self) -> str | None:
        """Return the placeholder of the targets that numbers the parts, if there is one."""
        return None

    def check(self) -> None:
        """Check the remaining fields."""

    def parts(self, size: int) -> Sequence[tuple[Any, ...]]:
        """Return a recipe for each part, given the size of the dimension.

        Raises
        ------
        ValueError
            The dimension cannot be divided like this; the message says why.
        """
        raise NotImplementedError

    def named(self, bound: dict[str, str], size: int) -> list[str]:
        """Return the names of the parts."""
        return [pattern(target).fill(bound) for target in self.targets]

    def apply(self, context: ParameterContext) -> list[Operation]:
        """Divide each match of the source, and return the rollback."""
        done: list[tuple[str, list[str]]] = []
        found = list(pattern(self.source).among(context.table))
        if not found:
            context.missing(self.source, self.targets)
        for source, bound in found:
            made = self._made(context, source, bound)
            if made is None:
                context.expect_missing(self.targets)
                continue
            context.table.replace([source], made, self.places)
            done.append((source, list(made)))
        if self._is_short(context, [made for _, made in done]):
            return [self.joined(self.targets, self.source)]
        return [self.joined(literals(made), literal(source)) for source, made in reversed(done)]

    def _is_short(self, context: ParameterContext, done: Sequence[Sequence[str]]) -> bool:
        if len(done) < 2 or self.places is not None or not turns(self.source, *self.targets):
            return False
        return all(
            context.alone(target, made) for target, made in zip(self.targets, zip(*done, strict=True), strict=True)
        )

    def _made(self, context: ParameterContext, source: str, bound: dict[str, str]) -> dict[str, Any] | None:
        shape = context.shape(source, f"{source} cannot be split")
        if shape is None:
            return None
        if not -len(shape) <= self.dim < len(shape):
            context.fault(f"{source} has the shape {list(shape)}, but no dimension {self.dim}")
            return None
        size = shape[self.dim]
        names = self.named(bound, size)
        try:
            parts = self.parts(size)
        except ValueError as error:
            context.fault(f"{source} of the shape {list(shape)} cannot be split: {error}")
            return None
        if not context.free(names, [source], self.targets):
            return None
        made = {}
        for name, (kind, *args) in zip(names, parts, strict=True):
            made[name] = context.make(kind, tuple(args), [source], f"{source} cannot be split")
        return None if any(one is None for one in made.values()) else made

    def joined(self, names: tuple[str, ...], source: str) -> Operation:
        """Return the operation that joins the parts again."""
        raise NotImplementedError


@operation
class Fuse(_Joining):
    """Concatenate parameters along a dimension that they have.

    Parameters
    ----------
    sources : sequence of str
        Names or patterns, in their order in the target. A placeholder that the target does not have numbers the
        sources: ``Fuse("experts.{i}.w", "w")``.
    target : str
        The name of the new parameter, which takes the position of the first source.
    dim : int
        The dimension.
    sizes : sequence of int, optional
        The size of each source, if they differ. After an upgrade, the record contains the sizes for the downgrade.
        For a checkpoint that was only stamped, or saved by training, the downgrade uses these.
    """

    sources: tuple[str, ...]
    target: str
    dim: int = 0
    sizes: tuple[int, ...] | None = None
    kind = "cat"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes is not None:
            set_fields(self, sizes=integers_of(self, "sizes", self.sizes))
            if len(self.sizes or ()) != len(self.sources):
                raise BadOperation(f"Fuse: {len(self.sources)} sources need as many sizes, not {len(self.sizes or ())}")

    def inverse(self) -> Operation | None:
        """Return the `Split` that undoes it, into equal parts unless it has `sizes`."""
        there = turns(self.target, *self.sources)
        return Split(self.target, self.sources, self.dim, self.sizes) if there else None

    def parted(self, target: str, names: tuple[str, ...], sizes: tuple[int, ...], places: Places | None) -> Operation:
        """Return the operation that divides the target again."""
        return Split(target, names, self.dim, sizes, places)


@operation
class Split(_Parting):
    """Split a parameter into several along a dimension.

    Parameters
    ----------
    source : str
        A name, or a pattern.
    targets : sequence of str
        The names of the parts, which take the position of the source.
    dim : int
        The dimension.
    sizes : sequence of int, optional
        The size of each part; without it, all parts have the same size.
    """

    source: str
    targets: tuple[str, ...]
    dim: int = 0
    sizes: tuple[int, ...] | None = None
    places: Places | None = None

    def check(self) -> None:
        """Check the sizes."""
        if self.sizes is not None:
            set_fields(self, sizes=integers_of(self, "sizes", self.sizes))
            if len(self.sizes or ()) != len(self.targets):
                raise BadOperation(
                    f"Split: {len(self.targets)} targets need as many sizes, not {len(self.sizes or ())}"
                )

    def inverse(self) -> Operation | None:
        """Return the operation that joins the parts again."""
        sizes = self.sizes if len(set(self.sizes or ())) > 1 else None
        return Fuse(self.targets, self.source, self.dim, sizes) if turns(self.source, *self.targets) else None

    def parts(self, size: int) -> Sequence[tuple[Any, ...]]:
        """Return a recipe for each part: its start and its length."""
        count = len(self.targets)
        if self.sizes is None and size % count:
            raise ValueError(f"{size} is not a multiple of {count}; set sizes=")
        sizes = self.sizes or (size // count,) * count
        if sum(sizes) != size:
            raise ValueError(f"its sizes {list(sizes)} add up to {sum(sizes)}, not to {size}")
        starts = [sum(sizes[:place]) for place in range(count)]
        return [("narrow", self.dim, start, length) for start, length in zip(starts, sizes, strict=True)]

    def joined(self, names: tuple[str, ...], source: str) -> Operation:
        """Return the operation that joins the parts again."""
        return Fuse(names, source, self.dim)


@operation
class Stack(_Joining):
    """Stack parameters of the same shape along a new dimension.

    Parameters
    ----------
    sources, target, dim
        As for `Fuse`: ``Stack("experts.{i}.w", "experts.w")``.
    """

    sources: tuple[str, ...]
    target: str
    dim: int = 0
    kind = "stack"

    def inverse(self) -> Operation | None:
        """Return the `Unstack` that undoes it; None if the names do not determine it."""
        more = set(pattern(self.sources[0]).places) - set(pattern(self.target).places)
        counts = len(self.sources) == 1 and len(more) == 1
        return Unstack(self.target, self.sources, self.dim) if counts or turns(self.target, *self.sources) else None

    def parted(self, target: str, names: tuple[str, ...], sizes: tuple[int, ...], places: Places | None) -> Operation:
        """Return the operation that divides the target again."""
        return Unstack(target, names, self.dim, places)


@operation
class Unstack(_Parting):
    """Divide a parameter along a dimension, which the parts no longer have.

    Parameters
    ----------
    source : str
        A name, or a pattern.
    targets : sequence of str
        The names of the parts, or a pattern with a placeholder that the source does not have. It is numbered from 0.
    dim : int
        The dimension.
    """

    source: str
    targets: tuple[str, ...]
    dim: int = 0
    places: Places | None = None

    def inverse(self) -> Operation | None:
        """Return the `Stack` that undoes it."""
        return Stack(self.targets, self.source, self.dim)

    def counting(self) -> str | None:
        """Return the placeholder that the source does not have, if there is one."""
        only = [place for place in pattern(self.targets[0]).places if place not in pattern(self.source).places]
        return only[0] if len(self.targets) == 1 and len(only) == 1 else None

    def named(self, bound: dict[str, str], size: int) -> list[str]:
        """Return the names of the parts; a placeholder of their own is numbered."""
        counting = self.counting()
        if counting is None:
            return super().named(bound, size)
        return [pattern(self.targets[0]).fill({**bound, counting: str(number)}) for number in range(size)]

    def parts(self, size: int) -> Sequence[tuple[Any, ...]]:
        """Return a recipe for each part: its index."""
        if self.counting() is None and len(self.targets) != size:
            raise ValueError(f"dimension {self.dim} has {size}, but there are {len(self.targets)} targets")
        if not size:
            raise ValueError(f"dimension {self.dim} has the size 0, so nothing would remain")
        return [("select", self.dim, index) for index in range(size)]

    def joined(self, names: tuple[str, ...], source: str) -> Operation:
        """Return the operation that stacks the parts again."""
        return Stack(names, source, self.dim)


def _listed(names: Sequence[str]) -> str:
    shown = list(names) if len(names) < 5 else [*names[:2], f"{len(names) - 3} more", names[-1]]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
