"""Tensors that are made from others when the file is written: sources, recipe and shape. No torch.

A new tensor is a stand-in like any other, on a storage that no file holds yet. If contiguous tensors are only joined or
cut, all bytes already lie in the file and are copied. `evaluate` computes all other tensors.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, OpaqueName, opaque_name
from anemoi_ckpt_migrate.storage.tensors.refs import (
    STORAGES,
    RebuildFunction,
    StoredStorage,
    StoredTensor,
    dtype_of,
    is_a,
    is_stored,
    pickled_name,
    reduced,
)
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch, outcome

PLAIN = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
_PARAMETER = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_CLASSES = {dtype: name for name, (dtype, _) in STORAGES.items() if name != "UntypedStorage"}
SIZES = dict(STORAGES.values()) | {
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
"""Bytes of an element, by the name of the dtype."""
_LARGEST = 1 << 50
_NO_HOOKS: OrderedDict[str, Any] = OrderedDict()  # one for all tensors of a file that is not pickled

Extent = tuple[str, int, int]
"""A place of bytes: the key of a storage in the file, the first byte, the number of bytes."""


class TensorExpr(NamedTuple):
    """How to make a tensor.

    Attributes
    ----------
    kind : str
        ``cat``, ``narrow``, ``pad``, ``stack``, ``select``, ``permute``, ``reshape``, ``cast``, ``mu_product``,
        ``clone``, ``fill`` or ``init``; ``chunks`` for a tensor that a format stores in parts.
    args : tuple
        As for `outcome`; for ``chunks``, the first index of each part in each dimension.
    sources : sequence of StoredTensor
        The source tensors.
    shape : tuple of int
        Its shape.
    dtype : str
        Its dtype, without ``torch.``.
    """

    kind: str
    args: tuple[Any, ...]
    sources: Sequence[StoredTensor]
    shape: tuple[int, ...]
    dtype: str


class TensorBuilder:
    """Makes stand-ins for tensors that do not exist yet, and remembers their recipes.

    Parameters
    ----------
    first_key : int
        The first number that is not the key of a storage in the file.
    touched : list of str
        Where stand-ins note a request for their content.

    Attributes
    ----------
    recipes : dict of str to TensorExpr
        The recipe of each new storage, by its key.
    next_key : int
        The first number that is not the key of a storage, neither in the file nor to be made.
    elsewhere : set of str
        Keys of storages whose content differs from the file or is not in it.
    asked : set of str
        Keys of storages that are made by a rollback.
    """

    def __init__(self, first_key: int, touched: list[str]) -> None:
        self.recipes: dict[str, TensorExpr] = {}
        self.elsewhere: set[str] = set()
        self.asked: set[str] = set()
        self.next_key, self._touched = first_key, touched
        self._known: dict[Any, StoredStorage] = {}
        self._names: dict[tuple[str, str], OpaqueName] = {}
        self._functions: dict[str, RebuildFunction] = {}
        self._parameters: dict[Any, tuple[StoredTensor, Sequence[StoredTensor]]] = {}
        self._location = "cpu"

    def renew(self, touched: list[str]) -> None:
        """Switch to another tree of the same file."""
        self._touched, self._functions, self._parameters = touched, {}, {}

    def forked(self, first_key: int, elsewhere: Iterable[str]) -> TensorBuilder:
        """Return a maker that knows the recipes of this one and adds its own."""
        made = TensorBuilder(max(first_key, self.next_key), [])
        made.recipes, made.elsewhere, made.asked = dict(self.recipes), set(elsewhere), set(self.asked)
        return made

    def hold(self, key: str, recipe: TensorExpr) -> None:
        """Remember the recipe of a storage that the checkpoint has, in parts."""
        self.recipes[key] = recipe

    def note_asked(self, first: int) -> None:
        """Note that a rollback asked for all storages from a number on."""
        self.asked.update(map(str, range(first, self.next_key)))

    def lives_at(self, location: str) -> None:
        """Set the device for tensors without sources."""
        self._location = location

    def make(self, kind: str, args: tuple[Any, ...], sources: Sequence[StoredTensor]) -> StoredTensor:
        """Return the stand-in of a new tensor.

        Equal recipes share their memory, as tied weights do; ``clone``, ``fill`` and ``init`` do not.

        Raises
        ------
        Mismatch
            The tensor cannot be made.
        """
        plain = [plain_of(source) for source in sources]
        check_alike(map(_kind, sources))
        shapes, dtypes = tuple(tuple(source.shape) for source in plain), tuple(map(known_dtype, plain))
        given = _hashable(args)
        shape, dtype = _outcome(kind, given, shapes, dtypes)
        if dtype not in SIZES:
            raise Mismatch(f"tensors of dtype {dtype} can be moved but not changed")
        if math.prod(shape) > _LARGEST:
            raise Mismatch(f"{list(shape)} is larger than any tensor")
        if kind == "reshape" and is_contiguous(plain[0]):
            storage, offset = storage_of(plain[0]), reduced(plain[0])[1][1]
        else:
            offset = 0
            storage = self._storage(TensorExpr(kind, args, tuple(plain), shape, dtype))
        made = self._tensor(storage, offset, shape, dtype, requires_grad(plain[0]) if plain else False)
        return self._as_parameter((kind, given, *map(id, sources)), sources, made)

    def stored(self, key: str, dtype: str, shape: tuple[int, ...], offset: int = 0) -> StoredTensor:
        """Return the stand-in of a contiguous tensor on a storage that exists, or whose recipe is known.

        Parameters
        ----------
        key : str
            The key of the storage.
        dtype : str
            The dtype of the tensor, without ``torch.``.
        shape : tuple of int
            Its shape.
        offset : int
            Its first element in the storage.
        """
        recipe = self.recipes.get(key)
        count = offset + math.prod(shape) if recipe is None else math.prod(recipe.shape)
        storage = self._storage_of_kind(key, dtype, count, self._location)
        return self._tensor(storage, offset, shape, dtype, False, _NO_HOOKS)

    def outside(self, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return the stand-in of a new tensor whose content is known, but neither in the file nor made from it."""
        key = str(self.next_key)
        self.next_key += 1
        self.elsewhere.add(key)
        return self.stored(key, dtype, shape)

    def _as_parameter(self, key: Any, sources: Sequence[StoredTensor], made: StoredTensor) -> StoredTensor:
        """Return a parameter if all sources are parameters. Equal recipes share one, except ``clone``."""
        if not sources or any(reduced(source)[0].pickled_name[1] not in _PARAMETER for source in sources):
            return made
        if key not in self._parameters or key[0] == "clone":
            function, args, _ = reduced(sources[0])
            # It has hooks of its own. The sources are kept, because their ids are part of the key.
            args = (made, *args[1:2], OrderedDict(), *args[3:])
            self._parameters[key] = StoredTensor(function, args), sources
        return self._parameters[key][0]

    def _storage(self, recipe: TensorExpr) -> StoredStorage:
        known: Any = (recipe.kind, _hashable(recipe.args), tuple(map(_identity, recipe.sources)))
        if recipe.kind in ("clone", "fill", "init", "mu_product") or known not in self._known:
            key = str(self.next_key)
            self.next_key += 1
            place = storage_of(recipe.sources[0]).location if recipe.sources else self._location
            self._known[known] = self._storage_of_kind(key, recipe.dtype, math.prod(recipe.shape), place)
            self.recipes[key] = recipe
        return self._known[known]

    def _storage_of_kind(self, key: str, dtype: str, count: int, place: str) -> StoredStorage:
        """Return a storage of so many elements of a dtype."""
        kind = _CLASSES.get(dtype)
        if kind is None:  # torch keeps these as bytes, and stores the dtype with the tensor
            return StoredStorage(self._name("torch.storage", "UntypedStorage"), key, place, count * SIZES[dtype])
        return StoredStorage(self._name("torch", kind), key, place, count)

    def _tensor(
        self,
        storage: StoredStorage,
        offset: int,
        shape: tuple[int, ...],
        dtype: str,
        grad: bool,
        hooks: OrderedDict[str, Any] | None = None,
    ) -> StoredTensor:
        own = OrderedDict() if hooks is None else hooks
        args: tuple[Any, ...] = (storage, offset, shape, contiguous_stride(shape), grad, own)
        if dtype in _CLASSES:
            return StoredTensor(self._function("_rebuild_tensor_v2"), args)
        return StoredTensor(self._function("_rebuild_tensor_v3"), (*args, self._name("torch", dtype)))

    def _function(self, name: str) -> RebuildFunction:
        if name not in self._functions:
            self._functions[name] = RebuildFunction(("torch._utils", name), self._touched)
        return self._functions[name]

    def _name(self, module: str, name: str) -> OpaqueName:
        if (module, name) not in self._names:
            self._names[module, name] = opaque_name(module, name, Calls())
        return self._names[module, name]

    def extents(self, tensor: StoredTensor) -> list[Extent] | None:
        """Return the places of a tensor's bytes in the file, in order; None if the bytes have to be computed."""
        storage = storage_of(tensor)
        recipe = self.recipes.get(storage.key)
        size = SIZES.get(known_dtype(tensor))
        if size is None or not is_contiguous(tensor):
            return None
        start, length = reduced(tensor)[1][1] * size, math.prod(tensor.shape) * size
        if recipe is None and storage.key in self.elsewhere:
            return None
        if recipe is None:
            return [(storage.key, start, length)] if length else []
        whole = self.extents_of(recipe)
        return None if whole is None else _cut(whole, start, length)

    def extents_of(self, recipe: TensorExpr) -> list[Extent] | None:
        """Return the places in the file of a recipe's bytes; None if the bytes have to be computed."""
        if recipe.kind == "chunks":
            rows = sorted(zip(recipe.args, recipe.sources, strict=True), key=lambda row: row[0])
            whole = all(tuple(part.shape[1:]) == recipe.shape[1:] for _, part in rows)
            return self._joined(part for _, part in rows) if whole else None
        if recipe.kind not in ("cat", "stack", "narrow", "select", "reshape", "clone"):
            return None
        dim = 0
        if recipe.kind in ("cat", "stack", "narrow", "select"):
            dim = recipe.args[0] % (len(recipe.sources[0].shape) + (recipe.kind == "stack"))
        if math.prod(recipe.sources[0].shape[:dim]) != 1:
            return None
        found = self._joined(recipe.sources)
        if found is None:
            return None
        if recipe.kind in ("narrow", "select"):
            shape = recipe.sources[0].shape
            row = math.prod(shape[dim + 1 :]) * SIZES[recipe.dtype]
            first, count = (recipe.args[1], recipe.args[2]) if recipe.kind == "narrow" else (recipe.args[1], 1)
            return _cut(found, first * row, count * row)
        return found

    def _joined(self, parts: Iterable[StoredTensor]) -> list[Extent] | None:
        """Return the places of the bytes of several tensors, one after the other."""
        found: list[Extent] = []
        for part in parts:
            extents = self.extents(part)
            if extents is None:
                return None
            for extent in extents:
                _extend(found, extent)
        return found


def _extend(extents: list[Extent], extent: Extent) -> None:
    """Append a place, and merge it with the last one if it continues there."""
    key, first, count = extents[-1] if extents else ("", 0, 0)
    if extents and key == extent[0] and first + count == extent[1]:
        extents[-1] = (key, first, count + extent[2])
    else:
        extents.append(extent)


def _cut(extents: Sequence[Extent], start: int, length: int) -> list[Extent]:
    found = []
    for key, first, count in extents:
        begin, end = max(start, 0), min(start + length, count)
        if begin < end:
            found.append((key, first + begin, end - begin))
        start -= count
    return found


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


@functools.lru_cache(1 << 12)  # as for strides
def _outcome(
    kind: str, args: Any, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[str, ...]
) -> tuple[tuple[int, ...], str]:
    return outcome(kind, args, shapes, dtypes)


def plain_of(tensor: StoredTensor) -> StoredTensor:
    """Return the plain tensor behind a stand-in of a tensor or a parameter.

    Raises
    ------
    Mismatch
        It is not a plain tensor: a sparse one, one of a subclass.
    """
    function, args, _ = reduced(tensor)
    name = function.pickled_name[1]
    if name in _PARAMETER and args and is_stored(args[0]):
        return plain_of(args[0])
    if name not in PLAIN:
        what = name.removeprefix("_rebuild_").removesuffix("_v2")
        raise Mismatch(f"it is not a plain tensor ({what}); use op.Run to change it")
    if len(args) > 6 and any(is_a(arg, dict) and arg for arg in args[6:]):
        raise Mismatch("it is a conjugate or negative view; use op.Run to change it")
    return tensor


def location_of(tensor: StoredTensor) -> str | None:
    """Return the device of a plain tensor, or of the one in a parameter; None for any other."""
    function, args, _ = reduced(tensor)
    if function.pickled_name[1] in PLAIN and len(args) == 6 and type(args[0]) is StoredStorage:
        return args[0].location
    try:
        return storage_of(plain_of(tensor)).location
    except Mismatch:
        return None


def check_alike(kinds: Iterable[tuple[bool, bool]]) -> None:
    """Check that tensors to be joined are of one kind, because the rollback could not tell which was frozen.

    Parameters
    ----------
    kinds : iterable of (bool, bool)
        For each tensor, whether it is a parameter, and whether it requires a gradient.

    Raises
    ------
    Mismatch
        They are of different kinds.
    """
    if len(set(kinds)) > 1:
        raise Mismatch("parameters and plain tensors (or different requires_grad) cannot be combined; use op.Run")


def _kind(tensor: StoredTensor) -> tuple[bool, bool]:
    function, args, _ = reduced(tensor)
    parameter = function.pickled_name[1] in _PARAMETER
    return parameter, bool(args[1]) if parameter else requires_grad(tensor)


def storage_of(tensor: StoredTensor) -> StoredStorage:
    """Return the storage of a plain tensor."""
    storage: StoredStorage = reduced(tensor)[1][0]
    return storage


def bytes_of(storage: StoredStorage) -> StoredTensor:
    """Return a tensor of all bytes of a storage in the file."""
    kind = pickled_name(storage.kind)[1]
    count = storage.numel * STORAGES.get(kind, ("", 1))[1]
    own = StoredStorage(opaque_name("torch", "ByteStorage", Calls()), storage.key, storage.location, count)
    function = RebuildFunction(("torch._utils", "_rebuild_tensor_v2"), [])
    return StoredTensor(function, (own, 0, (count,), (1,), False, OrderedDict()))


def requires_grad(tensor: StoredTensor) -> bool:
    """Return whether a plain tensor requires a gradient."""
    args = reduced(tensor)[1]
    return len(args) > 4 and args[4] is True


def known_dtype(tensor: StoredTensor) -> str:
    """Return the dtype of a tensor; empty if unknown."""
    return dtype_of(tensor) or ""


def identity(tensor: StoredTensor) -> Any:
    """Return a key that is equal for two stand-ins of the very same memory."""
    try:
        return _identity(plain_of(tensor))
    except Mismatch:
        return id(tensor)


def _identity(plain: StoredTensor) -> Any:
    _, args, _ = reduced(plain)
    return (args[0].key, args[1], tuple(args[2]), tuple(args[3]))


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return _stride(tuple(shape))


@functools.lru_cache(1 << 12)  # few shapes are those of thousands of tensors
def _stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    found: list[int] = []
    step = 1
    for size in reversed(shape):
        found.insert(0, step)
        step *= max(size, 1)
    return tuple(found)


def is_contiguous(tensor: StoredTensor) -> bool:
    """Return whether a plain tensor is contiguous."""
    _, args, _ = reduced(tensor)
    shape, stride = tuple(args[2]), tuple(args[3])
    dense = contiguous_stride(shape)
    if stride == dense:
        return True
    pairs = zip(shape, stride, dense, strict=True)
    return 0 in shape or all(size == 1 or step == wanted for size, step, wanted in pairs)
