"""What is put aside for the way back: such that nothing of it is imported when the checkpoint is loaded.

An object is put aside because its class is gone: left as it is, it would keep `torch.load` from loading the file, as it
did before. So what names classes is put aside as a pickle of its own; beside it stand tensors, and what the checkpoint
still has: that stays shared.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.tree.class_names import names_in, reachable

PICKLE, BESIDE = "pickle of what is put aside", "beside"


def packed(values: list[Any], others: Iterable[Any]) -> list[Any]:
    """Return what stands in the record for what a revision puts aside.

    Parameters
    ----------
    values : list of object
        What came from the tree of a checkpoint.
    others : iterable of object
        What else the checkpoint holds: its tree, and what other revisions put aside.
    """
    if not names_in(values) and not _is_packed(values):
        return values
    stream, beside = io.BytesIO(), list[Any]()
    _Packer(stream, beside, _shared(others)).dump(values)
    return [{PICKLE: stream.getvalue(), BESIDE: beside}]


def unpacked(values: list[Any]) -> list[Any]:
    """Return what a revision put aside.

    Raises
    ------
    DamagedRecord
        It cannot be read.
    """
    if not _is_packed(values):
        return list(values)
    try:
        found = _Unpacker(values[0][PICKLE], values[0][BESIDE]).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise DamagedRecord(f"what it puts aside cannot be read ({error!r:.80})") from error
    if not is_a(found, list):
        raise DamagedRecord("what it puts aside is no list")
    return found


def _is_packed(values: list[Any]) -> bool:
    first = values[0] if len(values) == 1 else None
    return is_a(first, dict) and list(first) == [PICKLE, BESIDE] and is_a(first[PICKLE], bytes)


def _shared(others: Iterable[Any]) -> set[int]:
    """Return the objects of a checkpoint that something else may hold too, by identity."""
    return {id(value) for value in reachable(list(others)) if is_a(value, (Opaque, dict, list, set))}


class _Packer(TreePickler):
    """Writes what is no tensor, and not shared."""

    def __init__(self, stream: io.BytesIO, beside: list[Any], shared: set[int]) -> None:
        super().__init__(stream, 2)
        self._beside, self._shared, self._places = beside, shared, dict[int, int]()

    def persistent_id(self, obj: Any) -> Any:
        """Put something beside the pickle, and say where."""
        if id(obj) not in self._shared and not is_stored(obj) and not is_real(obj):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self._beside)
            self._beside.append(obj)
        return self._places[id(obj)]


class _Unpacker(TreeUnpickler):
    """Reads what the packer wrote."""

    def __init__(self, data: bytes, beside: list[Any]) -> None:
        super().__init__(data)
        self._beside = beside

    def persistent_load(self, pid: Any) -> Any:
        """Return what was put beside the pickle."""
        return self._beside[pid]
