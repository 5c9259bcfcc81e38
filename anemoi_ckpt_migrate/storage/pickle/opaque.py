"""Opaque objects: what a pickle builds from classes that are not imported.

A pickle names classes and functions and says how to call them. Nothing of that is run here. Every name
becomes an `OpaqueName`, every object built through one an `Opaque` that remembers how it was built. Both are
written back as they came, so that an unpickler that does import the class builds what it built before.
"""

from __future__ import annotations

import copy
import copyreg
import math
import pickle
import weakref
from collections.abc import Collection, Iterator
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.refs import is_a

_FEW = 8  # arguments, which are not worth counting


class Calls(list["Call"]):
    """Calls that one pickle makes, noted while it is being loaded; and how much more they may copy.

    Parameters
    ----------
    allowed : float
        How many items and characters all calls together may copy.

    Attributes
    ----------
    loading : bool
        Whether it still is: then what is set on an object is what the pickle says, and later what a migration says.
    """

    def __init__(self, allowed: float = math.inf) -> None:
        super().__init__()
        self.loading = True
        self.left = allowed
        self._held: dict[int, tuple[Any, int]] = {}

    def take(self, count: int) -> None:
        """Count what is copied.

        Raises
        ------
        pickle.UnpicklingError
            It is more than the pickle may copy.
        """
        self.left -= count
        if self.left < 0:
            raise pickle.UnpicklingError("it copies more than it holds")

    def take_arguments(self, args: Collection[Any]) -> None:
        """Count the arguments of a call, which Python copies. A few are what every call has."""
        if len(args) > _FEW:
            self.take(len(args))

    def note_held(self, value: Collection[Any]) -> None:
        """Note that one more object holds a container that every walk over the tree goes through anew."""
        self._held[id(value)] = value, self._held.get(id(value), (value, 0))[1] + 1

    def take_held(self) -> None:
        """Count the containers that several objects hold: only now is it known how long they have become."""
        for value, count in self._held.values():
            self.take((count - 1) * len(value))
        self._held.clear()


# A call of a two-argument function, as one pickle makes it: its result, the function, its arguments.
Call = tuple["weakref.ref[Opaque]", Any, tuple[Any, ...]]


class Parts:
    """How an opaque object was built, in the pickle's terms.

    Attributes
    ----------
    function : object
        What was called; None where the class made a bare instance (``cls.__new__``).
    args, kwargs : tuple, dict
        The arguments.
    state : object
        What ``__setstate__`` or ``__dict__`` receives; None for none.
    items, pairs : list, dict
        List items and dict items.
    setter : object or None
        The function that is called with the object and the state instead of ``__setstate__``.
    calls : Calls
        Where further calls are noted while the pickle is being loaded.
    """

    __slots__ = ("args", "calls", "function", "items", "kwargs", "pairs", "setter", "state")

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], calls: Calls) -> None:
        self.function, self.args, self.kwargs, self.calls = function, args, kwargs, calls
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}
        self.setter: Any = None

    def attributes(self) -> list[dict[str, Any]]:
        """Return the dicts of the state that stand for attributes: ``__dict__``, and ``__slots__`` beside it."""
        pair = self.state if is_a(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return [part for part in pair if is_a(part, dict)]

    def has_no_items(self) -> bool:
        """Tell whether the object is one of attributes alone: its class would not know what to do with an item."""
        return self.state is not None and not self.items and not self.pairs

    def sequence(self, key: Any) -> Any:
        """Return where a key belongs: the list items for an index or a slice into them, else the dict items."""
        return self.items if is_a(key, slice) or (self.items and is_a(key, int)) else self.pairs


class OpaqueName(type):
    """A class or function that a pickle names, without the thing itself.

    The unpickler insists that classes are types, so each name is a type of its own, made by `opaque_name`.
    """

    __name_and_calls__: tuple[tuple[str, str], Calls]

    @property
    def pickled_name(cls) -> tuple[str, str]:
        """Module and qualified name, as the pickle spells them."""
        return cls.__name_and_calls__[0]

    def __call__(cls, *args: Any) -> Opaque:
        """Note a call (the pickle's REDUCE), and return what stands for its result."""
        return _called(cls, args, cls.__name_and_calls__[1])

    def __repr__(cls) -> str:
        return f"<name {'.'.join(cls.pickled_name)}>"


class Opaque(metaclass=OpaqueName):
    """An object of a class that is not imported: readable, editable, written back unchanged.

    Its attributes are those that the pickle restores; they win over the methods here. Its items are the list items and
    dict items of the pickle; those with a name may be read as attributes too, as configurations often allow.
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

    # What the unpickler calls while it builds the object, and the author of a migration may call later.

    def __call__(self, *args: Any) -> Opaque:
        """Note a call of what a pickle built, and return what stands for its result."""
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
        # A dict's and a list's own methods, on the items.
        holder = parts.items if parts.items else parts.pairs
        if not name.startswith("__") and hasattr(holder, name) and not parts.has_no_items():
            return getattr(holder, name)
        if name.startswith("__"):  # Python asks for these, of each of many calls within each other: nobody reads that
            raise AttributeError(name)
        raise AttributeError(f"{self!r} carries no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        parts = self.__opaque_parts__
        holders = [attributes for attributes in (*parts.attributes(), parts.pairs) if name in attributes]
        holders += parts.attributes()
        if not holders:
            if parts.state is not None or parts.pairs or parts.items:
                raise AttributeError(
                    f"{self!r} has no attributes yet, so {name!r} may belong among its items: set obj[{name!r}] instead"
                )
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
        # It would be taken for the value: a path, a dtype, a number.
        raise TypeError(f"the text of {self!r} is known to its class only: have its module `trusted`, or use its repr")

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
        """Describe the object to a pickler, in the terms in which it was described to us."""
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
        The two words that the pickle gives.
    calls : Calls
        Where calls made during loading are noted, one list for each pickle.
    """
    namespace = {"__slots__": (), "__name_and_calls__": ((module, qualname), calls)}
    return OpaqueName(qualname.rpartition(".")[2] or "?", (Opaque,), namespace)


def instance(module: str, qualname: str, attributes: dict[str, Any]) -> Opaque:
    """Make an object of a class that is not imported: one that a pickle makes bare, and gives attributes.

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
    """Decide, after loading, which calls were made for their effect on their first argument only.

    A pickle may restore state by calling ``setter(obj, state)`` and dropping the result: the sixth item of what
    ``__reduce__`` returns. The unpickler does not show that it dropped something; that the result is gone does.

    Raises
    ------
    pickle.UnpicklingError
        Such a call was made on something that is not opaque, where it could not be written back; or objects share
        their attributes so often that all of them together are far longer than the pickle.
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
    """Return module and qualified name of the class (or function) that an opaque object was built by."""
    parts = opaque.__opaque_parts__
    function = parts.function
    if function is None:
        return type(opaque).pickled_name
    if is_a(function, Opaque):
        made_by, wrapped = class_of(function), function.__opaque_parts__.args
        if made_by == ("functools", "partial") and wrapped:
            made_by = getattr(wrapped[0], "pickled_name", made_by)
        # A ``__new__`` with names for its arguments, as protocols below 4 spell it.
        return made_by[0], made_by[1].removesuffix(".__new__")
    name: tuple[str, str] = getattr(function, "pickled_name", ("?", "?"))
    if name[1] == "_reconstructor" and parts.args:
        name = getattr(parts.args[0], "pickled_name", name)
    return name


def _refuse_items(opaque: Opaque) -> None:
    if opaque.__opaque_parts__.has_no_items():
        raise TypeError(f"{opaque!r} holds attributes and no items: set an attribute instead")


def _refuse_unknown_items(opaque: Opaque) -> None:
    """Refuse to say that there are no items where the pickle may spell them otherwise, as those of an array."""
    parts = opaque.__opaque_parts__
    if parts.pairs or parts.items:
        return
    if not all(is_a(arg, type) for arg in parts.args) or (parts.state is not None and not parts.attributes()):
        raise TypeError(f"whether {opaque!r} has items is known to its class only: have its module `trusted`")


def _called(function: Any, args: tuple[Any, ...], calls: Calls) -> Opaque:
    calls.take_arguments(args)
    made = object.__new__(Opaque)
    object.__setattr__(made, "__opaque_parts__", Parts(function, args, {}, calls))
    if len(args) == 2:
        calls.append((weakref.ref(made), function, args))
    return made
