"""Tensors with their content: real `torch.Tensor` objects over the file, and their pickling.

This module and `evaluate` need torch. They are imported only if a migration touches or makes tensors. The file is
mapped copy-on-write: bytes are read on first use, and changes stay private until they are written.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import io
import mmap
import pickle
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from anemoi_ckpt_migrate.errors import Damaged
from anemoi_ckpt_migrate.storage.descriptor import fetch
from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, OpaqueName, opaque_name
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import Builder, TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import RebuildFunction, closed, is_stored, pickled_name
from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.members import Member, Members

# torch's own functions and classes that only assemble a tensor; the rest of torch stays closed.
_REBUILD = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_sparse_tensor",
    "_rebuild_qtensor",
    "_rebuild_nested_tensor",
    "_rebuild_meta_tensor_no_storage",
)
_KINDS = (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", torch.nn.Parameter))
# Linux, Documentation/admin-guide/mm/pagemap.rst: bits of a page's entry.
# The highest bit, here the sign, marks a page as present.
_SWAPPED, _FILE_PAGE = 1 << 62, 1 << 61
_PAGES = 1 << 16  # pages per read


class _Mapping:
    """A file of a checkpoint in memory, copied when it is written to.

    Attributes
    ----------
    begin : int
        The address of the file among the files of the checkpoint.
    address : int
        Its place in memory.
    """

    def __init__(self, member: Member) -> None:
        self.begin, self._descriptor = member.begin, member.descriptor
        self._map = mmap.mmap(member.descriptor, 0, access=mmap.ACCESS_COPY)
        self._whole = torch.frombuffer(self._map, dtype=torch.uint8).untyped_storage()
        self.address = self._whole.data_ptr()

    def storage(self, start: int, length: int) -> torch.UntypedStorage:
        fetch(self._descriptor, start - self.begin, start - self.begin + length)
        found: torch.UntypedStorage = self._whole[start - self.begin : start - self.begin + length]
        return found

    def view(self, start: int, length: int) -> memoryview:
        return memoryview(self._map)[start - self.begin : start - self.begin + length]


class Payloads:
    """The content of a checkpoint's tensors, mapped from its files.

    Parameters
    ----------
    files : Members
        The open checkpoint.
    places : mapping of str to (int, int, int)
        Address, length in bytes, and CRC (0 if unknown) of each storage in the files, by key; more may be added later.
    unwritten : mapping of str to callable
        Functions for the content of storages that the file lacks or holds differently.
    """

    def __init__(
        self,
        files: Members,
        places: Mapping[str, tuple[int, int, int]],
        unwritten: Mapping[str, Callable[[], memoryview]],
    ) -> None:
        self._files, self._places, self._unwritten = files, places, unwritten
        self._mapped: dict[int, _Mapping] = {}
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._keys: dict[int, str] = {}
        self._keys_by_address: dict[int, str] = {}
        self.locations: dict[str, str] = {}

    def storage(self, key: str) -> torch.UntypedStorage:
        """Return a storage over the file.

        Raises
        ------
        pickle.UnpicklingError
            The file has no storage of that key.
        """
        if key in self._unwritten:
            self._storages[key] = _storage_of(self._unwritten[key]())
            self._unwritten = {other: content for other, content in self._unwritten.items() if other != key}
        if key not in self._storages:
            if key not in self._places:
                raise pickle.UnpicklingError(f"the storage data/{key} is missing")
            start, length, _ = self._places[key]
            # An empty storage is part of the mapping too: else torch would let it grow, and show other memory.
            made = self._storages[key] = self._mapping(start).storage(start, length)
            self._keys[made._cdata] = key
            if length:
                self._keys_by_address[self._address(start)] = key
        return self._storages[key]

    def key_of(self, storage: torch.UntypedStorage) -> str | None:
        """Return the key of a storage from the file; None for any other."""
        key = self._keys.get(storage._cdata) or self._keys_by_address.get(storage.data_ptr())
        if key is None or storage.nbytes() != self._places[key][1]:
            return None
        return key

    def usual_location(self) -> str | None:
        """Return the most common device of the file's tensors; new tensors belong there too."""
        found = collections.Counter(self.locations.values()).most_common(1)
        return found[0][0] if found else None

    def changed(self, keys: Mapping[str, None]) -> dict[str, memoryview]:
        """Return the current content of storages that differ from the file.

        Raises
        ------
        Damaged
            The content of a used storage does not match its checksum.
        """
        looks = {key: self._look(*self._places[key][:2]) for key in self._keys.values()}
        damaged = [f"data/{key}" for key, (seen, _) in looks.items() if seen and not self._is_whole(key)]
        if damaged:
            raise Damaged(damaged)
        found = {}
        for key in keys:
            start, length, _ = self._places.get(key, (0, 0, 0))
            if key in looks and looks[key][1] and self._differs(start, length):
                found[key] = self._mapping(start).view(start, length)
        return found

    def _mapping(self, start: int) -> _Mapping:
        member = self._files.at(start)
        if member.begin not in self._mapped:
            self._mapped[member.begin] = _Mapping(member)
        return self._mapped[member.begin]

    def _address(self, start: int) -> int:
        """Return the place in memory of a byte of the files."""
        mapping = self._mapping(start)
        return mapping.address + start - mapping.begin

    def _look(self, start: int, length: int) -> tuple[bool, bool]:
        """Return whether a stretch of the mapping was read, and whether it was written to.

        A page that was only read, and that the system has reclaimed, no longer counts as read.
        """
        address = self._address(start)
        first, end = address // mmap.PAGESIZE, -(-(address + length) // mmap.PAGESIZE)
        seen = written = False
        for page in range(first, end if length else first, _PAGES):
            entries = _pagemap(page, min(_PAGES, end - page))
            if entries is None:
                return True, True
            mapped = (entries < 0) | ((entries & _SWAPPED) != 0)
            seen |= bool(mapped.any())
            # Copied on write: the page is now our memory, no longer the file's.
            written |= bool((mapped & ((entries & _FILE_PAGE) == 0)).any())
        return seen, written

    def _is_whole(self, key: str) -> bool:
        start, length, crc = self._places[key]
        return not crc or self._files.checksum(start, start + length) == crc

    def _differs(self, start: int, length: int) -> bool:
        with self._mapping(start).view(start, length) as now:
            for at in range(0, length, 1 << 20):
                count = min(1 << 20, length - at)
                if self._files.read(start + at, count) != now[at : at + count]:
                    return True
        return False


class ContentUnpickler(TreeUnpickler):
    """Load the tree of a checkpoint with real tensors instead of stand-ins."""

    def __init__(
        self, data: bytes, payloads: Payloads, trusted: Collection[str] = (), touched: list[str] | None = None
    ) -> None:
        super().__init__(data, trusted, touched)
        self._payloads = payloads

    def resolve(self, module: str, name: str) -> Any:
        """Return the object for a name: torch's functions that build tensors, its dtypes and the like, are real."""
        if module == "torch._utils" and name in _REBUILD and hasattr(torch._utils, name):
            return _Rebuilder(super().resolve(module, name), getattr(torch._utils, name))
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return _Rebuilder(super().resolve(module, name), torch._tensor._rebuild_from_type_v2)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return Builder(module, name, torch.serialization._get_layout)
        if (module, name) == ("torch", "Size"):
            return Builder(module, name, functools.partial(self._container, torch.Size))
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.qscheme)):
            return getattr(torch, name)
        kinds = {(kind.__module__, kind.__qualname__): kind for kind in _KINDS}
        return kinds.get((module, name)) or super().resolve(module, name)

    def load(self) -> Any:
        """Load the tree, as for stand-ins. Sparse tensors are checked: they could reach outside their memory."""
        try:
            tree = super().load()
            with torch.sparse.check_sparse_tensor_invariants():
                torch._utils._validate_loaded_sparse_tensors()
        finally:
            torch._utils._sparse_tensors_to_validate.clear()
        return tree

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage over the file."""
        stored = super().persistent_load(pid)
        self._payloads.locations[stored.key] = stored.location
        return torch.storage.TypedStorage(
            wrap_storage=self._payloads.storage(stored.key), dtype=_dtype(stored.kind), _internal=True
        )


class _Rebuilder:
    """Rebuilds a real tensor; a tensor of a foreign class stays a stand-in."""

    __slots__ = ("_function", "_stand_in", "pickled_name", "touched")

    def __init__(self, stand_in: RebuildFunction, function: Any) -> None:
        self.pickled_name, self.touched = stand_in.pickled_name, stand_in.touched
        self._stand_in, self._function = stand_in, function

    __setstate__ = closed

    def __call__(self, *args: Any) -> Any:
        """Rebuild the tensor."""
        if _holds_stand_in(args):
            return self._stand_in(*args)
        return self._function(*args)


class ContentPickler(TreePickler):
    """Write a tree in which some tensors are real.

    Attributes
    ----------
    made : dict of str to torch.UntypedStorage
        Storages that the file lacks, by their new keys.
    """

    def __init__(self, stream: io.BytesIO, protocol: int, payloads: Payloads | None, first_key: int) -> None:
        super().__init__(stream, protocol)
        self.made: dict[str, torch.UntypedStorage] = {}
        self._payloads, self._next_key = payloads, first_key
        self._made_keys: dict[int, str] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._kinds: dict[str, OpaqueName] = {}

    def persistent_id(self, obj: Any) -> Any:
        """Describe storages, real ones included, in torch's form."""
        if is_stored(obj):
            return None
        if isinstance(obj, torch.storage.TypedStorage):
            return self._identify(obj._untyped_storage, obj._pickle_storage_type(), obj.dtype, obj._size())
        if isinstance(obj, torch.UntypedStorage):
            return self._identify(obj, "UntypedStorage", torch.uint8, obj.nbytes())
        return super().persistent_id(obj)

    dispatch: ClassVar[dict[type, Any]] = {**TreePickler.dispatch, _Rebuilder: TreePickler.save_name}

    def _identify(self, storage: torch.UntypedStorage, kind: str, dtype: torch.dtype, numel: int) -> Any:
        key = self._payloads.key_of(storage) if self._payloads is not None else None
        location = self._payloads.locations.get(key) if self._payloads is not None and key is not None else None
        if key is None:
            key = self._key_of_new(storage)
        if location is None:
            location = self._payloads.usual_location() if self._payloads is not None else None
            location = location or torch.serialization.location_tag(storage)
        if storage.nbytes() and self._dtypes.setdefault(key, dtype) != dtype:
            raise pickle.PicklingError("two tensors share memory but not a dtype, which torch cannot load; clone one")
        self.keys[key] = None
        return ("storage", self._kind(kind), key, location, numel)

    def _key_of_new(self, storage: torch.UntypedStorage) -> str:
        if storage._cdata not in self._made_keys:
            key = self._made_keys[storage._cdata] = str(self._next_key)
            self.made[key] = storage  # kept alive, or its address could be reused
            self._next_key += 1
        return self._made_keys[storage._cdata]

    def _kind(self, name: str) -> OpaqueName:
        if name not in self._kinds:
            module = "torch.storage" if name == "UntypedStorage" else "torch"
            self._kinds[name] = opaque_name(module, name, Calls())
        return self._kinds[name]


def _holds_stand_in(args: Any) -> bool:
    """Return whether any argument, or any item of a container there, is not real."""
    waiting, seen = [args], set[int]()
    while waiting:
        value = waiting.pop()
        if is_stored(value) or isinstance(value, OpaqueName):
            return True
        if type(value) in (tuple, list, dict) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if type(value) is dict else value
    return False


def _storage_of(content: memoryview) -> torch.UntypedStorage:
    return torch.frombuffer(content, dtype=torch.uint8).untyped_storage() if content else torch.UntypedStorage(0)


def plain_content(value: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor without gradient and without a pending conjugation or sign; None if it is no plain tensor."""
    plain = type(value).__name__ in ("Tensor", "Parameter") and not value.is_nested and not value.is_meta
    if not plain or value.layout != torch.strided or value.is_quantized:
        return None
    return value.detach().resolve_conj().resolve_neg()


def own_content(value: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor, its elements in order and nothing else."""
    value = value.cpu().contiguous()
    if value.untyped_storage().nbytes() != value.nbytes:
        value = value.clone()  # a part of a larger storage
    return content_of(value.untyped_storage())


def content_of(storage: torch.UntypedStorage) -> memoryview:
    """Return the bytes of a storage on any device."""
    here = storage if storage.device.type == "cpu" else storage.cpu()
    if not here.nbytes():
        return memoryview(b"")
    held = (ctypes.c_char * here.nbytes()).from_address(here.data_ptr())
    held.owner = here  # type: ignore[attr-defined]  # the view keeps `held` alive, and that the storage
    return memoryview(held).cast("B")


def _dtype(kind: Any) -> torch.dtype:
    module, name = pickled_name(kind, ("?", "?"))
    if name == "UntypedStorage" and module in ("torch", "torch.storage"):
        return torch.uint8
    known = torch.storage._storage_type_to_dtype_map()
    if module not in ("torch", "torch.cuda") or name not in known:
        raise pickle.UnpicklingError(f"the storage class {module}.{name} is unknown to torch {torch.__version__}")
    found: torch.dtype = known[name]
    return found


def _pagemap(first: int, count: int) -> torch.Tensor | None:
    """Return the page map entries of this process for a range of pages; None if the system does not provide them."""
    entries = bytearray(8 * count)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(8 * first)
            got = pagemap.readinto(entries)
    except OSError:
        return None
    return torch.frombuffer(entries, dtype=torch.int64) if got == len(entries) else None
