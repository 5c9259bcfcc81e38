"""Words for the findings, in the printed table and in comments of a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Link

_MOST = 3
_GUESS = " is a guess; "
_STEPS = {"permute": "transposed", "reshape": "reshaped", "cast": "cast", "pad": "padded", "crop": "cropped"}
_KINDS = {"cat": "fused", "narrow": "split", "stack": "stacked", "select": "unstacked"}


def kind_of(link: Link, moved: bool) -> str:
    """Return the kind of a link, as tables show it."""
    if link.kind != "one":
        return _KINDS[link.kind]
    if link.steps:
        return _STEPS[link.steps[0][0]]
    if link.old != link.new:
        return "renamed"
    if link.changed:
        return "changed"
    return "moved" if moved else "same"


def detail_of(link: Link, old: Mapping[str, Item], new: Mapping[str, Item]) -> str:
    """Return the shapes and dtypes that differ, and whether the values do."""
    before, after = [old[name] for name in link.old], [new[name] for name in link.new]
    found = []
    if link.kind != "one" or before[0].shape != after[0].shape:
        found.append(f"{_shapes(before)} -> {_shapes(after)}")
    if before[0].dtype != after[0].dtype:
        found.append(f"{before[0].dtype} -> {after[0].dtype}")
    if link.changed:
        found.append("other values")
    return ", ".join(found)


def _shapes(items: Sequence[Item]) -> str:
    shapes = [str(list(item.shape)) for item in items]
    if len(shapes) > 2 and len(set(shapes)) == 1:
        return f"{len(shapes)} x {shapes[0]}"
    return " + ".join(shapes)


def doubts(link: Link) -> tuple[str, ...]:
    """Return the alternatives to a link, and remarks on it, in words."""
    found = []
    for name in link.alternatives[:_MOST]:
        other = f"keeping {name}" if link.old == (name,) else name
        found.append(f"{' and '.join(link.old)} -> {' and '.join(link.new)}{_GUESS}{other} is as likely")
    if link.note:
        found.append(f"{link.new[0] if len(link.new) == 1 else link.old[0]}: {link.note}")
    if link.changed and (link.old != link.new or link.steps):
        found.append(f"{link.new[0]}: its values differ from those of {link.old[0]}, and no operation explains that")
    return tuple(found)


def together(words: Iterable[str]) -> tuple[str, ...]:
    """Return remarks without repetitions, the first few and a count of the rest."""
    found = list(dict.fromkeys(words))
    return (*found[:_MOST], f"and {len(found) - _MOST} more like these") if len(found) > _MOST else tuple(found)


def once_each(remarks: Iterable[str]) -> tuple[str, ...]:
    """Return remarks as `together` does; those that say the same of several parameters become one.

    >>> once_each(["h.0.w: a guess", "h.1.w: a guess", "b: it grew"])
    ('h.0.w: a guess (and 1 more)', 'b: it grew')
    """
    about: dict[str, list[str]] = {}
    for remark in dict.fromkeys(remarks):
        key = _GUESS if _GUESS in remark else remark.partition(": ")[2] or remark
        about.setdefault(key, []).append(remark)
    return together(f"{each[0]} (and {len(each) - 1} more)" if each[1:] else each[0] for each in about.values())
