"""Opaque objects: stand-ins for objects of classes that are not imported.

A pickle names classes and functions and says how to call them. Here nothing of that runs. Every name becomes an
`OpaqueName`, and every object built through one becomes an `Opaque` that remembers how it was built. Both are written
back unchanged, so that an unpickler that imports the class builds the same object as before.
"""

from __future__ import annotations

import copy
import copyreg
import math
import pickle
import weakref
from collections.abc import Collection, Iterator
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.refs import is_a, pickled_name

_FEW = 8  # arguments, or calls within each other: too few to count


class Calls(list["Call"]):
    """The calls in one pickle, noted while it is loaded, with a limit on copied items.

    Parameters
    ----------
    allowed : float
        Total number of items and characters that all calls may copy.

    Attributes
    ----------
    loading : bool
        Whether the pickle is still loading. Until then, the pickle sets values on objects; later, migrations do.
    """

    def __init__(self, allowed: float = math.inf) -> None:
        super().__init__()
        self.loading = True
        self.left = allowed
        self._held: dict[int, tuple[Any, int]] = {}

    def take(self, count: int) -> None:
        """Count copied items.

        Raises
        ------
        pickle.UnpicklingError
            The pickle copies more than it may.
        """
        self.left -= count
        if self.left < 0:
            raise pickle.UnpicklingError("it copies more than it holds")

    def take_arguments(self, args: Collection[Any]) -> None:
        """Count the arguments of a call, which Python copies. A few arguments are normal and do not count."""
        if len(args) > _FEW:
            self.take(len(args))

    def take_level(self, level: int) -> None:
        """Count the calls within the function of a call, because `class_of` walks them. A few are normal."""
        if level > _FEW:
            self.take(level)

    def note_held(self, value: Collection[Any]) -> None:
        """Note another object that holds a container, because every walk over the tree visits the container again."""
        self._held[id(value)] = value, self._held.get(id(value), (value, 0))[1] + 1

    def take_held(self) -> None:
        """Count the containers that several objects hold; their final lengths are known only now."""
        for value, count in self._held.values():
            self.take((count - 1) * len(value))
        self._held.clear()


# A call of a two-argument function in a pickle: its result, the function, its arguments.
Call = tuple["weakref.ref[Opaque]", Any, tuple[Any, ...]]


class Parts:
    """How an opaque object was built, in the terms of the pickle.

    Attributes
    ----------
    function : object
        The called function; None for a bare instance of the class (``cls.__new__``).
    args, kwargs : tuple, dict
        The arguments.
    state : object
        The argument of ``__setstate__``, or the content of ``__dict__``; None without a state.
    items, pairs : list, dict
        List items and dict items.
    setter : object or None
        A function called with the object and the state instead of ``__setstate__``.
    level : int
        The number of calls within each other that made the function.
    calls : Calls
        Where further calls are noted during loading.
    """

    __slots__ = ("args", "calls", "function", "items", "kwargs", "level", "pairs", "setter", "state")

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], calls: Calls) -> None:
        self.function, self.args, self.kwargs, self.calls = function, args, kwargs, calls
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}
        self.setter: Any = None
        self.level: int = function.__opaque_parts__.level + 1 if is_a(function, Opaque) else 0

    def attributes(self) -> list[dict[str, Any]]:
        """Return the dicts of attributes in the state: ``__dict__``, and ``__slots__`` beside it."""
        pair = self.state if is_a(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return [part for part in pair if is_a(part, dict)]

    def has_no_items(self) -> bool:
        """Return whether the object has attributes alone: its class could not handle an item."""
        return self.state is not None and not self.items and not self.pairs

    def sequence(self, key: Any) -> Any:
        """Return the container for a key: the list items for an index or a slice into them, else the dict items."""
        return self.items if is_a(key, slice) or (self.items and is_a(key, int)) else self.pairs


class OpaqueName(type):
    """A class or function named in a pickle, without the real one.

    The unpickler insists that classes are types, so each name is a type of its own, made by `opaque_name`.
    """

    __name_and_calls__: tuple[tuple[str, str], Calls]

    @property
    def pickled_name(cls) -> tuple[str, str]:
        """Module and qualified name, as the pickle spells them."""
        return cls.__name_and_calls__[0]

    def __call__(cls, *args: Any) -> Opaque:
        """Note a call (the pickle's REDUCE), and return a stand-in for its result."""
        return _called(cls, args, cls.__name_and_calls__[1])

    def __repr__(cls) -> str:
        return f"<name {'.'.join(cls.pickled_name)}>"


class Opaque(metaclass=OpaqueName):
    """An object of a class that is not imported: readable, editable, written back unchanged.

    The attributes are those that the pickle restores; they take precedence over the methods here. The items are the
    list items and dict items of the pickle. You can also read named items as attributes, as configurations often allow.
    """

    __slots__ = ("__opaque_parts__", "__weakref__")
    __name_and_calls__: tuple[tuple[str, str], Calls] = (("", ""), Calls())
    __opaque_parts__: Parts

    def __new__(cls, *args: Any, **kwargs: Any) -> Opaque:
        """Note an object made by ``cls.__new__``, the pickle's NEWOBJ; a call goes through `OpaqueName.__call__`."""
        calls = cls.__name_and_calls__[1]
        calls.take_arguments(args)
        calls.take_arguments(kwargs)
        made = object.__new__(cls)
        object.__setattr__(made, "__opaque_parts__", Parts(None, args, kwargs, calls))
        return made

    # The unpickler calls these methods while it builds the object; a migration may call them later.

    def __call__(self, *args: Any) -> Opaque:
        """Note a call of an object from the pickle, and return a stand-in for its result."""
        return _called(self, args, self.__opaque_parts__.calls)

    def __setstate__(self, state: Any) -> None:
        if self.__opaque_parts__.state is not None:
            raise pickle.UnpicklingError(f"the state of {self!r} is restored twice")
        parts = self.__opaque_parts__
        parts.state = state
        for attributes in parts.attributes() if parts.calls.loading else ():
            parts.calls.note_held(attributes)

    def append(self, item: Any) -> None:
        """Add one list item."""
        _refuse_items(self)
        self.__opaque_parts__.items.append(item)

    def extend(self, items: Any) -> None:
        """Add list items."""
        _refuse_items(self)
        self.__opaque_parts__.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_items(self)
        parts = self.__opaque_parts__
        if not parts.calls.loading:
            parts.sequence(key)[key] = value
        elif key in parts.pairs:
            raise pickle.UnpicklingError(f"an item of {self!r} is set twice")
        else:
            parts.pairs[key] = value

    # Reading and editing.

    def __getitem__(self, key: Any) -> Any:
        return self.__opaque_parts__.sequence(key)[key]

    def __delitem__(self, key: Any) -> None:
        del self.__opaque_parts__.sequence(key)[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.__opaque_parts__.pairs or key in self.__opaque_parts__.items

    def __iter__(self) -> Iterator[Any]:
        _refuse_unknown_items(self)
        return iter(self.__opaque_parts__.pairs or self.__opaque_parts__.items)

    def __len__(self) -> int:
        _refuse_unknown_items(self)
        return len(self.__opaque_parts__.pairs) + len(self.__opaque_parts__.items)

    def __bool__(self) -> bool:
        return True  # an object without items is not "nothing"

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            for attributes in self.__opaque_parts__.attributes():
                if name in attributes:
                    return attributes[name]
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        parts = self.__opaque_parts__
        if name in parts.pairs:
            return parts.pairs[name]
        # Methods of dict and list, applied to the items.
        holder = parts.items if parts.items else parts.pairs
        if not name.startswith("__") and hasattr(holder, name) and not parts.has_no_items():
            return getattr(holder, name)
        if name.startswith("__"):  # Python asks for these on each of many nested calls: no message is needed
            raise AttributeError(name)
        raise AttributeError(f"{self!r} carries no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        parts = self.__opaque_parts__
        holders = [attributes for attributes in (*parts.attributes(), parts.pairs) if name in attributes]
        holders += parts.attributes()
        if not holders:
            if parts.state is not None or parts.pairs or parts.items:
                raise AttributeError(f"{self!r} has items and no attributes: set obj[{name!r}] if {name!r} is an item")
            parts.state = {}
            holders.append(parts.state)
        holders[0][name] = value

    def __delattr__(self, name: str) -> None:
        parts = self.__opaque_parts__
        for attributes in (*parts.attributes(), parts.pairs):
            if name in attributes:
                del attributes[name]
                return
        raise AttributeError(f"{self!r} carries no attribute {name!r}")

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        found = self.__opaque_parts__.attributes()
        return found[0] if found else {}

    def __repr__(self) -> str:
        return f"<opaque {'.'.join(class_of(self))}>"

    def __str__(self) -> str:
        # A text would be mistaken for the value: a path, a dtype, a number.
        raise TypeError(f"only the class of {self!r} knows its text: add its module to `trusted`, or use its repr")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Opaque:
        parts = self.__opaque_parts__
        made = object.__new__(type(self))
        memo[id(self)] = made
        copied = Parts(copy.deepcopy(parts.function, memo), (), {}, parts.calls)
        object.__setattr__(made, "__opaque_parts__", copied)
        for name in ("args", "kwargs", "state", "items", "pairs", "setter"):
            setattr(copied, name, copy.deepcopy(getattr(parts, name), memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Describe the object to a pickler, in the terms of its old pickle."""
        parts = self.__opaque_parts__
        function, args = parts.function, parts.args
        if function is None and parts.kwargs:
            function, args = copyreg.__newobj_ex__, (type(self), parts.args, parts.kwargs)  # type: ignore[attr-defined]
        elif function is None:
            function, args = copyreg.__newobj__, (type(self), *parts.args)  # type: ignore[attr-defined]
        items = iter(parts.items) if parts.items else None
        pairs = iter(parts.pairs.items()) if parts.pairs else None
        reduced = (function, args, parts.state, items, pairs)
        return reduced if parts.setter is None else (*reduced, parts.setter)


def opaque_name(module: str, qualname: str, calls: Calls) -> OpaqueName:
    """Make the stand-in of a class or function.

    Parameters
    ----------
    module, qualname : str
        The module and the name in the pickle.
    calls : Calls
        Where calls during loading are noted; each pickle has one list.
    """
    namespace = {"__slots__": (), "__name_and_calls__": ((module, qualname), calls)}
    return OpaqueName(qualname.rpartition(".")[2] or "?", (Opaque,), namespace)


def instance(module: str, qualname: str, attributes: dict[str, Any]) -> Opaque:
    """Make an object of a class that is not imported, as a pickle does: bare, then with attributes.

    Parameters
    ----------
    module, qualname : str
        The class.
    attributes : dict of str to object
        Its attributes.
    """
    calls = Calls()
    calls.loading = False
    made: Opaque = object.__new__(Opaque)
    object.__setattr__(made, "__class__", opaque_name(module, qualname, calls))
    object.__setattr__(made, "__opaque_parts__", Parts(None, (), {}, calls))
    made.__opaque_parts__.state = attributes
    return made


def settle(calls: Calls) -> None:
    """Find the calls, after loading, that were made only for their effect on their first argument.

    A pickle may restore state by calling ``setter(obj, state)`` and dropping the result: ``setter`` is the sixth item
    that ``__reduce__`` returns. The unpickler does not report the drop, but the result no longer exists.

    Raises
    ------
    pickle.UnpicklingError
        Such a call was made on an object that is not opaque, so that it could not be written back. Or objects share
        their attributes so often that all attributes together are far longer than the pickle.
    """
    for result, function, (target, state) in calls:
        if result() is None:
            parts = target.__opaque_parts__ if is_a(target, Opaque) else None
            if parts is None or parts.setter is not None or parts.state is not None:
                raise pickle.UnpicklingError(f"the state of a {type(target).__name__} is set by a call of {function!r}")
            parts.setter, parts.state = function, state
            for attributes in parts.attributes():
                calls.note_held(attributes)
    calls.take_held()
    calls.clear()
    calls.left = math.inf
    calls.loading = False


def class_of(opaque: Opaque) -> tuple[str, str]:
    """Return module and name of the class or function that built an opaque object."""
    made = [opaque]  # what was made by a call, the function of that if a call made it too, and so on
    while is_a(function := made[-1].__opaque_parts__.function, Opaque):
        made.append(function)
    name = _made_by(made[-1])
    for function in made[:0:-1]:
        args = function.__opaque_parts__.args
        if name == ("functools", "partial") and args:
            name = pickled_name(args[0], name)
        # A ``__new__`` with keyword arguments, as protocols below 4 spell it.
        name = name[0], name[1].removesuffix(".__new__")
    return name


def _made_by(opaque: Opaque) -> tuple[str, str]:
    """Return the name of the class or function of an object whose function was not made by a call."""
    parts = opaque.__opaque_parts__
    if parts.function is None:
        return type(opaque).pickled_name
    name = pickled_name(parts.function, ("?", "?"))
    return pickled_name(parts.args[0], name) if name[1] == "_reconstructor" and parts.args else name


def _refuse_items(opaque: Opaque) -> None:
    if opaque.__opaque_parts__.has_no_items():
        raise TypeError(f"{opaque!r} has attributes and no items: set an attribute instead")


def _refuse_unknown_items(opaque: Opaque) -> None:
    """Refuse to report no items if the pickle may store them in another form, as for an array."""
    parts = opaque.__opaque_parts__
    if parts.pairs or parts.items:
        return
    if not all(is_a(arg, type) for arg in parts.args) or (parts.state is not None and not parts.attributes()):
        raise TypeError(f"only the class of {opaque!r} knows whether it has items: add its module to `trusted`")


def _called(function: Any, args: tuple[Any, ...], calls: Calls) -> Opaque:
    calls.take_arguments(args)
    made = object.__new__(Opaque)
    parts = Parts(function, args, {}, calls)
    calls.take_level(parts.level)
    object.__setattr__(made, "__opaque_parts__", parts)
    if len(args) == 2:
        calls.append((weakref.ref(made), function, args))
    return made
