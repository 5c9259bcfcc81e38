"""Explain the difference between two checkpoints: matched parameters, and operations that lead from old to new."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.match import matched
from anemoi_ckpt_migrate.autogenerate.match_by_structure import turned_alike, with_adapters
from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Link
from anemoi_ckpt_migrate.autogenerate.plan_operations import OperationPlanner, ProposedOperation, Unmatched
from anemoi_ckpt_migrate.autogenerate.simulate import leads_to, losses
from anemoi_ckpt_migrate.autogenerate.tree_changes import ItemChange, TreeExplanation
from anemoi_ckpt_migrate.autogenerate.wording import detail_of, kind_of
from anemoi_ckpt_migrate.op import Fuse, Permute, RenameRegex, Reshape, Split, Stack, Transpose, Unstack
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

__all__ = ["Change", "Explanation", "ProposedOperation", "explain"]

_MOST = 5
_IN_ORDER = (Fuse, Permute, Reshape, Split, Stack, Transpose, Unstack)  # shapes do not tell which of two comes first


@dataclass(frozen=True)
class Change:
    """One change to parameters.

    Attributes
    ----------
    kind : str
        ``same``, ``renamed``, ``moved``, ``reshaped``, ``transposed``, ``cast``, ``padded``, ``cropped``, ``fused``,
        ``split``, ``stacked``, ``unstacked``, ``added``, ``dropped`` or ``changed``.
    old, new : tuple of str
        The old and the new names.
    detail : str
        The shapes and dtypes that differ.
    confidence : float
        1 if content proves the change, or if there is no alternative.
    alternatives : tuple of str
        Other names that could be meant instead.
    """

    kind: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    detail: str = ""
    confidence: float = 1.0
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The difference between two checkpoints.

    Attributes
    ----------
    changes : tuple of Change
        The changes. Each old and each new name is in exactly one of them.
    operations : tuple of ProposedOperation
        Operations that, applied in order, turn the old names, shapes, dtypes and order into the new ones; and
        operations that make the changes beside the parameters.
    related : float
        The share of the new elements that come from the old checkpoint.
    losses : tuple of str
        The values that the operations lose.
    items : tuple of ItemChange
        The changes beside the parameters.
    """

    changes: tuple[Change, ...]
    operations: tuple[ProposedOperation, ...]
    related: float = 1.0
    losses: tuple[str, ...] = ()
    items: tuple[ItemChange, ...] = ()

    def with_tree(self, found: TreeExplanation) -> Explanation:
        """Return it with the differences beside the parameters; exact operations stay before guesses."""
        operations = (*self.operations, *found.operations)
        unsure = [guess.confidence < 1 for guess in self.operations]
        if unsure == sorted(unsure):
            operations = tuple(sorted(operations, key=lambda guess: guess.confidence < 1))
        return replace(self, operations=operations, items=self.items + found.changes)

    @property
    def names(self) -> dict[str, str]:
        """The new names of parameters that are in both checkpoints, by the old ones; not of joined or split ones."""
        pairs = [change for change in self.changes if len(change.old) == len(change.new) == 1]
        return {change.old[0]: change.new[0] for change in pairs}


def explain(
    old: Sequence[Item],
    new: Sequence[Item],
    contents: Contents | None = None,
    ordered: bool = True,
    keeps: bool = True,
) -> Explanation:
    """Explain the difference between the parameters of two checkpoints.

    Parameters
    ----------
    old, new : sequence of Item
        The parameters, in order.
    contents : Contents, optional
        Answers questions about content. Pass it if both checkpoints have weights.
    ordered : bool
        Whether the order of the parameters counts. It does not in formats that store tensors by name.
    keeps : bool
        Whether the old checkpoint has a place for values that an operation stashes.

    Raises
    ------
    BadOperation
        A new parameter has a dtype that `Add` does not support.
    """
    olds, news = {item.name: item for item in old}, {item.name: item for item in new}
    board = matched(old, new, contents)
    links = with_adapters(turned_alike(board.links, olds, news, contents), olds, news, board.old)
    if not ordered:
        new = _in_old_order(olds, new, links)
        news = {item.name: item for item in new}
    dropped, added = _losses(list(board.old.values()), list(board.new.values()), board.strict, olds, news)
    changes = _changes(olds, news, links, dropped, added)
    sizes = sum(item.size for item in new)
    missing = sum(news[loss.name].size for loss in added) + sum(_grown(link, olds, news) for link in links)
    related = 1 - missing / sizes if sizes else float(not new or not added)
    told = links if board.strict else [replace(link, changed=False) for link in links]  # other training, other values
    planned, lost = _operations(old, new, told, dropped, added, keeps)
    operations = _exact_first(planned, old, new)
    if lost is None or operations != tuple(planned):
        lost = losses((guess.operation for guess in operations), old)
    return Explanation(tuple(changes), operations, related, tuple(lost))


def _in_old_order(olds: Mapping[str, Item], new: Sequence[Item], links: Iterable[Link]) -> list[Item]:
    """Return new parameters in the order of the old ones that they come from; added ones at the end."""
    first = {name: at for at, name in enumerate(olds)}
    place = {name: min(first[old] for old in link.old) for link in links for name in link.new}
    return sorted(new, key=lambda item: place.get(item.name, len(first)))


def _grown(link: Link, olds: Mapping[str, Item], news: Mapping[str, Item]) -> int:
    """Return the number of new elements of a parameter that was padded; 0 for any other."""
    if not any(kind == "pad" for kind, _ in link.steps):
        return 0
    old, new = olds[link.old[0]], news[link.new[0]]
    return new.size - math.prod(map(min, old.shape, new.shape))


def _losses(
    gone: Sequence[Item], come: Sequence[Item], strict: bool, olds: Mapping[str, Item], news: Mapping[str, Item]
) -> tuple[list[Unmatched], list[Unmatched]]:
    """Return the unmatched parameters of both sides, each with the other side's parameters that it could match."""
    alike: defaultdict[object, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((gone, come)):
        for item in items:
            alike[_form(item, strict)][side].append(item.name)
    before, after = _forms(olds.values()), _forms(news.values())
    digests = {item.digest: item.name for item in olds.values() if item.digest is not None}
    if strict:  # content has decided already
        before, after = set(), set()
    dropped = [_blocks_alike(_loss(item, alike[_form(item, strict)][1]), item, after) for item in gone]
    added = []
    for item in come:
        loss = _blocks_alike(_loss(item, alike[_form(item, strict)][0]), item, before)
        if item.name in olds and olds[item.name].shape != item.shape:
            loss = replace(loss, note=f"its shape was {list(olds[item.name].shape)}; its values are lost")
        elif item.digest in digests:
            loss = replace(loss, note=f"it has the values of {digests[item.digest]}")
        added.append(loss)
    dropped, added = _of_parts(dropped, gone, come), _of_parts(added, come, gone)
    return _as_others(dropped), _as_others(added)


def _as_others(losses: Sequence[Unmatched]) -> list[Unmatched]:
    """Lower full confidence to the lowest confidence among parameters whose names differ only by numbers."""
    least: dict[str, Unmatched] = {}
    for loss in losses:
        least[_blocks(loss.name)] = min(loss, least.get(_blocks(loss.name), loss), key=lambda each: each.confidence)
    found = []
    for loss in losses:
        doubtful = least[_blocks(loss.name)]
        if loss.confidence == 1 and doubtful.confidence < 1:
            loss = replace(loss, confidence=doubtful.confidence, note=loss.note or f"as with {doubtful.name}")
        found.append(loss)
    return found


def _of_parts(losses: Sequence[Unmatched], items: Sequence[Item], others: Sequence[Item]) -> list[Unmatched]:
    """Add alternatives for a possible fuse or split: neighbours on the other side with the same number of elements."""
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    families: defaultdict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in others:
        for family in _families(item.name):
            families[family].append(item)
    for item in items:
        for family in _families(item.name):
            sums[family] += item.size
    found = []
    for loss, item in zip(losses, items, strict=True):
        same = [
            families[family]
            for family in _families(item.name)
            if family in families and sums[family] == sum(other.size for other in families[family])
        ]
        near = same[0] if same else []
        if near and not loss.alternatives:
            names = tuple(other.name for other in near[:_MOST])
            note = f"it has as many elements as {', '.join(names)}"
            loss = replace(loss, confidence=min(loss.confidence, 0.6), alternatives=names, note=loss.note or note)
        found.append(loss)
    return found


def _forms(items: Iterable[Item]) -> set[tuple[str, tuple[int, ...]]]:
    """Return the name without block numbers, and the shape, of each parameter in a numbered block."""
    return {(_blocks(item.name), item.shape) for item in items if _blocks(item.name) != item.name}


def _families(name: str) -> list[tuple[str, str]]:
    """Return two keys that neighbours share: the enclosing module or the module itself, with the name's last word."""
    module, _, leaf = name.rpartition(".")
    word = leaf.rpartition("_")[2]
    return [(module.rpartition(".")[0], word), (module, word)]


def _blocks_alike(loss: Unmatched, item: Item, others: Container[tuple[str, tuple[int, ...]]]) -> Unmatched:
    """Lower the confidence if the other side has the same parameter in some block with the same shape."""
    if (_blocks(item.name), item.shape) not in others:
        return loss
    note = "it may have been another of these blocks; only the values could show that"
    return replace(loss, note=note, confidence=min(loss.confidence, 0.8))


def _form(item: Item, strict: bool) -> object:
    """Return the key of interchangeable parameters: shape and dtype, and the name if content decides matches."""
    return (item.name if strict and item.digest is not None else "", item.shape, item.dtype)


def _loss(item: Item, others: Sequence[str]) -> Unmatched:
    sure = round(1 / (1 + min(len(others), _MOST)), 2) if others else 1.0
    return Unmatched(item.name, sure, tuple(others[:_MOST]))


def _blocks(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "{}", name)


def _changes(
    olds: Mapping[str, Item],
    news: Mapping[str, Item],
    links: Sequence[Link],
    dropped: Sequence[Unmatched],
    added: Sequence[Unmatched],
) -> Iterator[Change]:
    """Yield the change of each old parameter, in the old order, then the added parameters."""
    moved = _moved(olds, news, links)
    by_old = {link.old[0]: link for link in links}
    losses = {loss.name: loss for loss in dropped}
    for name in olds:
        if name in losses:
            loss = losses[name]
            yield Change("dropped", (name,), (), str(list(olds[name].shape)), loss.confidence, loss.alternatives)
        elif name in by_old:
            link = by_old[name]
            kind, detail = kind_of(link, name in moved), detail_of(link, olds, news)
            yield Change(kind, link.old, link.new, detail, link.confidence, link.alternatives)
    for loss in added:
        detail = str(list(news[loss.name].shape))
        yield Change("added", (), (loss.name,), detail, loss.confidence, loss.alternatives)


def _moved(olds: Mapping[str, Item], news: Mapping[str, Item], links: Iterable[Link]) -> set[str]:
    """Return the smallest set of parameters that have to move to get the new order."""
    place = {name: at for at, name in enumerate(news)}
    first = {name: at for at, name in enumerate(olds)}
    pairs = sorted((first[link.old[0]], place[link.new[0]], link.old[0]) for link in links if link.kind == "one")
    ends: list[int] = []
    at_end: list[int] = []
    before: list[int | None] = []
    for at, (_, target, _) in enumerate(pairs):
        length = bisect_left(ends, target)
        before.append(at_end[length - 1] if length else None)
        if length == len(ends):
            ends.append(target)
            at_end.append(at)
        else:
            ends[length], at_end[length] = target, at
    stays: set[str] = set()
    last = at_end[-1] if at_end else None
    while last is not None:
        stays.add(pairs[last][2])
        last = before[last]
    return {name for _, _, name in pairs if name not in stays}


def _operations(
    old: Sequence[Item],
    new: Sequence[Item],
    links: Sequence[Link],
    dropped: Sequence[Unmatched],
    added: Sequence[Unmatched],
    keeps: bool,
) -> tuple[list[ProposedOperation], list[str] | None]:
    """Return operations that lead to the new parameters, and the values that they lose, if the plan tells.

    Try patterns first, then one operation per parameter. If neither leads there, drop and add everything.
    """
    safe, before, after = _sanitised(old, new)
    if safe:
        old = [replace(item, name=safe.get(item.name, item.name)) for item in old]
        new = [replace(item, name=safe.get(item.name, item.name)) for item in new]
        links = [
            replace(
                link,
                old=tuple(safe.get(name, name) for name in link.old),
                new=tuple(safe.get(name, name) for name in link.new),
            )
            for link in links
        ]
        dropped = [replace(loss, name=safe.get(loss.name, loss.name)) for loss in dropped]
        added = [replace(loss, name=safe.get(loss.name, loss.name)) for loss in added]
    for plain in (False, True):
        plan = OperationPlanner(old, new, links, dropped, added, plain, keeps)
        if plan.run():
            return [*before, *plan.guesses, *after], None if safe else plan.losses
    everything = [Unmatched(item.name, 0.5) for item in old], [Unmatched(item.name, 0.5) for item in new]
    plan = OperationPlanner(old, new, [], *everything, keeps=keeps)
    plan.run()
    return [*before, *plan.guesses, *after], None


def _exact_first(
    guesses: Sequence[ProposedOperation], old: Sequence[Item], new: Sequence[Item]
) -> tuple[ProposedOperation, ...]:
    """Return operations with the exact ones before the guesses, if they do the same in that order."""
    apart = sorted(guesses, key=lambda guess: guess.confidence < 1)
    if all(one is other for one, other in zip(apart, guesses, strict=True)):
        return tuple(guesses)
    kinds = {guess.confidence < 1 for guess in guesses if isinstance(guess.operation, _IN_ORDER)}
    same = len(kinds) < 2 and leads_to((guess.operation for guess in apart), old, new)
    return tuple(apart if same else guesses)


def _sanitised(
    old: Sequence[Item], new: Sequence[Item]
) -> tuple[dict[str, str], list[ProposedOperation], list[ProposedOperation]]:
    """Replace names that operations would read as patterns.

    Return the substitutes, the renames to apply before the other operations, and those to apply after them.
    """
    names = dict.fromkeys(item.name for item in (*old, *new))
    there, wanted = {item.name for item in old}, {item.name for item in new}
    safe: dict[str, str] = {}
    before, after = [], []
    for name in names:
        if name and not (("*" in name or "{" in name) and pattern(name).open):
            continue
        plain = re.sub(r"[*{}]", "_", name) or "_"
        while plain in names or plain in safe.values():
            plain += "_"
        safe[name] = plain
        if name in there:
            before.append(ProposedOperation(RenameRegex(rf"\A{re.escape(name)}\Z", plain.replace("\\", r"\\"))))
        if name in wanted:
            after.append(ProposedOperation(RenameRegex(rf"\A{re.escape(plain)}\Z", name.replace("\\", r"\\"))))
    return safe, before, after
