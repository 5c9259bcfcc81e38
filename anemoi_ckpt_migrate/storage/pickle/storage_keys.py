"""Give the storages in a pickle other keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.dump import dumped
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of


def with_keys(data: bytes, key: Callable[[str], str]) -> bytes:
    """Return a pickle with other keys of storages.

    Parameters
    ----------
    data : bytes
        The pickle.
    key : callable
        Returns the new key for an old one.

    Raises
    ------
    Exception
        Any error: a damaged pickle raises almost anything.
    """
    unpickler = _Renaming(data)
    unpickler.key = key
    return dumped(unpickler.load(), lambda stream: TreePickler(stream, max(2, protocol_of(data))))[1]


class _Renaming(TreeUnpickler):
    key: Callable[[str], str]

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage under its new key."""
        if type(pid) is tuple and len(pid) >= 3 and pid[0] == "storage" and type(pid[2]) is str:
            pid = (*pid[:2], self.key(pid[2]), *pid[3:])
        return super().persistent_load(pid)
