"""Turn links into operations: drop, rename, join and split, change tensors, reorder, add."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.computed_buffers import worth_keeping
from anemoi_ckpt_migrate.autogenerate.name_similarity import template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Link, Step
from anemoi_ckpt_migrate.autogenerate.reorder import Adding, reorders
from anemoi_ckpt_migrate.autogenerate.select_patterns import PLACES, selecting, shared_numbers, with_places
from anemoi_ckpt_migrate.autogenerate.shortest_renames import renamed
from anemoi_ckpt_migrate.autogenerate.simulate import Model
from anemoi_ckpt_migrate.autogenerate.wording import doubts, once_each
from anemoi_ckpt_migrate.op import (
    Cast,
    Crop,
    Drop,
    Fuse,
    Pad,
    Permute,
    Rename,
    Reshape,
    Split,
    Stack,
    Transpose,
    Unstack,
)
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.state.dtypes import is_floating
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class ProposedOperation:
    """One proposed operation, with its confidence.

    Attributes
    ----------
    operation : Operation
        The operation to apply.
    confidence : float
        1 if content proves the operation, or if there is no alternative.
    alternatives : tuple of str
        The alternatives, and remarks, in words.
    """

    operation: Operation
    confidence: float = 1.0
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmatched:
    """A dropped or added parameter, with parameters of the other side that it could match."""

    name: str
    confidence: float = 1.0
    alternatives: tuple[str, ...] = ()
    note: str = ""


class OperationPlanner:
    """Operations that turn old parameters into new ones according to links.

    Parameters
    ----------
    old, new : sequence of Item
        The parameters.
    links : sequence of Link
        The matches.
    dropped, added : sequence of Unmatched
        The unmatched parameters.
    plain : bool
        Whether to name each parameter on its own, without patterns.
    keeps : bool
        Whether the checkpoint has a place for values that an operation stashes.
    """

    def __init__(
        self,
        old: Sequence[Item],
        new: Sequence[Item],
        links: Sequence[Link],
        dropped: Sequence[Unmatched],
        added: Sequence[Unmatched],
        plain: bool = False,
        keeps: bool = True,
    ) -> None:
        self._new, self._links, self._plain, self._keeps = new, links, plain, keeps
        self._dropped, self._added = dropped, {loss.name: loss for loss in added}
        gone = {loss.name for loss in dropped}
        self._kept = worth_keeping(item for item in old if item.name in gone) if keeps else set()
        self._model = Model(old)
        self._by_old = {link.old[0]: link for link in links if link.kind == "one"}
        self.guesses: list[ProposedOperation] = []
        self.sound = True

    def run(self) -> bool:
        """Collect the operations; return whether they lead to the new parameters."""
        self._drop()
        current = self._rename()
        self._merge(current)
        for stage in (self._turn, self._order, self._add):
            if self.sound:
                stage()
        return self.sound and self._model.is_exactly(self._new)

    @property
    def losses(self) -> list[str]:
        """The values that the operations lose."""
        return self._model.losses

    def _apply(self, operation: Operation, confidence: float = 1.0, alternatives: Iterable[str] = ()) -> None:
        self.sound = self.sound and self._model.apply(operation)
        self.guesses.append(ProposedOperation(operation, confidence, once_each(alternatives)))

    def _selecting(self, wanted: Sequence[str], spare: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(wanted) if self._plain else tuple(selecting(wanted, self._model.names, spare))

    def _drop(self) -> None:
        groups: defaultdict[tuple[float, bool], list[Unmatched]] = defaultdict(list)
        for loss in self._dropped:
            groups[loss.confidence, loss.name in self._kept].append(loss)
        for (confidence, keep), losses in sorted(groups.items(), reverse=True):
            words = [f"{loss.name} may now be {' or '.join(loss.alternatives)}" for loss in losses if loss.alternatives]
            words += [f"{loss.name}: {loss.note}" for loss in losses if loss.note]
            self._apply(Drop(self._selecting([loss.name for loss in losses]), keep), confidence, words)

    def _rename(self) -> dict[str, str]:
        """Rename; return the current names by the old names."""
        targets: dict[str, str | None] = {}
        for name in self._model.names:
            link = self._by_old.get(name)
            targets[name] = None if link is None else link.new[0]
        if self._plain:
            return self._rename_plainly(targets)
        done, current = renamed(targets)
        for operation, finished in done:
            links = [self._by_old[name] for name in finished if name in self._by_old]
            sure = min((link.confidence for link in links), default=1.0)
            self._apply(operation, sure, (word for link in links for word in doubts(link)))
        return current

    def _rename_plainly(self, targets: Mapping[str, str | None]) -> dict[str, str]:
        """Rename one by one, via temporary names."""
        taken = {*targets, *(target for target in targets.values() if target), *(item.name for item in self._new)}
        prefix = "_"
        while any(name.startswith(prefix) for name in taken):
            prefix += "_"
        moving = [name for name, target in targets.items() if target != name]
        current = {name: name for name in targets} | {name: f"{prefix}{at}" for at, name in enumerate(moving)}
        for name in moving:
            self._apply(Rename(name, current[name]))
        for name in moving:
            link = self._by_old.get(name)
            if link is not None:
                self._apply(Rename(current[name], link.new[0]), link.confidence, doubts(link))
                current[name] = link.new[0]
        return current

    def _merge(self, current: Mapping[str, str]) -> None:
        links = [link for link in self._links if link.kind != "one"]
        for operation, group in merges(links, current, self._model.table, self._plain):
            sure = min(link.confidence for link in group)
            self._apply(operation, sure, (word for link in group for word in doubts(link)))

    def _turn(self) -> None:
        steps: dict[Step, list[str]] = {}
        by_new: dict[str, Link] = {}
        for link in self._links:
            for name in link.new:
                by_new[name] = link
                for kind, arg in link.steps:
                    steps.setdefault((kind, tuple(arg) if kind != "cast" else arg), []).append(name)
        ways: Mapping[str, Callable[[Mapping[object, list[str]]], Iterable[tuple[Operation, list[str]]]]] = {
            "crop": self._crops,
            "pad": self._pads,
            "permute": self._permutes,
            "reshape": self._reshapes,
            "cast": self._casts,
        }
        for kind, way in ways.items():
            for operation, names in list(way({arg: names for (each, arg), names in steps.items() if each == kind})):
                links = [by_new[name] for name in names]
                words = [word for link in links if link.old == link.new or link.note for word in doubts(link)]
                self._apply(operation, min(link.confidence for link in links), words)

    def _pads(self, steps: Mapping[object, list[str]]) -> Iterable[tuple[Operation, list[str]]]:
        for arg, names in steps.items():
            dim, size, at = arg if isinstance(arg, tuple) else (0, 0, None)
            yield Pad(self._selecting(names), size, dim, at), names

    def _crops(self, steps: Mapping[object, list[str]]) -> Iterable[tuple[Operation, list[str]]]:
        for arg, names in steps.items():
            dim, size, at = arg if isinstance(arg, tuple) else (0, 0, None)
            yield Crop(self._selecting(names), size, dim, at, self._keeps), names

    def _permutes(self, steps: Mapping[object, list[str]]) -> Iterable[tuple[Operation, list[str]]]:
        for order, names in steps.items():
            dims = tuple(order) if isinstance(order, tuple) else ()
            moved = [dim for dim, at in enumerate(dims) if dim != at]
            keys = self._selecting(names)
            if len(moved) == 2:
                yield Transpose(keys, moved[0], moved[1]), names
            else:
                yield Permute(keys, dims), names

    def _reshapes(self, steps: Mapping[object, list[str]]) -> Iterable[tuple[Operation, list[str]]]:
        """Yield reshapes; shapes that differ in one size only share an operation."""
        left = {shape: names for shape, names in steps.items() if isinstance(shape, tuple)}
        while left:
            alike: defaultdict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
            for shape in left:
                alike[shape].append(shape)
                for at in range(len(shape)):
                    if 0 not in shape:
                        alike[(*shape[:at], -1, *shape[at + 1 :])].append(shape)
            best = max(alike, key=lambda shape: (len(alike[shape]), -1 not in shape))
            names = [name for shape in alike[best] for name in left.pop(shape)]
            yield Reshape(self._selecting(names), best), names

    def _casts(self, steps: Mapping[object, list[str]]) -> Iterable[tuple[Operation, list[str]]]:
        for dtype, names in steps.items():
            dtypes = {name: self._model.table[name][1] for name in self._model.names}
            casting = [name for name in names if is_floating(dtypes[name]) and is_floating(str(dtype))]
            others = [name for name in names if name not in set(casting)]
            # `*` skips tensors that are not floating point, and a cast skips tensors that have the dtype already.
            spare = [name for name, each in dtypes.items() if each == dtype or not is_floating(each)]
            for some, beside in ((casting, spare), (others, ())):
                keys = self._selecting(some, beside) if some else ()
                exact = beside and all("*" in key for key in keys)
                if some:
                    yield Cast(keys if exact else self._without_stars(some), str(dtype)), some

    def _without_stars(self, names: Sequence[str]) -> tuple[str, ...]:
        keys = self._selecting(names)
        return tuple(names) if any("*" in key for key in keys) and not is_floating(self._form(names[0])) else keys

    def _form(self, name: str) -> str:
        form: tuple[tuple[int, ...], str] = self._model.table[name]
        return form[1]

    def _order(self) -> None:
        names = self._model.names
        there = set(names)
        wanted = [item.name for item in self._new if item.name in there]
        if set(wanted) != there:
            self.sound = False
            return
        for operation in reorders(names, wanted, self._plain):
            self._apply(operation)

    def _add(self) -> None:
        for operation, names in Adding(self._model.names, self._new, self._plain).run():
            losses = [self._added[name] for name in names]
            words = [
                f"{loss.name} may have been {' or '.join(loss.alternatives)}" for loss in losses if loss.alternatives
            ]
            words += [f"{loss.name}: {loss.note}" for loss in losses if loss.note]
            self._apply(operation, min(loss.confidence for loss in losses), words)


_Texts = tuple[tuple[str, ...], tuple[str, ...]]
"""Patterns of the sources, and of the targets."""


def merges(
    links: Sequence[Link], current: Mapping[str, str], table: Mapping[str, object], plain: bool
) -> Iterator[tuple[Operation, list[Link]]]:
    """Yield the operations that join or split, each with its links.

    Parameters
    ----------
    links : sequence of Link
        The matches.
    current : mapping of str to str
        The current names by the old names.
    table : mapping
        The names of all parameters.
    plain : bool
        Whether each link gets an operation of its own.
    """
    groups: defaultdict[tuple[_Texts, str, int, tuple[int, ...]], list[Link]] = defaultdict(list)
    for link in links:
        sources = tuple(current[name] for name in link.old)
        texts = (sources, link.new) if plain else _counting(link, sources) or _opened(sources, link.new)
        groups[texts, link.kind, link.dim, _sizes(link)].append(link)
    for (texts, kind, dim, sizes), group in groups.items():
        rows = [tuple(current[name] for name in link.old) for link in group]
        if _selects(texts[0], rows, table):
            yield _operation(texts, kind, dim, sizes), group
        else:
            for link, names in zip(group, rows, strict=True):
                yield _operation((names, link.new), kind, dim, sizes), [link]


def _sizes(link: Link) -> tuple[int, ...]:
    return link.sizes if link.kind in ("cat", "narrow") and len(set(link.sizes)) > 1 else ()


def _operation(texts: _Texts, kind: str, dim: int, sizes: tuple[int, ...]) -> Operation:
    sources, targets = texts
    if kind == "cat":
        return Fuse(sources, targets[0], dim, sizes if len(sizes) == len(sources) else None)
    if kind == "stack":
        return Stack(sources, targets[0], dim)
    if kind == "select":
        return Unstack(sources[0], targets, dim)
    return Split(sources[0], targets, dim, sizes or None)


def _opened(sources: Sequence[str], targets: Sequence[str]) -> _Texts:
    """Return patterns with placeholders for the leading numbers that all names share."""
    same = shared_numbers((*sources, *targets))
    opened = [with_places(name, same) for name in (*sources, *targets)]
    return tuple(opened[: len(sources)]), tuple(opened[len(sources) :])


def _counting(link: Link, sources: Sequence[str]) -> _Texts | None:
    """Return patterns with a placeholder that counts the parts; None if the names do not allow that."""
    joining = link.kind in ("cat", "stack")
    if link.kind == "narrow":
        return None
    parts, whole = (sources, link.new[0]) if joining else (link.new, sources[0])
    found = [template_of(name) for name in parts]
    own = template_of(whole)[1]
    if len(parts) < 2 or len({template for template, _ in found}) > 1 or len(found[0][1]) != len(own) + 1:
        return None
    at = next((at for at in range(len(own) + 1) if found[0][1][at] != found[1][1][at]), 0)
    if any((*numbers[:at], *numbers[at + 1 :]) != own for _, numbers in found) or len(own) >= len(PLACES):
        return None
    counts = [numbers[at] for _, numbers in found]
    if counts != sorted(counts, key=int) or (not joining and counts != [str(count) for count in range(len(counts))]):
        return None
    part = with_places(parts[0], len(own) + 1)
    one = with_places(whole, len(own), PLACES[:at] + PLACES[at + 1 :])
    return ((part,), (one,)) if joining else ((one,), (part,))


def _selects(texts: Sequence[str], sources: Sequence[Sequence[str]], table: Mapping[str, object]) -> bool:
    """Return whether patterns select these names and no others."""
    if len(texts) == 1:
        selected = {name for name, _ in pattern(texts[0]).among(table)}
        return selected == {name for names in sources for name in names}
    return all(
        {name for name, _ in pattern(text).among(table)} == set(names)
        for text, names in zip(texts, zip(*sources, strict=True), strict=True)
    )
