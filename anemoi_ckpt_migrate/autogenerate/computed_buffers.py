"""Buffers that models compute again when they are built: masks, positions, tables of frequencies, counters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item

_COMPUTED = re.compile(
    r"""(inv_freq | freqs_c(is|os) | freqs_sin | (cos|sin)_cached? | (rotary|rope)_?(emb|freqs|table|cos|sin)?
    | (\w+_)?masks? | masked_bias | (\w+_)?mask_cache | (position|token_type|pos)_ids
    | relative_(position|coords)_(index|table)
    | num_batches_tracked)""",
    re.VERBOSE,
)
_INTEGERS = ("bool", "uint8")
_SMALL = 1 << 20  # bytes, all together: what a record that is text can hold


def is_computed(item: Item) -> bool:
    """Return whether a tensor is a buffer that can be computed again, as far as its name and dtype tell.

    >>> is_computed(Item("layers.0.rotary_emb.inv_freq", (32,), "float32"))
    True
    """
    leaf = item.name.rpartition(".")[2]
    causal = leaf == "bias" and item.dtype in _INTEGERS and len(item.shape) > 1  # GPT-2 calls its causal mask so
    return causal or _COMPUTED.fullmatch(leaf) is not None


def worth_keeping(items: Iterable[Item]) -> set[str]:
    """Return the names of computed buffers among dropped tensors if all of them together are small; else none."""
    found = [item for item in items if is_computed(item)]
    return {item.name for item in found} if _bytes(found) <= _SMALL else set()


def _bytes(items: Sequence[Item]) -> int:
    bits = {item.dtype: re.search(r"\d+", item.dtype) for item in items}
    return sum(item.size * (int(found[0]) if (found := bits[item.dtype]) else 8) for item in items) // 8
