"""The record as an attribute of the metadata: dicts, lists, texts and numbers, which torch ignores.

A stash holds values of the tree. Their content stays in the files: the attribute has their places, as the map of files
had them. A container is tagged with its kind, so that nothing else looks like a place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anemoi_ckpt_migrate.storage.distributed import chunks as algebra
from anemoi_ckpt_migrate.storage.distributed.closed_pickle import Size
from anemoi_ckpt_migrate.storage.distributed.layout import Item, TensorItem, ValueItem
from anemoi_ckpt_migrate.storage.distributed.metadata import (
    Chunk,
    Entry,
    Place,
    TensorEntry,
    ValueEntry,
    is_inside,
    properties_from,
    properties_to_data,
)

FORMAT = 1
_CONSTANTS = (str, int, float, bool, type(None))
_LARGEST = 1 << 50
_DEEPEST = 100  # nesting of a stashed value; each level takes more than two in the attribute, where 200 can be written


def to_attribute(record: Any, entry: Callable[[Item], Entry]) -> dict[str, Any]:
    """Return the attribute for a record whose stash has items in place of values.

    Parameters
    ----------
    record : dict
        The record.
    entry : callable
        Returns the chunks or the place of an item.
    """
    values = record.get("stash", {}).items()
    stash = {revision: [_encoded(each, entry) for each in own] for revision, own in values}
    rest = {key: value for key, value in record.items() if key != "stash"}
    return {"format": FORMAT, "record": rest, **({"stash": stash} if stash else {})}


def from_attribute(data: Any) -> Any:
    """Return the record in an attribute, with items in place of stashed values.

    The keys of stashed tensors are ``+0``, ``+1`` and so on.

    Raises
    ------
    ValueError
        The attribute is damaged.
    """
    if type(data) is not dict or data.get("format") != FORMAT or type(data.get("record")) is not dict:
        raise ValueError("the attribute is no record of a known format")
    reading = _Reading()
    values = _dict(data.get("stash", {})).items()
    found = {_text(revision): [reading.decoded(each, 0) for each in _list(own)] for revision, own in values}
    return {**data["record"], **({"stash": found} if found else {})}


def _encoded(value: Any, entry: Callable[[Item], Entry]) -> Any:
    if isinstance(value, (TensorItem, ValueItem)):
        found = entry(value)
        if isinstance(found, ValueEntry):
            return {"value": _place_to_data(found.place)}
        chunks = [[list(each.offsets), list(each.sizes), _place_to_data(each.place)] for each in found.chunks]
        return {
            "tensor": {"properties": properties_to_data(found.properties), "shape": list(found.shape), "chunks": chunks}
        }
    if type(value) is dict:
        return {"dict": [[key, _encoded(each, entry)] for key, each in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encoded(each, entry) for each in value]}
    return value


def _place_to_data(place: Place) -> dict[str, Any]:
    return {"file": place.file, "start": place.start, "length": place.length, "transforms": list(place.transforms)}


class _Reading:
    """Reads encoded values. Everything is checked, because anyone can write them."""

    def __init__(self) -> None:
        self._count = 0

    def decoded(self, data: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("a stash is nested too deeply")
        if type(data) in _CONSTANTS:
            return data
        if type(data) is not dict or len(data) != 1:
            raise ValueError("a stashed value has no kind")
        ((kind, held),) = data.items()
        if kind == "dict":
            pairs = [_list(each) for each in _list(held)]
            if not all(len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs):
                raise ValueError("a stashed dict is damaged")
            return {key: self.decoded(each, depth + 1) for key, each in pairs}
        if kind in ("list", "tuple"):
            items = [self.decoded(each, depth + 1) for each in _list(held)]
            return items if kind == "list" else tuple(items)
        if kind == "value":
            return ValueItem((), None, ValueEntry(_place(held)))
        if kind == "tensor":
            return self._tensor(_dict(held))
        raise ValueError(f"a stashed value is of an unknown kind: {kind!s:.100}")

    def _tensor(self, held: Mapping[str, Any]) -> TensorItem:
        properties, shape = properties_from(_dict(held.get("properties"))), _numbers(held.get("shape"))
        chunks = []
        for each in _list(held.get("chunks")):
            offsets, sizes, place = _list(each)
            chunks.append(Chunk(_numbers(offsets), _numbers(sizes), _place(place)))
        if not algebra.covers(shape, {(each.offsets, each.sizes): None for each in chunks}):
            raise ValueError("the chunks of a stashed tensor overlap, or leave a gap")
        entry = TensorEntry(properties, shape, tuple(chunks))
        self._count += 1
        return TensorItem((), entry.dtype, shape, f"+{self._count - 1}", 0, entry)


def _place(data: Any) -> Place:
    fields = _dict(data)
    file, transforms = _text(fields.get("file")), _list(fields.get("transforms"))
    (start, length) = _numbers([fields.get("start"), fields.get("length")])
    if not is_inside(file):
        raise ValueError("the file of a stashed value is not in the folder")
    return Place(file, start, length, {"transform_descriptors": list(map(_text, transforms))} if transforms else {})


def _numbers(data: Any) -> Size:
    if not all(type(each) is int and 0 <= each <= _LARGEST for each in _list(data)):
        raise ValueError("a number of a stashed value is impossible")
    return Size(data)


def _list(data: Any) -> list[Any]:
    if type(data) is not list:
        raise ValueError("a part of a stash is not a list")
    return data


def _dict(data: Any) -> dict[str, Any]:
    if type(data) is not dict:
        raise ValueError("a part of a stash is not a dict")
    return data


def _text(data: Any) -> str:
    if type(data) is not str:
        raise ValueError("a part of a stash is not text")
    return data
