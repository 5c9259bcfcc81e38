"""What is put aside for the way back: such that nothing of it is imported when the checkpoint is loaded.

An object is put aside because its class is gone: left as it is, it would keep `torch.load` from loading the file, as it
did before. So what names classes is put aside as a pickle of its own, with its tensors beside it.
"""

from __future__ import annotations

import io
from typing import Any

from anemoi_ckpt_migrate.checkpoints.pickles import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.checkpoints.tensors import is_a, is_stored
from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.operations.names import names_in
from anemoi_ckpt_migrate.operations.tensors import is_real

PICKLE, TENSORS = "pickle of what is put aside", "tensors"


def packed(value: Any) -> Any:
    """Return what stands in the record for something that is put aside.

    Parameters
    ----------
    value : object
        What came from the tree of a checkpoint.
    """
    if not names_in(value) and not _is_packed(value):
        return value
    stream, tensors = io.BytesIO(), list[Any]()
    _Packer(stream, tensors).dump(value)
    return {PICKLE: stream.getvalue(), TENSORS: tensors}


def unpacked(value: Any) -> Any:
    """Return what was put aside.

    Raises
    ------
    DamagedRecord
        It cannot be read.
    """
    if not _is_packed(value):
        return value
    try:
        return _Unpacker(value[PICKLE], value[TENSORS]).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise DamagedRecord(f"what it puts aside cannot be read ({error!r:.80})") from error


def _is_packed(value: Any) -> bool:
    return is_a(value, dict) and list(value) == [PICKLE, TENSORS] and is_a(value[PICKLE], bytes)


class _Packer(TreePickler):
    """Writes all but tensors."""

    def __init__(self, stream: io.BytesIO, tensors: list[Any]) -> None:
        super().__init__(stream, 2)
        self._tensors, self._places = tensors, dict[int, int]()

    def persistent_id(self, obj: Any) -> Any:
        """Put a tensor beside the pickle, and say where."""
        if not is_stored(obj) and not is_real(obj):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self._tensors)
            self._tensors.append(obj)
        return self._places[id(obj)]


class _Unpacker(TreeUnpickler):
    """Reads what the packer wrote."""

    def __init__(self, data: bytes, tensors: list[Any]) -> None:
        super().__init__(data)
        self._beside = tensors

    def persistent_load(self, pid: Any) -> Any:
        """Return a tensor that was put beside the pickle."""
        return self._beside[pid]
