"""Opaque objects: what a pickle builds from classes that are not imported.

A pickle names classes and functions and says how to call them. Nothing of that is run here. Every name
becomes an `OpaqueName`, every object built through one an `Opaque` that remembers how it was built. Both are
written back as they came, so that an unpickler that does import the class builds what it built before.
"""

from __future__ import annotations

import copyreg
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

_SLOTS = ("_callable", "_args", "_kwargs", "_state", "_items", "_pairs", "_setter", "_calls", "__weakref__")

# A call of a two-argument function, as one pickle makes it: its result, the function, its arguments.
Call = tuple["weakref.ref[Opaque]", Any, tuple[Any, ...]]


class OpaqueName(type):
    """A class or function that a pickle names, without the thing itself.

    The unpickler insists that classes are types, so each name is a type of its own, made by `opaque_name`.

    Attributes
    ----------
    pickled_name : tuple of (str, str)
        Module and qualified name, as the pickle spells them.
    calls : list
        The calls made while the pickle is being loaded; see `settle`.
    """

    pickled_name: tuple[str, str]
    calls: list[Call]

    def __call__(cls, *args: Any) -> Opaque:
        """Note a call (the pickle's REDUCE), and return what stands for its result."""
        return _called(cls, args, cls.calls)

    def __repr__(cls) -> str:
        return f"<name {'.'.join(cls.pickled_name)}>"


class Opaque(metaclass=OpaqueName):
    """An object of a class that is not imported: readable, editable, written back unchanged.

    Attributes and items are looked up in what the pickle says about the object: its state (what
    ``__setstate__`` or ``__dict__`` would receive), its list items and its dict items.
    """

    __slots__ = _SLOTS

    _callable: Any
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _state: Any
    _items: list[Any]
    _pairs: dict[Any, Any]
    _setter: tuple[Any, Any] | None
    _calls: list[Call]

    pickled_name = ("", "")
    calls: ClassVar[list[Call]] = []

    def __new__(cls, *args: Any, **kwargs: Any) -> Opaque:
        """Note an object made by ``cls.__new__``, the pickle's NEWOBJ; a call goes through `OpaqueName.__call__`."""
        return _fill(object.__new__(cls), None, args, kwargs, cls.calls)

    # What the unpickler calls while it builds the object, and the author of a migration may call later.

    def __call__(self, *args: Any) -> Opaque:
        """Note a call of what a pickle built, and return what stands for its result."""
        return _called(self, args, self._calls)

    def __setstate__(self, state: Any) -> None:
        if self._state is not None:
            raise pickle.UnpicklingError(f"the state of {self!r} is restored twice")
        self._state = state

    def append(self, item: Any) -> None:
        """Add one list item."""
        self._items.append(item)

    def extend(self, items: Any) -> None:
        """Add list items."""
        self._items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._items and isinstance(key, int):
            self._items[key] = value
        else:
            self._pairs[key] = value

    # Reading and editing.

    def __getitem__(self, key: Any) -> Any:
        if self._items and isinstance(key, (int, slice)):
            return self._items[key]
        return self._pairs[key]

    def __delitem__(self, key: Any) -> None:
        if self._items and isinstance(key, (int, slice)):
            del self._items[key]
        else:
            del self._pairs[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._pairs or key in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pairs or self._items)

    def __len__(self) -> int:
        return len(self._pairs) + len(self._items)

    def __bool__(self) -> bool:
        return True  # an object without items is not "nothing"

    def keys(self) -> Any:
        """Return the keys of the dict items."""
        return self._pairs.keys()

    def values(self) -> Any:
        """Return the values of the dict items."""
        return self._pairs.values()

    def items(self) -> Any:
        """Return the dict items."""
        return self._pairs.items()

    def __getattr__(self, name: str) -> Any:
        if not (name.startswith("__") and name.endswith("__")):
            for attributes in _attributes(self):
                if name in attributes:
                    return attributes[name]
        raise AttributeError(f"{self!r} carries no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SLOTS:
            object.__setattr__(self, name, value)
            return
        found = _attributes(self)
        holder = next((attributes for attributes in found if name in attributes), None)
        if holder is None and found:
            holder = found[0]
        if holder is None:
            if self._state is not None:
                raise AttributeError(f"the state of {self!r} has no attributes to set {name!r} among")
            holder = self._state = {}
        holder[name] = value

    def __delattr__(self, name: str) -> None:
        for attributes in _attributes(self):
            if name in attributes:
                del attributes[name]
                return
        raise AttributeError(f"{self!r} carries no attribute {name!r}")

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        found = _attributes(self)
        return found[0] if found else {}

    def __repr__(self) -> str:
        return f"<opaque {'.'.join(class_of(self))}>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Describe the object to a pickler, in the terms in which it was described to us."""
        function, args = self._callable, self._args
        if function is None and self._kwargs:
            function, args = copyreg.__newobj_ex__, (type(self), self._args, self._kwargs)  # type: ignore[attr-defined]
        elif function is None:
            function, args = copyreg.__newobj__, (type(self), *self._args)  # type: ignore[attr-defined]
        items = iter(self._items) if self._items else None
        pairs = iter(self._pairs.items()) if self._pairs else None
        if self._setter is not None:
            setter, state = self._setter
            return function, args, state, items, pairs, setter
        return function, args, self._state, items, pairs


def opaque_name(module: str, qualname: str, calls: list[Call]) -> OpaqueName:
    """Make the stand-in of a class or function.

    Parameters
    ----------
    module, qualname : str
        The two words that the pickle gives.
    calls : list
        Where calls made during loading are noted, one list for each pickle.
    """
    made = OpaqueName(qualname.rpartition(".")[2] or "?", (Opaque,), {"__slots__": ()})
    made.pickled_name, made.calls = (module, qualname), calls
    return made


def settle(calls: list[Call]) -> None:
    """Decide, after loading, which calls were made for their effect on their first argument only.

    A pickle may restore state by calling ``setter(obj, state)`` and dropping the result: the sixth item of what
    ``__reduce__`` returns. The unpickler does not show that it dropped something; that the result is gone does.

    Raises
    ------
    pickle.UnpicklingError
        Such a call was made on something that is not opaque, where it could not be written back.
    """
    for result, function, (target, state) in calls:
        if result() is None:
            if not isinstance(target, Opaque) or target._setter is not None or target._state is not None:
                raise pickle.UnpicklingError(f"the state of {target!r} is set by {function!r}")
            target._setter = (function, state)
    calls.clear()


def class_of(opaque: Opaque) -> tuple[str, str]:
    """Return module and qualified name of the class (or function) that an opaque object was built by."""
    function = opaque._callable
    if function is None:
        return type(opaque).pickled_name
    if isinstance(function, Opaque):
        return class_of(function)
    name: tuple[str, str] = getattr(function, "pickled_name", ("?", "?"))
    if name[1] == "_reconstructor" and opaque._args:
        name = getattr(opaque._args[0], "pickled_name", name)
    return name


def parts(opaque: Opaque) -> list[Any]:
    """Return everything that an opaque object holds, for walking a tree."""
    held = [opaque._args, opaque._kwargs, opaque._state, opaque._items, opaque._pairs, opaque._setter]
    return [*held, opaque._callable]


def _fill(
    made: Opaque,
    function: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    calls: list[Call],
) -> Opaque:
    made._callable, made._args, made._kwargs = function, args, kwargs
    made._state, made._items, made._pairs = None, [], {}
    made._setter, made._calls = None, calls
    return made


def _called(function: Any, args: tuple[Any, ...], calls: list[Call]) -> Opaque:
    made = _fill(object.__new__(Opaque), function, args, {}, calls)
    if len(args) == 2:
        calls.append((weakref.ref(made), function, args))
    return made


def _attributes(opaque: Opaque) -> list[dict[str, Any]]:
    """Return the dicts of a state that stand for attributes: ``__dict__``, and ``__slots__`` beside it."""
    state = opaque._setter[1] if opaque._setter is not None else opaque._state
    pair = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return [part for part in pair if isinstance(part, dict)]
