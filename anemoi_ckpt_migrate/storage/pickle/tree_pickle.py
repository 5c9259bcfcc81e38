"""Read and write the pickle inside a checkpoint without importing the names in it.

Reading builds plain containers, the few harmless types below, stand-ins for tensors, and opaque objects for all others.
No code named in the file runs. Writing restores all of them.
"""

from __future__ import annotations

import collections
import datetime
import functools
import io
import itertools
import pickle
import reprlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

from anemoi_ckpt_migrate.storage.pickle.class_safety import OPAQUE, imported, is_plain_member, is_trusted, standing
from anemoi_ckpt_migrate.storage.pickle.collisions import CountingUnpickler, KeyLimit
from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, Opaque, OpaqueName, class_of, opaque_name, settle
from anemoi_ckpt_migrate.storage.pickle.scan import Scanned, scan
from anemoi_ckpt_migrate.storage.pickle.tensor_opcodes import (
    WORD,
    TensorOpcodes,
    has_no_hooks,
    integer,
    integers,
    is_ordinary,
    text,
)
from anemoi_ckpt_migrate.storage.pickle.tensor_runs import REBUILD
from anemoi_ckpt_migrate.storage.tensors.refs import (
    REBUILD_MODULES,
    RebuildFunction,
    StoredSize,
    StoredStorage,
    StoredTensor,
    closed,
    is_a,
    is_stored,
    pickled_name,
    reduced,
    weight_of,
)

LONGEST = 1000
"""Maximal length of a name, of a storage's key and of a device, in characters: messages repeat them per object."""
# Limit for copies by calls, in lengths of the pickle: protocol 2 turns text into bytes, and those into a bytearray.
_COPIES, _ALWAYS = 2, 1000
_COLLISIONS = 1 << 21
"""Number of collisions that cost less than counting them."""


class Builder:
    """A name with a stricter meaning than its own.

    Attributes
    ----------
    pickled_name : tuple of (str, str)
        Module and name, as the pickle spells them.
    """

    __slots__ = ("_build", "pickled_name")

    def __init__(self, module: str, name: str, build: Callable[..., Any]) -> None:
        self.pickled_name, self._build = (module, name), build

    def __call__(self, *args: Any) -> Any:
        """Build the value."""
        return self._build(*args)

    __setstate__ = closed


def _encode(text: Any, encoding: Any) -> bytes:
    """Build `bytes` as protocol 2 spells them; no other object may go through codecs."""
    if not is_a(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes are spelled in an unknown way")
    return text.encode("latin-1")


def _bytes(*args: Any) -> bytes:
    """Build empty `bytes`, which protocol 2 spells this way; a number would allocate that much memory."""
    if args:
        raise pickle.UnpicklingError("bytes are spelled in an unknown way")
    return b""


def _bytearray(*args: Any) -> bytearray:
    """Build a `bytearray` from bytes only, for the same reason."""
    if len(args) == 2:
        return bytearray(_encode(*args))
    if args and (len(args) != 1 or not is_a(args[0], (bytes, bytearray))):
        raise pickle.UnpicklingError("a bytearray is spelled in an unknown way")
    return bytearray(*args)


def _empty(kind: type) -> Callable[..., Any]:
    """Build an empty container or a zero, as the factory of a defaultdict does; copies of other objects are refused."""

    def build(*args: Any) -> Any:
        if args:
            raise pickle.UnpicklingError(f"a {kind.__name__} is spelled in an unknown way")
        return kind()

    return build


def _complex(*args: Any) -> complex:
    """Build a complex number from numbers; text would be parsed each time."""
    if not all(is_a(arg, (int, float)) for arg in args):
        raise pickle.UnpicklingError("a complex number is spelled in an unknown way")
    return complex(*args)


def _with_zone(kind: Callable[..., Any], foreign: OpaqueName) -> Callable[..., Any]:
    """Build a date or time; one with a time zone of a class that is not imported stays opaque."""
    return lambda *args: foreign(*args) if any(is_a(arg, Opaque) for arg in args) else kind(*args)


SIZE = Builder("torch", "Size", StoredSize)

# By protocol.
_GETATTR = {2: Builder("__builtin__", "getattr", getattr), 3: Builder("builtins", "getattr", getattr)}

# Classes written in C only: a pickle cannot set attributes on them, so it cannot tamper with them.
_C_CLASSES = {
    "datetime": (datetime.date, datetime.timedelta, datetime.timezone),
}
_CONTAINERS: dict[str, tuple[type, ...]] = {
    "collections": (collections.OrderedDict, collections.defaultdict),
    "builtins": (frozenset, set),
}
_BUILDERS: dict[str, dict[str, Callable[..., Any]]] = {
    "_codecs": {"encode": _encode},
    "builtins": {
        "bytes": _bytes,
        "bytearray": _bytearray,
        "complex": _complex,
        **{kind.__name__: _empty(kind) for kind in (bool, dict, float, int, list, str, tuple)},
    },
}
_WITH_ZONE = {"datetime": datetime.datetime, "time": datetime.time}


def _check_name(module: str, name: str) -> None:
    """Check a name before it is read or written."""
    # In a line, a newline would turn the rest into opcodes; and the parts of a name are written one by one.
    if not module or not all(name.split(".")) or "\n" in module + name:
        raise pickle.UnpicklingError("a name does not have exactly one line")
    if not (module + name).isprintable() and any("\ud800" <= each <= "\udfff" for each in module + name):
        raise pickle.UnpicklingError("a name has characters that cannot be written")
    if len(module) + len(name) > LONGEST:
        raise pickle.UnpicklingError(f"a name has more than {LONGEST} characters")


# Names stay as spelled, to be written back unchanged. Strings of Python 2 are read as torch reads them.
_OPTIONS: dict[str, Any] = {"fix_imports": False, "encoding": "utf-8"}


class TreeUnpickler(pickle.Unpickler):
    """Load the pickle of a checkpoint as a tree of plain containers, stand-ins and opaque objects.

    Attributes
    ----------
    touched : list of str
        Classes or functions of the stand-ins that were asked for the content of a tensor.
    keys : dict of str to None
        Keys of the storages in the pickle, in its order.
    names : dict of (str, str) to bool
        Modules and names in the pickle, and whether they are built here without harm.
    scanned : Scanned or None
        What the scan before loading found. Who has scanned these bytes before sets it.

    Parameters
    ----------
    data : bytes
        The pickle.
    trusted : collection of str
        Modules whose classes are imported and built for real, if they exist.
    touched : list of str, optional
        The list that becomes `touched`, where the stand-ins of several pickles share one.
    """

    def __init__(self, data: bytes, trusted: Collection[str] = (), touched: list[str] | None = None) -> None:
        super().__init__(io.BytesIO(data), **_OPTIONS)
        self._data = data
        self.touched: list[str] = [] if touched is None else touched
        self.keys: dict[str, None] = {}
        self.names: dict[tuple[str, str], bool] = {}
        self.scanned: Scanned | None = None
        self._trusted, self._found = trusted, dict[tuple[str, str], Any]()
        self._calls = Calls(_COPIES * len(data) + _ALWAYS)
        self._unusual: list[StoredTensor] = []
        self._frozen: dict[int, tuple[frozenset[Any], int]] = {}
        self._keys = KeyLimit(len(data), self._visited)
        self._made: Iterator[StoredTensor] = iter(())
        self._ordered: list[collections.OrderedDict[Any, Any]] | None = None

    def find_class(self, module: str, name: str) -> Any:
        """Return the object for a name; only trusted names are imported."""
        key = (module, name)
        if key not in self._found:
            _check_name(module, name)
            harmless = self._harmless(module, name)
            self.names[key] = harmless is not None
            real = None
            if harmless is None and is_trusted(module, self._trusted):
                real = imported(module, name, self._trusted)
            self._found[key] = self.resolve(module, name) if real is None else real
        return self._found[key]

    def resolve(self, module: str, name: str) -> Any:
        """Return the object for a name that is not imported."""
        if harmless := self._harmless(module, name):
            return harmless
        if module in REBUILD_MODULES and name.startswith("_rebuild_"):
            return RebuildFunction((module, name), self.touched, self._unusual)
        return opaque_name(module, name, self._calls)

    def persistent_load(self, pid: Any) -> Any:
        """Return the stand-in of a storage, or the next tensor of a run."""
        if pid is None:
            tensor = next(self._made, None)
            if tensor is not None:  # if the pickle asks for one elsewhere, too, the last one is missing
                return tensor
        if type(pid) is tuple and len(pid) == 6 and pid[5] is None:
            pid = pid[:5]  # before torch 1.6, a view of another storage could follow
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # also before torch 1.6, the class of a module came with its source
        # Written out for speed, because this runs for every tensor.
        known = type(pid) is tuple and len(pid) == 5 and pid[0] == "storage"
        if not known or type(pid[2]) is not str or type(pid[3]) is not str or type(pid[4]) is not int:
            raise pickle.UnpicklingError(f"an external object is named in an unknown way: {reprlib.repr(pid)}")
        if not 0 <= pid[4] < 1 << 60 or type(pid[1]) is not OpaqueName:
            raise pickle.UnpicklingError("a storage has an impossible size or class")
        if len(pid[2]) > LONGEST or len(pid[3]) > LONGEST:
            raise pickle.UnpicklingError(f"the key or the device of a storage has more than {LONGEST} characters")
        self.keys[pid[2]] = None
        return StoredStorage(pid[1], pid[2], sys.intern(pid[3]), pid[4])

    def load(self) -> Any:
        """Load the tree.

        Raises
        ------
        Exception
            Any error: a damaged pickle raises almost anything.
        """
        self.scanned = found = self.scanned or scan(self._data)
        counting = found.collisions > _COLLISIONS
        if found.shares_state or counting:
            self._ordered = []
        if counting:
            tree = CountingUnpickler(io.BytesIO(self._data), self, self._keys, **_OPTIONS).load()
        else:
            if found.tensors:
                self._take_runs(found)
            tree = super().load()
        for tensor in self._unusual:
            self._calls.take(weight_of(tensor, self._calls.left))
        settle(self._calls)
        for made in self._ordered or ():
            del vars(made)["__setstate__"]
        return tree

    def _take_runs(self, found: Scanned) -> None:
        """Make the tensors of runs, all at once; what remains of the pickle asks for one after the other."""
        function = self.find_class(*REBUILD)
        kinds = {kind: self.find_class(*kind) for tensors, *_ in found.tensors for kind in set(tensors.kinds)}
        if type(function) is not RebuildFunction or any(type(kind) is not OpaqueName for kind in kinds.values()):
            return  # real tensors, or classes that cannot be those of storages
        hooks: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        made: list[StoredTensor] = []
        for tensors, begin, stop in found.tensors:
            each = tensors.part(begin, stop)
            named = map(kinds.__getitem__, each.kinds)
            storages = map(StoredStorage, named, each.storages, each.locations, each.counts)
            args = zip(
                storages, each.offsets, each.sizes, each.strides, each.grads, itertools.repeat(hooks), strict=False
            )
            made += map(StoredTensor, itertools.repeat(function), args)
            self.keys |= dict.fromkeys(each.storages)
        self._made = iter(made)
        super().__init__(io.BytesIO(found.rest), **_OPTIONS)

    def _harmless(self, module: str, name: str) -> Any:
        """Return the object for a harmless name; None for any other."""
        plain = "builtins" if module == "__builtin__" else module  # the name in Python 2 and in protocol 2
        build = _BUILDERS.get(plain, {}).get(name)
        if build is not None:
            build = functools.partial(self._counted, build)
        if module == "datetime" and name in _WITH_ZONE:
            build = _with_zone(_WITH_ZONE[name], opaque_name(module, name, self._calls))
        for kind in _CONTAINERS.get(plain, ()):
            if kind.__name__ == name:
                build = functools.partial(self._container, kind)
        if (module, name) == SIZE.pickled_name:
            build = functools.partial(self._container, StoredSize)
        for called, member in (("getattr", self._member), ("type", self._type)):
            if (plain, name) == ("builtins", called):
                build = functools.partial(self._counted, functools.partial(member, module))
        if build is not None:
            return Builder(module, name, build)
        return next((kind for kind in _C_CLASSES.get(plain, ()) if kind.__name__ == name), None)

    def _counted(self, build: Callable[..., Any], *args: Any) -> Any:
        """Build a value, and count everything copied for it."""
        for arg in args:
            self._calls.take(_length(arg))
        return build(*args)

    def _container(self, kind: type, *args: Any) -> Any:
        """Build a container from others, and count all their items; other arguments are refused."""
        first, weight = 1 if kind is collections.defaultdict else 0, 1
        given = []
        for arg in args[first:]:
            if not is_a(arg, _COUNTED):
                raise pickle.UnpicklingError(f"a {kind.__name__} is spelled in an unknown way")
            # A list, because from a dict or a set, Python makes tables of other sizes.
            paired = issubclass(kind, dict)
            given.append([(key, arg[key]) for key in arg] if paired and is_a(arg, dict) else list(arg))
            members = _keys(kind, given[-1]) if paired else given[-1]
            cost, weight = _weigh(members, self._frozen, self._calls.left)
            self._calls.take(cost)
            if issubclass(kind, (dict, set, frozenset)):
                self._keys.make(members, arg)
        made = kind(*args[:first], *given)
        if kind is frozenset:
            self._frozen[id(made)] = made, weight
        if self._ordered is not None and kind is collections.OrderedDict:
            made.__setstate__ = functools.partial(self._set_state, vars(made))
            self._ordered.append(made)
        return made

    def _set_state(self, attributes: dict[str, Any], state: Any) -> None:
        """Set the attributes of an `OrderedDict` as the unpickler does, and count everything copied for it."""
        for part in state if is_a(state, tuple) and len(state) == 2 else (state,):
            if part is not None and (not is_a(part, dict) or "__setstate__" in part):
                raise pickle.UnpicklingError("the state of an OrderedDict is spelled in an unknown way")
            self._calls.take(len(part or ()))
            self._keys.fill(attributes, part or ())
            attributes.update(part or {})

    def _visited(self, key: Any) -> int:
        """Count the objects that a comparison of a key visits."""
        return _weigh((key,), self._frozen, self._calls.left)[1]

    def _member(self, module: str, *args: Any) -> Any:
        """Return a nested class, which protocols below 4 spell this way; any other `getattr` is only noted.

        A method of an object of an opaque class is up to the author of that class. All other calls count as dangerous:
        the attributes of a method, a function or a module, and of Python's own objects that are harmless as data (a
        path can write).
        """
        if len(args) == 2 and is_a(args[0], type) and type(args[1]) is str and args[1].isidentifier():
            home = pickled_name(args[0], (args[0].__module__, args[0].__qualname__))
            return self.find_class(home[0], f"{home[1]}.{args[1]}")
        of_object = len(args) == 2 and is_a(args[0], Opaque) and standing(*class_of(args[0]), False) == OPAQUE
        return self._noted(module, "getattr", of_object and type(args[1]) is str and is_plain_member(args[1]), args)

    def _type(self, module: str, *args: Any) -> Any:
        """Note a call of `type`: harmless for None and NotImplemented, as in type hints; else it may make a class."""
        return self._noted(module, "type", len(args) == 1 and (args[0] is None or args[0] is NotImplemented), args)

    def _noted(self, module: str, name: str, harmless: bool, args: tuple[Any, ...]) -> Any:
        if not harmless:
            self.names[(module, name)] = False
        return opaque_name(module, name, self._calls)(*args)


_COUNTED = (list, tuple, dict, set, frozenset)


def _length(value: Any) -> int:
    """Count the characters or bytes copied to make one value from another."""
    if is_a(value, int):
        return value.bit_length() // 8
    return len(value) if is_a(value, (str, bytes, bytearray)) else 0


def _keys(kind: type, pairs: list[Any]) -> list[Any]:
    """Return the keys of pairs from which a dict is made."""
    if not all(is_a(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise pickle.UnpicklingError(f"the pairs of a {kind.__name__} are spelled in an unknown way")
    return [key for key, _ in pairs]


def _weigh(members: Any, frozen: Mapping[int, tuple[Any, int]], limit: float) -> tuple[int, int]:
    """Count the objects visited to make a container from members, and to compare it with another; stop after a limit.

    A frozenset remembers its hash. But those of equal hash are compared, member by member: each with a heavier one, so
    the heaviest does not count, unless the members together are beyond the limit.

    Parameters
    ----------
    members : collection
        The members, or the keys.
    frozen : mapping of int to tuple
        Known frozensets and their weights, by ``id``.
    limit : float
        The limit.
    """
    found, compared, heaviest, waiting = 0, 0, 0, [tuple(members)]
    while waiting and found + compared - heaviest <= limit:
        items = waiting.pop()
        found += len(items)
        for item in items:
            kind = type(item)
            if kind is int:  # first, as most are, of those many that a hostile pickle may have visited
                if not -_LARGE < item < _LARGE:
                    found += item.bit_length() // 8
            elif kind is frozenset and id(item) in frozen:
                weight = frozen[id(item)][1]
                compared, heaviest = compared + weight, max(heaviest, weight)
            elif is_a(item, (tuple, frozenset)):
                waiting.append(tuple(item))
    weight = found + compared
    return weight - heaviest if weight <= limit else weight, 1 + weight


_LARGE = 1 << 64


_SMALL = 1 << 31  # larger integers are written as long as they are
_LARGE = 1 << 63  # times in nanoseconds are smaller, and read as fast
_BATCH = 1000  # items that follow each other without a mark, as in the standard library

# The type checker takes it for the one in C, which lacks most of it.
_PythonPickler: Any = pickle._Pickler


class TreePickler(_PythonPickler):
    """Write a tree back. It uses the pure Python pickler, which can write a name without importing it.

    Attributes
    ----------
    keys : dict of str to None
        Keys of the storages in the pickle, in its order.
    names : dict of (str, str) to None
        Modules and names that are written without an import, except harmless ones.
    plain : bool
        Whether all that is written is of kinds that reading refuses for no limit: tensors as torch writes most of them,
        in lists and dicts with short keys.
    writes_tensors : bool
        Whether `persistent_id` leaves tensors to the pickler.
    """

    writes_tensors = True
    dispatch: ClassVar[dict[type, Any]] = dict(_PythonPickler.dispatch)

    def __init__(self, stream: io.BytesIO, protocol: int) -> None:
        super().__init__(stream, protocol)
        self.keys: dict[str, None] = {}
        self.names: dict[tuple[str, str], None] = {}
        self.plain = True
        self._done: set[int] = set()
        self._opcodes = TensorOpcodes(self.memo, self.keys)

    def save_reduce(
        self,
        func: Any,
        args: Any,
        state: Any = None,
        listitems: Any = None,
        dictitems: Any = None,
        *rest: Any,
        obj: Any = None,
    ) -> None:
        """Write how an object is built. Its items are written only once, even if its own arguments hold it."""
        self.plain &= func is collections.OrderedDict and (state is None or type(state) is dict)

        def once(items: Any) -> Any:
            if id(obj) not in self._done:
                yield from items

        lists, dicts = (items and once(items) for items in (listitems, dictitems))
        super().save_reduce(func, args, state, lists, dicts, *rest, obj=obj)
        self._done.add(id(obj))

    def save_ordered(self, obj: collections.OrderedDict[Any, Any]) -> None:
        """Write an `OrderedDict` with its items, even if an attribute is named `items`."""
        items = collections.OrderedDict.items(obj)
        self._note_keys(obj)
        self.save_reduce(collections.OrderedDict, (), vars(obj) or None, None, iter(items), obj=obj)

    def save_plain_dict(self, obj: dict[Any, Any]) -> None:
        """Write a dict."""
        self._note_keys(obj)
        self.save_dict(obj)

    def save_members(self, obj: Any) -> None:
        """Write a set or a frozenset."""
        self.plain = False
        super().dispatch[type(obj)](self, obj)

    def save_integer(self, obj: int) -> None:
        """Write an integer."""
        self.plain &= -_LARGE < obj < _LARGE
        self.save_long(obj)

    def _note_keys(self, keys: Any) -> None:
        self.plain &= all(
            (type(key) is str and len(key) <= LONGEST) or (type(key) is int and -_SMALL < key < _SMALL) for key in keys
        )

    def persistent_id(self, obj: Any) -> Any:
        """Describe storages in torch's form."""
        if type(obj) is not StoredStorage:
            return None
        self.keys[obj.key] = None
        return obj.persistent_id

    def save_name(self, obj: OpaqueName | RebuildFunction | Builder) -> None:
        """Write a name that is not imported."""
        module, name = obj.pickled_name
        _check_name(module, name)
        if type(obj) is not Builder:
            self.names[module, name] = None
        if self.proto < 4 and "." in name:  # Python's own spelling of a nested class
            outer, _, inner = name.rpartition(".")
            named = self.names.copy()  # the outer name only spells this one
            self.save_reduce(_GETATTR[self.proto], (opaque_name(module, outer, Calls()), inner), obj=obj)
            self.names = named
            return
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)

    def save_tensor(self, obj: StoredTensor) -> None:
        """Write a stand-in as its tensor."""
        function, args, state = reduced(obj)
        if state is None and self.proto < 4 and is_ordinary(args):
            self._write_ordinary(function, *args[:5])
            self.memoize(obj)
            self._opcodes.learn(function, args[0])
        else:
            if len(args) > 5 and has_no_hooks(args[5]):  # tensors that were read together share the empty hooks
                args = (*args[:5], collections.OrderedDict(), *args[6:])
            self.save_reduce(function, args, state, obj=obj)

    def _write_ordinary(
        self, function: RebuildFunction, storage: StoredStorage, offset: int, size: Any, stride: Any, grad: bool
    ) -> None:
        """Write an ordinary tensor opcode by opcode: its shape is not remembered, as the pickler would."""
        write = self.write
        self._write_again(function)
        write(pickle.MARK)
        self.keys[storage.key] = None
        write(pickle.MARK)
        self._write_again(WORD)
        self._write_again(storage.kind)
        write(text(storage.key))
        self._write_again(storage.location)
        write(integer(storage.numel) + pickle.TUPLE + pickle.BINPERSID)
        write(integer(offset) + integers(size) + integers(stride) + (pickle.NEWTRUE if grad else pickle.NEWFALSE))
        self._write_again(collections.OrderedDict)
        write(pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE)

    def _write_again(self, obj: Any) -> None:
        """Write an object that was probably written before."""
        known = self.memo.get(id(obj))
        if known is None:
            self.save(obj)
        else:
            self.write(self.get(known[0]))

    def _batch_setitems(self, items: Any, *rest: Any) -> None:
        """Write the items of a dict; many of them together, if they are tensors that are alike."""
        if not self.writes_tensors or self.proto >= 4:
            super()._batch_setitems(items, *rest)
            return
        items = iter(items)
        while batch := list(itertools.islice(items, _BATCH)):
            if len(batch) == 1 or not is_stored(batch[-1][1]):
                super()._batch_setitems(iter(batch), *rest)
                continue
            self.write(pickle.MARK)
            together = self._opcodes.many(batch)
            if together is not None:
                self.write(together)
            else:
                self._save_pairs(batch)
            self.write(pickle.SETITEMS)

    def _save_pairs(self, pairs: list[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            alike = self._opcodes.one(key, value) if type(key) is str and is_stored(value) else None
            if alike is not None:
                self.write(alike)
            else:
                self.save(key)
                self.save(value)

    def save_size(self, obj: StoredSize) -> None:
        """Write the shape of a stand-in as a `torch.Size`."""
        self.save_reduce(SIZE, (tuple(obj),), obj=obj)

    dispatch[dict] = save_plain_dict
    dispatch[set] = dispatch[frozenset] = save_members
    dispatch[int] = save_integer
    dispatch[OpaqueName] = save_name
    dispatch[RebuildFunction] = save_name
    dispatch[Builder] = save_name
    dispatch[collections.OrderedDict] = save_ordered
    dispatch[StoredTensor] = save_tensor
    dispatch[StoredSize] = save_size


def protocol_of(data: bytes) -> int:
    """Return the protocol that a pickle declares; 2, torch's own, if it declares none."""
    return data[1] if len(data) > 1 and data[:1] == pickle.PROTO else 2
