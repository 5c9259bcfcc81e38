"""What is only seen from what became of others: square matrices that were turned, adapters that were merged."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from anemoi_ckpt_migrate.differences.items import Contents, Item, Link
from anemoi_ckpt_migrate.differences.names import NUMBER, Parts, template_of

_TURNED = ("permute", (1, 0))
_ADAPTER = re.compile(r"(.*)\.lora_\w+(?:\.|$)")
_MERGED = "lora_A and lora_B were merged into it, it seems; their product is not added to its values by an operation"
_NOTE = "it is square, and taken to be transposed as what is beside it is"


def turned_alike(
    links: list[Link], old: Mapping[str, Item], new: Mapping[str, Item], contents: Contents | None
) -> list[Link]:
    """Return links in which square matrices are transposed where all others of the same blocks are.

    Parameters
    ----------
    links : list of Link
        What became of what.
    old, new : mapping of str to Item
        All parameters.
    contents : Contents or None
        If there is any, it has been asked already.
    """
    turned: dict[Parts | None, bool] = {}
    for link in links:
        block, form = _block(link), new[link.new[0]].shape
        if link.kind == "one" and block is not None and len(form) == 2 and form[0] != form[1]:
            turned[block] = turned.get(block, True) and _TURNED in link.steps
    return [_turned(link) if turned.get(_block(link)) and _open(link, old, new, contents) else link for link in links]


def with_adapters(
    links: list[Link], old: Mapping[str, Item], new: Mapping[str, Item], dropped: Iterable[str]
) -> list[Link]:
    """Return links that say where a product of adapters may have been added to the values."""
    adapted = {found[1] for name in dropped if (found := _ADAPTER.match(name))}
    return [
        replace(link, note=_MERGED, confidence=min(link.confidence, 0.9), changed=False)
        if link.kind == "one" and _adapted(link.old[0], adapted) and not _is_same(old[link.old[0]], new[link.new[0]])
        else link
        for link in links
    ]


def _adapted(name: str, adapted: Collection[str]) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.removesuffix(".base_layer") in adapted


def _is_same(old: Item, new: Item) -> bool:
    return old.digest is not None and old.digest == new.digest


def _block(link: Link) -> Parts | None:
    """Return in which numbered block it is; None outside of all."""
    template, numbers = template_of(link.old[0])
    return template[: template.index(NUMBER)] if numbers else None


def _open(link: Link, old: Mapping[str, Item], new: Mapping[str, Item], contents: Contents | None) -> bool:
    """Tell whether it is not known, and cannot be seen, whether something was transposed."""
    before, after = [old[name] for name in link.old], [new[name] for name in link.new]
    known = all(item.digest is not None for item in (*before, *after))
    if link.steps or (known and (contents is not None or before[0].digest == after[0].digest)):
        return False
    parts = before if link.kind == "cat" else after
    return link.kind in ("one", "cat", "narrow") and all(
        len(item.shape) == 2 and item.shape[0] == item.shape[1] for item in parts
    )


def _turned(link: Link) -> Link:
    dim = 1 - link.dim if link.kind == "cat" else link.dim
    return replace(link, dim=dim, steps=(_TURNED,), confidence=min(link.confidence, 0.7), note=link.note or _NOTE)
