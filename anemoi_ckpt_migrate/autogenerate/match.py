"""Match old and new parameters: by content, by name, by the new place of their module, by similarity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.match_by_structure import renumbered
from anemoi_ckpt_migrate.autogenerate.match_families import link_families
from anemoi_ckpt_migrate.autogenerate.match_fused import link_joined
from anemoi_ckpt_migrate.autogenerate.match_resized import link_resized
from anemoi_ckpt_migrate.autogenerate.match_state import Board
from anemoi_ckpt_migrate.autogenerate.name_similarity import Parts, common_end, likeness, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Link
from anemoi_ckpt_migrate.util.dataclass import replace

_MOST_PAIRS = 2500
_ENOUGH = 2
_SAME = 0.3


def matched(old: Sequence[Item], new: Sequence[Item], contents: Contents | None) -> Board:
    """Match old parameters with new ones, best evidence first."""
    board = Board(old, new, contents)
    _link_digests(board)
    board.strict = _is_told_by_content(board, old)
    if board.strict:
        for same_block in (True, False):
            _link_expected(board, list(board.old), board.new, same_block)
    else:
        _link_renumbered(board)
    _link_names(board)
    link_families(board, least=0.85, margin=0.1)
    link_joined(board, familiar=True)
    link_families(board, least=0.85, margin=0.05)
    link_families(board, least=0.35, margin=0.6)  # names without a close rival; they show where others belong
    link_joined(board, familiar=False)
    link_resized(board, smaller=False)
    link_families(board, least=0.6, margin=0.05)
    link_families(board, least=0.35, margin=0.0)
    link_families(board, least=0.35, margin=0.0, one_by_one=True)
    link_resized(board, smaller=True)
    board.links = _assured(board.links)
    _forget_if_unrelated(board, old, new)
    return board


def _link_digests(board: Board) -> None:
    """Match parameters with the same content; names decide between several."""
    olds, news = _by_digest(board.old.values()), _by_digest(board.new.values())
    several = []
    for digest in [digest for digest in olds if digest in news]:
        one, other = olds[digest], news[digest]
        if (
            len(one) == len(other) == 1
            and one[0].size == other[0].size
            and (one[0].size > 1 or one[0].name == other[0].name)
        ):
            how = board.turned(one[0], other[0])
            if how is not None:
                board.pair_turned(one[0], other[0], how, 1.0)
        else:
            several.append(digest)
    for same_block in (True, False):
        for digest in several:
            names = {item.name for item in news[digest]}
            _link_expected(board, [item.name for item in olds[digest]], names, same_block)
    for digest in several:
        names = {item.name for item in news[digest]}
        for item in olds[digest]:
            if item.name in board.old and item.name in board.new and item.name in names:
                board.pair(item.name, item.name)
    for digest in several:
        _link_likeliest(board, olds[digest], news[digest])


def _is_told_by_content(board: Board, old: Sequence[Item]) -> bool:
    """Return whether both sides hold the same weights.

    A few matches are not enough, because a mask or a table of positions is the same after any training.
    """
    sizes = {item.name: item.size for item in old if item.digest is not None}
    found = sum(sizes[name] for link in board.links for name in link.old)
    return found > _SAME * sum(sizes.values())


def _by_digest(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    found: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.digest is not None:
            found[f"{item.digest} {item.dtype}"].append(item)
    return found


def _link_expected(board: Board, olds: Sequence[str], news: Container[str], same_block: bool) -> None:
    """Match parameters that moved along with their module."""
    for name in [name for name in olds if name in board.old]:
        expected = board.modules.expected(name, same_block)
        if expected is None or expected not in board.new or expected not in news:
            continue
        how = board.turned(board.old[name], board.new[expected], loose=True)
        if how is not None:
            board.pair_turned(board.old[name], board.new[expected], how, 1.0)


def _link_likeliest(board: Board, olds: Sequence[Item], news: Sequence[Item]) -> None:
    """Match parameters with equal content by the similarity of their names, and by order if there are too many."""
    left = [item for item in olds if item.name in board.old]
    right = [item for item in news if item.name in board.new]
    if not left or not right or len(left) * len(right) > _MOST_PAIRS:
        for one, other in zip(left, right, strict=False):
            if one.shape == other.shape:
                board.pair(one.name, other.name, 0.5)
        return
    scored = [
        (-likeness(parts_of(one.name), parts_of(other.name)), abs(i - j), i, j)
        for i, one in enumerate(left)
        for j, other in enumerate(right)
        if one.shape == other.shape
    ]
    taken: set[tuple[str, int]] = set()
    for score, _, i, j in sorted(scored):
        if ("old", i) in taken or ("new", j) in taken:
            continue
        rivals = [k for each, _, a, k in scored if a == i and k != j and ("new", k) not in taken and each <= score]
        others = [k for each, _, k, b in scored if b == j and k != i and ("old", k) not in taken and each <= score]
        taken |= {("old", i), ("new", j)}
        names = [right[k].name for k in rivals] + [left[k].name for k in others]
        sure = 1.0 if not names else round(1 / (1 + len(names)), 2)
        if names or -score >= 0.3 or len(scored) == 1:
            board.pair(left[i].name, right[j].name, sure, names)


def _link_renumbered(board: Board) -> None:
    """Match renumbered blocks. Used where content does not decide."""
    for old, (new, others) in renumbered(board.old, board.new).items():
        how = board.turned(board.old[old], board.new[new])
        if how is not None:
            board.pair_turned(board.old[old], board.new[new], how, 0.7, others)


def _link_names(board: Board) -> None:
    """Match parameters that kept their names."""
    for name in [name for name in board.old if name in board.new]:
        how = board.turned(board.old[name], board.new[name], loose=True)
        if how is not None:
            board.pair_turned(board.old[name], board.new[name], how, 1.0)


def _assured(links: Sequence[Link]) -> list[Link]:
    """Raise the confidence of links that others confirm, because more parameters were renamed in the same way."""
    ways = [_way(link) for link in links]
    templates: defaultdict[object, set[Parts]] = defaultdict(set)
    for link, way in zip(links, ways, strict=True):
        templates[way].add(template_of(link.old[0])[0])
    found = []
    for link, way in zip(links, ways, strict=True):
        sure = 1.0 if not link.steps else max(link.confidence, 0.9)
        doubted = link.changed or link.alternatives or link.note
        raised = not doubted and way and sure != link.confidence and len(templates[way]) > _ENOUGH
        found.append(replace(link, confidence=sure) if raised else link)
    return found


def _way(link: Link) -> tuple[Parts, Parts] | None:
    """Return the beginning of a name that changed, old and new; None if there is none, or if numbers changed."""
    (old, numbers), (new, also) = template_of(link.old[0]), template_of(link.new[0])
    same = common_end(old, new)
    if link.kind != "one" or numbers != also or not same:
        return None
    return old[: len(old) - same], new[: len(new) - same]


def _forget_if_unrelated(board: Board, old: Sequence[Item], new: Sequence[Item]) -> None:
    """Discard guessed links if nearly nothing matches, because the models are then unrelated."""
    matching = sum(len(link.new) for link in board.links)
    firm = [link for link in board.links if link.confidence >= 0.9]
    if matching > 0.15 * len(new) or not new or len(firm) > 0.05 * len(new):
        return
    board.links = firm
    board.old = {item.name: item for item in old}
    board.new = {item.name: item for item in new}
    for link in firm:
        for name in link.old:
            del board.old[name]
        for name in link.new:
            del board.new[name]
