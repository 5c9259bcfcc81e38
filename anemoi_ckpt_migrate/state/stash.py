"""The stash: values kept for the downgrade, in a form that imports nothing when the checkpoint is loaded.

An object is stashed because its class is removed. Stored as it is, it would keep `torch.load` from loading the file. So
values that name classes are stashed as a separate pickle. Tensors, and objects that the checkpoint still has, are kept
beside that pickle, so that they stay shared.

A record that is text holds no tensor. There, small ones are spelled out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedRecord, DamagedStash, NowhereToKeep, TooMuchToKeep
from anemoi_ckpt_migrate.record.encode import decode, encode, encode_tensor
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.tree.class_names import names_in, reachable

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage import Checkpoint, StoredAt

PICKLE, BESIDE = "pickle of what is put aside", "beside"


def packed(values: list[Any], others: Iterable[Any]) -> list[Any]:
    """Return the stashed values of a revision in the form in which the record stores them.

    Parameters
    ----------
    values : list of object
        Values from the tree of a checkpoint.
    others : iterable of object
        The rest of the checkpoint: its tree, and the stashes of other revisions.
    """
    if not names_in(values) and not _is_packed(values):
        return values
    stream, beside = io.BytesIO(), list[Any]()
    _Packer(stream, beside, _shared(others)).dump(values)
    return [{PICKLE: stream.getvalue(), BESIDE: beside}]


def unpacked(values: list[Any]) -> list[Any]:
    """Return the stashed values of a revision.

    Raises
    ------
    DamagedRecord
        The stash cannot be read.
    """
    if not _is_packed(values):
        return list(values)
    try:
        found = _Unpacker(values[0][PICKLE], values[0][BESIDE]).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise DamagedRecord(f"its stash cannot be read ({error!r:.80})") from error
    if not is_a(found, list):
        raise DamagedRecord("its stash is not a list")
    return found


class StashText:
    """Spells stashed values as JSON, for a record that is text.

    Parameters
    ----------
    file : Checkpoint
        Reads the tensors, and holds those that are read from the stash.
    content : bool
        Whether tensors are to be real.
    """

    def __init__(self, file: Checkpoint, content: bool) -> None:
        self._file, self._content = file, content

    def spelled(self, values: list[Any], stash: Mapping[str, list[Any]]) -> list[Any]:
        """Return the values of a revision as JSON.

        Parameters
        ----------
        values : list of object
            Values from the tree of a checkpoint.
        stash : mapping of str to list
            The values of other revisions, as JSON.

        Raises
        ------
        TooMuchToKeep
            The tensors are too large, together with those of the other revisions.
        NowhereToKeep
            A value is no tensor, and JSON cannot hold it.
        """
        sizes: list[tuple[int, str]] = []

        def measured(value: Any) -> None:
            if not is_stored(value) and not is_real(value):
                raise NowhereToKeep
            sizes.append((self._file.count_of(value), self._file.name_of(value)))

        def spelled(value: Any) -> Any:
            return encode_tensor(*self._file.kept_as(value))

        encode(values, measured)  # first, as the bytes of what is too large are not to be read
        kept: list[int] = []
        decode(list(stash.values()), lambda dtype, shape, content: kept.append(len(content)))
        most = self._file.most_kept
        if sizes and most is not None and sum(size for size, _ in sizes) + sum(kept) > most:
            raise TooMuchToKeep(*max(sizes), sum(kept), most)
        found: list[Any] = encode(values, spelled)
        return found

    def read(self, values: list[Any]) -> list[Any]:
        """Return the values of a revision from their JSON.

        Raises
        ------
        DamagedStash
            They cannot be read.
        """

        def tensor(dtype: str, shape: tuple[int, ...], content: bytes | StoredAt) -> Any:
            held = self._file.held(dtype, shape, content)
            return self._file.content(held) if self._content else held

        try:
            found: list[Any] = decode(values, tensor)
        except DamagedRecord as error:
            raise DamagedStash(error.what) from error
        return found


def unshared(values: list[Any]) -> list[Any]:
    """Return the values of a revision with copies of all real tensors, for a record that shares none with the tree."""

    def copied(value: Any) -> Any:
        if is_real(value):
            return value.detach().clone()
        if type(value) in (list, tuple):
            return type(value)(map(copied, value))
        return {key: copied(each) for key, each in value.items()} if type(value) is dict else value

    return [copied(each) for each in values]


def _is_packed(values: list[Any]) -> bool:
    first = values[0] if len(values) == 1 else None
    return is_a(first, dict) and list(first) == [PICKLE, BESIDE] and is_a(first[PICKLE], bytes)


def _shared(others: Iterable[Any]) -> set[int]:
    """Return the identities of objects in a checkpoint that other values may refer to."""
    return {id(value) for value in reachable(list(others)) if is_a(value, (Opaque, dict, list, set))}


class _Packer(TreePickler):
    """Pickles everything except tensors and shared objects."""

    writes_tensors = False

    def __init__(self, stream: io.BytesIO, beside: list[Any], shared: set[int]) -> None:
        super().__init__(stream, 2)
        self._beside, self._shared, self._places = beside, shared, dict[int, int]()

    def persistent_id(self, obj: Any) -> Any:
        """Put an object beside the pickle, and return its position."""
        if id(obj) not in self._shared and not is_stored(obj) and not is_real(obj):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self._beside)
            self._beside.append(obj)
        return self._places[id(obj)]


class _Unpacker(TreeUnpickler):
    """Reads the output of the packer."""

    def __init__(self, data: bytes, beside: list[Any]) -> None:
        super().__init__(data)
        self._beside = beside

    def persistent_load(self, pid: Any) -> Any:
        """Return an object that was put beside the pickle."""
        return self._beside[pid]
