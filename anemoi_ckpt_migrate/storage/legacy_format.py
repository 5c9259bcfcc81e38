"""Read the files of torch before 1.6 (``_use_new_zipfile_serialization=False`` today): pickles, then payload.

A file starts with five pickles: a magic number, the version of the format, facts about the system, the tree, and the
keys of the storages. Then follow, for each key, the number of elements as eight bytes, and the elements. Source:
``torch/serialization.py``, ``_legacy_save`` (torch 2.13).
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.pickle.scan import scan
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import STORAGES, pickled_name
from anemoi_ckpt_migrate.storage.zip_archive import Archive

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_SPELLED_MAGIC = _MAGIC.to_bytes(10, "little")
_FIRST, _LARGEST = 1 << 16, 1 << 30  # bytes of a pickle to read at first, and at most


def is_legacy(stream: BinaryIO) -> bool:
    """Return whether a file starts like those of torch before 1.6."""
    stream.seek(0)
    start = stream.read(32)
    return start[:1] == pickle.PROTO and _SPELLED_MAGIC in start


def read_legacy(stream: BinaryIO, length: int) -> tuple[Archive, bytes]:
    """Return the layout of a file, and the pickle of its tree.

    Parameters
    ----------
    stream : BinaryIO
        The file.
    length : int
        Its length, in bytes.

    Raises
    ------
    NotACheckpoint
        The file is damaged, or names its payload in a way that torch never did.
    """
    try:
        return _read(stream, length)
    except NotACheckpoint:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise NotACheckpoint(f"torch before 1.6 saved it, but it is damaged or hostile ({what:.200})") from error


def _read(stream: BinaryIO, length: int) -> tuple[Archive, bytes]:
    at, pickles = 0, list[bytes]()
    if _is_tar(stream):
        raise NotACheckpoint("it is also a tar file, and torch.load would read it as one")
    for _ in range(5):
        pickles.append(_pickle_at(stream, at))
        at += len(pickles[-1])
    magic, version, _, keys = (_plain(pickles[index]) for index in (0, 1, 2, 4))
    if (magic, version) != (_MAGIC, _VERSION):
        raise NotACheckpoint(f"torch before 1.6 saved it in an unknown format (only {_VERSION} is known)")
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
    if at < length:  # such as another checkpoint: a stream may hold several, and torch.load reads the first
        raise NotACheckpoint(
            f"torch before 1.6 saved it, and {length - at:,} bytes follow its end, which torch.load does "
            "not read and a new file would lose; load what you need with torch, and save that to another file"
        )
    small = {"byteorder": b"little", "version": b"3\n"}  # torch wrote these values on every machine
    return Archive("archive", {}, length, 0, loose, small), pickles[3]


def _plain(data: bytes) -> Any:
    """Load one of the other pickles; a class or function in it would be called like any other."""
    unpickler = TreeUnpickler(data)
    found = unpickler.load()
    if unpickler.names:
        named = ".".join(next(iter(unpickler.names)))
        raise NotACheckpoint(f"torch before 1.6 saved it, but it names {named} outside of its tree, as torch never did")
    return found


class _Sizes(TreeUnpickler):
    """Finds the element size of each storage, in bytes; the first mention of a storage counts."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.of: dict[str, int] = {}
        self.needed: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> Any:
        stored = super().persistent_load(pid)
        kind = pickled_name(getattr(stored, "kind", None))[1]
        if kind in STORAGES:
            size = STORAGES[kind][1]
            self.of.setdefault(stored.key, size)
            self.needed[stored.key] = max(self.needed.get(stored.key, 0), size * stored.numel)
        return stored


def _checked(keys: Any, sizes: dict[str, int]) -> list[str]:
    """Return the keys of the storages, checked: numbers, each once, of a known size."""
    if not isinstance(keys, list) or not all(type(key) is str and key.isdigit() for key in keys):
        raise NotACheckpoint("it names its payload in an unknown way")
    if len(set(keys)) < len(keys) or not sizes.keys() >= set(keys):
        raise NotACheckpoint("it has payload without a tensor, or the same payload twice")
    return keys


def _number(spelled: bytes) -> int:
    found: int = struct.unpack("<q", spelled)[0]
    return found


def _is_tar(stream: BinaryIO) -> bool:
    """Return whether torch takes a file for a tar file; it checks that first, and tar files may start with anything."""
    import tarfile  # few files need it

    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _pickle_at(stream: BinaryIO, at: int) -> bytes:
    """Return the pickle at an offset. Only slightly more of the file is read than the pickle needs."""
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
