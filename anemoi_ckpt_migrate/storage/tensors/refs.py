"""Stand-ins for tensors: name, shape and place of the payload, without torch and without the bytes.

A migration that only moves tensors needs no more. Any other use of a stand-in raises `ContentNeeded`, and the executor
runs the migration again on real `torch.Tensor` objects.
"""

from __future__ import annotations

import functools
import math
import pickle
import sys
from typing import Any, NoReturn, TypeGuard, TypeVar

REBUILD_MODULES = ("torch._utils", "torch._tensor")
_SHAPE_ARGUMENT = {
    "_rebuild_tensor": 2,
    "_rebuild_tensor_v2": 2,
    "_rebuild_tensor_v3": 2,
    "_rebuild_qtensor": 2,
    "_rebuild_meta_tensor_no_storage": 1,
}

# Storage classes: the dtype of their elements, and its size in bytes.
STORAGES = {
    "ByteStorage": ("uint8", 1),
    "CharStorage": ("int8", 1),
    "ShortStorage": ("int16", 2),
    "IntStorage": ("int32", 4),
    "LongStorage": ("int64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "ComplexHalfStorage": ("complex32", 4),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "BoolStorage": ("bool", 1),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
    "UntypedStorage": ("uint8", 1),
}


# Limits for a tensor: dimensions, of which torch's own loops take no more; nesting of tensors.
_MOST_DIMENSIONS, _DEEPEST = 64, 20
_FEW = 8  # dimensions of almost every tensor

_Kind = TypeVar("_Kind")


class ContentNeeded(Exception):
    """A migration used a stand-in like a real tensor."""


def closed(self: object, state: object) -> NoReturn:
    """Refuse a state: a pickle must not change an object that is shared or was already checked."""
    raise pickle.UnpicklingError(f"it sets the state of a {type(self).__name__}")


class StoredStorage:
    """The payload of one or more tensors, as the pickle's persistent id names it.

    Attributes
    ----------
    kind : object
        Stand-in of the storage class, ``torch.FloatStorage`` for example.
    key : str
        Name of the record, after ``data/``.
    location : str
        Device of the tensor, ``"cuda:0"`` for example.
    numel : int
        Number of elements.
    """

    __slots__ = ("key", "kind", "location", "numel")

    def __init__(self, kind: Any, key: str, location: str, numel: int) -> None:
        self.kind, self.key, self.location, self.numel = kind, key, location, numel

    __setstate__ = closed

    @property
    def persistent_id(self) -> tuple[str, Any, str, str, int]:
        """The persistent id that torch's unpickler expects."""
        return ("storage", self.kind, self.key, self.location, self.numel)


class StoredSize(tuple[int, ...]):
    """A shape, written as a `torch.Size`; it passes for one if torch is loaded."""

    __slots__ = ()
    __setstate__ = closed

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return getattr(sys.modules.get("torch"), "Size", StoredSize)

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self)

    def __getitem__(self, index: Any) -> Any:
        found = tuple.__getitem__(self, index)
        return StoredSize(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> StoredSize:
        return StoredSize((*self, *other))


class RebuildFunction:
    """One of torch's functions that rebuild a tensor, by name.

    Attributes
    ----------
    pickled_name : tuple of (str, str)
        Module and name, as the pickle spells them.
    touched : list of str
        Shared by all stand-ins of a tree: classes of those asked for their content.
    unusual : list of StoredTensor
        Shared by all stand-ins of a tree: those with other arguments than a plain tensor.
    """

    __slots__ = ("pickled_name", "touched", "unusual")

    def __init__(
        self, pickled_name: tuple[str, str], touched: list[str], unusual: list[StoredTensor] | None = None
    ) -> None:
        self.pickled_name = pickled_name
        self.touched = touched
        self.unusual = [] if unusual is None else unusual

    __setstate__ = closed

    def __call__(self, *args: Any) -> StoredTensor:
        """Return a stand-in for the tensor that torch would rebuild."""
        made = StoredTensor(self, args)
        if not is_usual(args):
            self.unusual.append(made)
        return made


class StoredTensor:
    """A tensor of the file, by its description.

    You may move it, and read its ``shape``, ``ndim`` and ``numel()``. Any other use raises `ContentNeeded`, and the
    migration is run again on real tensors.
    """

    __slots__ = ("__weakref__", "_args", "_function", "_state")
    _function: RebuildFunction
    _args: tuple[Any, ...]
    _state: Any

    def __init__(self, function: RebuildFunction, args: tuple[Any, ...]) -> None:
        _set_function(self, function)  # `__setattr__` is closed
        _set_args(self, args)
        _set_state(self, None)

    @property
    def shape(self) -> StoredSize:
        """Sizes of the dimensions."""
        found = _shape(self._function.pickled_name[1], self._args)
        return _touch(self) if found is None else found

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return self.shape.numel()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # If torch is loaded, its own code asks for the class too, and would read our memory as that of a tensor. So a
        # real tensor is needed from here on.
        if "torch" in sys.modules:
            _touch(self)
        return StoredTensor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        for value in _flat([args, kwargs or {}]):
            if type(value) is StoredTensor:
                _touch(value)
        raise ContentNeeded(function)

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "_state", state)

    def __setattr__(self, name: str, value: Any) -> None:
        _touch(self)

    def __delattr__(self, name: str) -> None:
        _touch(self)

    __hash__ = object.__hash__

    def __reduce_ex__(self, protocol: Any) -> Any:
        _touch(self)  # for copy.deepcopy and other picklers; ours uses `reduced`

    def __getattr__(self, name: str) -> Any:
        _touch(self)

    def __str__(self) -> str:
        _touch(self)

    def __format__(self, spec: str) -> str:
        _touch(self)

    def __repr__(self) -> str:
        try:
            shape = _shape(self._function.pickled_name[1], self._args)
        except (TypeError, IndexError):  # hostile arguments may hold anything
            shape = None
        size = "of unknown shape" if shape is None else "x".join(map(str, shape)) or "scalar"
        return f"<tensor {size} in the file>"


_set_function, _set_args, _set_state = (vars(StoredTensor)[name].__set__ for name in ("_function", "_args", "_state"))


def is_stored(value: Any) -> bool:
    """Return whether a value is a stand-in of a tensor; unlike ``isinstance``, this does not ask for its class."""
    return type(value) is StoredTensor


def is_a(value: Any, kinds: type[_Kind] | tuple[type[_Kind], ...]) -> TypeGuard[_Kind]:
    """Return whether a value of a tree is of some kind, without asking a stand-in for its class."""
    return type(value) is not StoredTensor and isinstance(value, kinds)


def is_named(value: Any) -> bool:
    """Return whether a value stands for a class or function that the pickle names.

    Its type says so, not its attributes: an object from a pickle may have one that is called ``pickled_name``.
    """
    return _is_name(type(value))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _is_name(kind: type) -> bool:
    return any("pickled_name" in vars(each) for each in kind.__mro__)


def pickled_name(value: Any, default: tuple[str, str] = ("", "")) -> tuple[str, str]:
    """Return module and name of what the pickle names, and `default` for everything else."""
    name: tuple[str, str] = value.pickled_name if is_named(value) else default
    return name


def reduced(tensor: StoredTensor) -> tuple[Any, ...]:
    """Describe a stand-in to the pickler: function, arguments, state."""
    return tensor._function, tensor._args, tensor._state


def without_type(tensor: StoredTensor) -> tuple[Any, ...]:
    """Return the arguments that rebuild a stand-in; if it has its own type or attributes, the inner tensor comes first.

    torch saves such a tensor as a function, a type, the function's arguments, and the attributes.
    """
    function, args = tensor._function, tensor._args
    if function.pickled_name[1] == "_rebuild_from_type_v2" and len(args) > 2 and isinstance(args[0], RebuildFunction):
        return (StoredTensor(args[0], args[2]), args[1], *args[3:])
    return tuple(args)


def storages_of(value: Any) -> list[StoredStorage]:
    """Return the storages that a stand-in, or its arguments, refers to, in order."""
    found, waiting, seen = [], [value], set[int]()
    while waiting:
        value = waiting.pop()
        if type(value) is StoredStorage:
            found.append(value)
        elif type(value) in (StoredTensor, tuple, list) and id(value) not in seen:
            seen.add(id(value))  # hostile arguments may hold themselves, or one object a billion times
            waiting += reversed(value._args if type(value) is StoredTensor else value)
    return found


def weight_of(tensor: StoredTensor, limit: float) -> int:
    """Count the arguments of a stand-in, nested ones included; stop soon after a limit.

    Raises
    ------
    pickle.UnpicklingError
        No tensor has so many dimensions, or tensors so deeply nested.
    """
    shape = _SHAPE_ARGUMENT.get(tensor._function.pickled_name[1], -1)
    args = tensor._args
    sizes: Any = args[shape] if 0 <= shape < len(args) and is_a(args[shape], (tuple, list)) else ()
    if len(sizes) > _MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor in it has more than {_MOST_DIMENSIONS} dimensions")
    if any(type(size) is int and size.bit_length() >= _LARGE.bit_length() for size in sizes):
        raise pickle.UnpicklingError("a tensor in it has an impossible size")
    found, seen = 0, set[int]()
    waiting: list[tuple[Any, int]] = [(tensor, 0)]
    while waiting and found <= limit:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise pickle.UnpicklingError(f"a tensor in it is made of tensors nested more than {_DEEPEST} levels deep")
        if id(value) not in seen:
            seen.add(id(value))
            items: Any = value
            if type(value) is StoredTensor:
                items, depth = value._args, depth + 1
            found += len(items)
            inner: Any = items.values() if is_a(items, dict) else items
            waiting += [(item, depth) for item in inner if type(item) is StoredTensor or is_a(item, _NESTED)]
    return found


_NESTED = (tuple, list, dict)


_INTEGER, _LARGE = {int}, 1 << 63


def is_usual(args: tuple[Any, ...]) -> bool:
    """Return whether arguments are those of almost every tensor: a storage, numbers, two short shapes, no hooks."""
    if len(args) != 6:
        return False
    storage, offset, size, stride, grad, hooks = args
    return (
        type(storage) is StoredStorage
        and type(size) is type(stride) is tuple
        and len(size) <= _FEW
        and _INTEGER.issuperset(map(type, (offset, *size, *stride)))
        and max((offset, *size, *stride)) < _LARGE
        and type(grad) is bool
        and not hooks
    )


def dtype_of(tensor: StoredTensor) -> str | None:
    """Return the dtype of a stand-in, without ``torch.``; None if unknown without torch."""
    function, args = tensor._function, tensor._args
    name = function.pickled_name[1]
    if name == "_rebuild_from_type_v2" and isinstance(args[0], RebuildFunction):
        return dtype_of(StoredTensor(args[0], args[2]))
    for arg in (*args[:1], *args[6:7]) if name in ("_rebuild_tensor_v3", "_rebuild_meta_tensor_no_storage") else ():
        if pickled_name(arg)[0] == "torch":
            return pickled_name(arg)[1]
    if name == "_rebuild_sparse_tensor":
        found = storages_of(args)[::-1]  # the indices are first
    else:
        found = [args[0]] if args and type(args[0]) is StoredStorage else storages_of(args)
    kind = pickled_name(found[0].kind)[1] if found else ""
    return STORAGES[kind][0] if kind in STORAGES else None


def kind_of(tensor: StoredTensor) -> str:
    """Return the kind of a stand-in: ``tensor``, ``parameter``, ``sparse_tensor``, or the class name of a subclass."""
    function, args = tensor._function, tensor._args
    name = function.pickled_name[1]
    if name == "_rebuild_from_type_v2" and len(args) > 1 and is_named(args[1]):
        return ".".join(pickled_name(args[1]))
    return str(name.removeprefix("_rebuild_").removesuffix("_v2").removesuffix("_v3"))


def _shape(name: str, args: tuple[Any, ...]) -> StoredSize | None:
    """Return the shape from the arguments of a rebuilding function; None if unknown."""
    if name in _SHAPE_ARGUMENT:
        return StoredSize(args[_SHAPE_ARGUMENT[name]])
    if name == "_rebuild_from_type_v2" and isinstance(args[0], RebuildFunction):
        return _shape(args[0].pickled_name[1], args[2])
    if args and type(args[0]) is StoredTensor:
        return args[0].shape
    return None


def _touch(tensor: StoredTensor) -> NoReturn:
    function, args = tensor._function, tensor._args
    names = [arg for arg in args if is_named(arg)]
    function.touched.append(".".join([function, *names][-1].pickled_name))
    raise ContentNeeded("the content of a tensor")


def _flat(value: Any) -> list[Any]:
    if is_a(value, dict):
        value = list(value.values())
    if is_a(value, (list, tuple)):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _touching(name: str) -> Any:
    def operator(self: StoredTensor, *args: Any) -> NoReturn:
        _touch(self)

    operator.__name__ = name
    return operator


# Python looks operators up on the class, without __getattr__.
_OPERATORS = (
    "add radd iadd sub rsub isub mul rmul imul matmul rmatmul imatmul truediv rtruediv itruediv floordiv rfloordiv "
    "ifloordiv mod rmod imod pow rpow ipow and rand iand or ror ior xor rxor ixor lshift rlshift ilshift rshift "
    "rrshift irshift neg pos abs invert eq ne lt le gt ge len getitem setitem delitem iter contains bool int float "
    "complex index array dlpack"
)
for _name in _OPERATORS.split():
    setattr(StoredTensor, f"__{_name}__", _touching(f"__{_name}__"))


def is_real(value: Any) -> bool:
    """Return whether a value is a real tensor of torch."""
    return not is_stored(value) and type(value).__module__.startswith("torch") and hasattr(value, "untyped_storage")
