"""The files of torch before 1.6 (``_use_new_zipfile_serialization=False`` today): pickles, then payload.

Five pickles follow each other: a magic number, the version of the format, facts about the system, the tree, and the
keys of the storages. Behind them lies, for each key, the number of elements as eight bytes, and the elements. Source of
these facts: ``torch/serialization.py``, ``_legacy_save`` (torch 2.13).
"""

from __future__ import annotations

import pickle
import struct
import tarfile
from typing import Any, BinaryIO

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.pickle.scan import scan
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import STORAGES
from anemoi_ckpt_migrate.storage.zip_archive import Archive

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_SPELLED_MAGIC = _MAGIC.to_bytes(10, "little")
_FIRST, _LARGEST = 1 << 16, 1 << 30  # how much is read of a pickle at first, and at most, in bytes


def is_legacy(stream: BinaryIO) -> bool:
    """Tell whether a file starts as torch before 1.6 started it."""
    stream.seek(0)
    start = stream.read(32)
    return start[:1] == pickle.PROTO and _SPELLED_MAGIC in start


def read_legacy(stream: BinaryIO, length: int) -> tuple[Archive, bytes]:
    """Find what lies where, and return it with the pickle of the tree.

    Parameters
    ----------
    stream : BinaryIO
        The file.
    length : int
        How long it is, in bytes.

    Raises
    ------
    NotACheckpoint
        It is damaged, or names its payload in a way that torch never did.
    """
    try:
        return _read(stream, length)
    except NotACheckpoint:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise NotACheckpoint(f"it was saved by torch before 1.6, but is damaged or hostile ({what:.200})") from error


def _read(stream: BinaryIO, length: int) -> tuple[Archive, bytes]:
    at, pickles = 0, list[bytes]()
    if _is_tar(stream):
        raise NotACheckpoint("it is a tar file too, and as such torch.load would read it")
    for _ in range(5):
        pickles.append(_pickle_at(stream, at))
        at += len(pickles[-1])
    magic, version, _, keys = (_plain(pickles[index]) for index in (0, 1, 2, 4))
    if (magic, version) != (_MAGIC, _VERSION):
        raise NotACheckpoint(f"it was saved by torch before 1.6, but in no format that is known (only {_VERSION} is)")
    sizes = _Sizes(pickles[3])
    sizes.load()
    loose = {}
    for key in _checked(keys, sizes.of):
        stream.seek(at)
        start = at + 8
        at = start + _number(stream.read(8)) * sizes.of[key]
        loose[f"data/{key}"] = (start, at)
        if not start <= at <= length:
            raise NotACheckpoint(f"the payload {key} reaches beyond the end of the file (was it cut off?)")
        if at - start < sizes.needed[key]:
            raise NotACheckpoint(f"the payload {key} is shorter than the tensors in it")
    if at < length:  # another checkpoint, say: several may be saved to one stream, and torch.load reads the first
        raise NotACheckpoint(
            f"it was saved by torch before 1.6, and {length - at:,} bytes follow its end, which torch.load does not "
            "read and a new file would not hold; load what you need with torch, and save that to a file of its own"
        )
    small = {"byteorder": b"little", "version": b"3\n"}  # whatever the machine was, torch wrote these files so
    return Archive("archive", {}, length, 0, loose, small), pickles[3]


def _plain(data: bytes) -> Any:
    """Load one of the pickles around that of the tree; a class or function in it would be called like any other."""
    unpickler = TreeUnpickler(data)
    found = unpickler.load()
    if unpickler.names:
        named = ".".join(next(iter(unpickler.names)))
        raise NotACheckpoint(f"it was saved by torch before 1.6, but names {named} beside its tree, as torch never did")
    return found


class _Sizes(TreeUnpickler):
    """Finds how many bytes an element of each storage has: what is said first of a storage counts."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.of: dict[str, int] = {}
        self.needed: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> Any:
        stored = super().persistent_load(pid)
        kind = getattr(getattr(stored, "kind", None), "pickled_name", ("", ""))[1]
        if kind in STORAGES:
            size = STORAGES[kind][1]
            self.of.setdefault(stored.key, size)
            self.needed[stored.key] = max(self.needed.get(stored.key, 0), size * stored.numel)
        return stored


def _checked(keys: Any, sizes: dict[str, int]) -> list[str]:
    """Return the keys of the storages: numbers, each once, of a known size."""
    if not isinstance(keys, list) or not all(type(key) is str and key.isdigit() for key in keys):
        raise NotACheckpoint("it names its payload in an unknown way")
    if len(set(keys)) < len(keys) or not sizes.keys() >= set(keys):
        raise NotACheckpoint("it has payload that no tensor belongs to, or one twice")
    return keys


def _number(spelled: bytes) -> int:
    found: int = struct.unpack("<q", spelled)[0]
    return found


def _is_tar(stream: BinaryIO) -> bool:
    """Tell whether a file is a tar file to torch, which looks for that first; it may start as anything."""
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _pickle_at(stream: BinaryIO, at: int) -> bytes:
    """Return the pickle that starts at an offset; as much of the file is read as it needs, give or take."""
    size = _FIRST
    while True:
        stream.seek(at)
        data = stream.read(size)
        try:
            return data[: scan(data).length]
        except pickle.UnpicklingError:
            if len(data) < size or size >= _LARGEST:
                raise
            size *= 4
