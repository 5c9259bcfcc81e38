"""Placeholders for objects of removed classes: any Python can load them, and they can be undone.

An object becomes a `types.SimpleNamespace` with the same attributes. A bare class or function becomes a
`functools.partial` that makes one. Under `KEY`, both store the original name and everything in the pickle beyond the
attributes. So all attributes stay in their place, and shared objects stay shared.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, Opaque, OpaqueName, Parts, class_of, opaque_name
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, pickled_name
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

KEY = "missing_class"
"""The attribute of a placeholder that names the original."""

Name = tuple[str, str]
_NAMESPACE, _PARTIAL = MADE_OF = ("types", "SimpleNamespace"), ("functools", "partial")
_CALLED = ("function", "setter")
_EMPTY: dict[str, Any] = {"args": (), "kwargs": {}, "items": [], "pairs": {}, "setter": None, "function": None}


@dataclass(frozen=True)
class PickledState:
    """The pickled content of an object whose class is not imported or was removed. To change it, change the object.

    Attributes
    ----------
    name : str
        The class, or the function that made it, as ``pkg.mod.Class``.
    args, kwargs : tuple, dict
        The arguments of the call.
    attributes : dict of str to object
        Its attributes.
    items, pairs : list, dict
        List items and dict items.
    placeholder : bool
        Whether it is a placeholder, because a revision removed the class.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)
    placeholder: bool = False


def pickled_state(value: Any) -> PickledState | None:
    """Return the pickled content of an object whose class is not imported or was removed; None for other values.

    Parameters
    ----------
    value : object
        A value in a checkpoint, as `migrate` gets it.
    """
    if is_a(value, OpaqueName):
        return PickledState(".".join(value.pickled_name))
    if not is_a(value, Opaque):
        return None
    parts, held = value.__opaque_parts__, _held(value)
    if held is None:
        attributes = _attributes(parts.state)
        return PickledState(".".join(class_of(value)), parts.args, parts.kwargs, attributes, parts.items, parts.pairs)
    attributes = {key: item for key, item in _attributes(parts.state).items() if key != KEY}
    attributes |= _attributes(held.get("state"))
    more = {name: held[name] for name in ("args", "kwargs", "items", "pairs") if name in held}
    return PickledState(".".join(_split(held["name"])), attributes=attributes, placeholder=True, **more)


def stands_for(value: Any) -> Name | None:
    """Return module and name of a placeholder's original; None for other values."""
    held = _held(value) if is_a(value, Opaque) else None
    return None if held is None else _split(held["name"])


def of_name(name: Name, known: dict[Name, OpaqueName]) -> Opaque:
    """Return a placeholder for a bare class or function; `known` holds names already made, so that each exists once."""
    made = object.__new__(Opaque)
    namespace = _name(_NAMESPACE, known)
    parts = Parts(_name(_PARTIAL, known), (namespace,), {}, _settled())
    parts.state = (namespace, (), {KEY: {"name": ":".join(name), "called": True}}, None)
    object.__setattr__(made, "__opaque_parts__", parts)
    return made


def put(value: Opaque, known: dict[Name, OpaqueName]) -> None:
    """Turn an object into a placeholder of itself; `known` as for `of_name`."""
    parts = value.__opaque_parts__
    held: dict[str, Any] = {"name": ":".join(class_of(value))}
    for attribute, empty in _EMPTY.items():
        if getattr(parts, attribute):
            held[attribute] = getattr(parts, attribute)
        setattr(parts, attribute, copy(empty))
    if not (type(parts.state) is dict and all(type(key) is str for key in parts.state) and KEY not in parts.state):
        held["state"], parts.state = parts.state, {}  # None too: no state differs from an empty one
    parts.state[KEY] = held
    parts.function = _name(_NAMESPACE, known)
    object.__setattr__(value, "__class__", Opaque)


def take(value: Opaque, known: dict[Name, OpaqueName]) -> Opaque | OpaqueName:
    """Turn a placeholder back into its original; for a bare class or function, return that.

    `known` as for `of_name`.
    """
    parts, held = value.__opaque_parts__, _held(value)
    if held is None or is_a(parts.state, tuple):
        return value if held is None else _name(_split(held["name"]), known)
    del parts.state[KEY]
    for attribute, empty in _EMPTY.items():
        setattr(parts, attribute, held.get(attribute, copy(empty)))
    if "state" in held:
        parts.state = held["state"]
    if held.get("called") is True:  # new code has called the placeholder of a class or function, as a defaultdict does
        parts.function, parts.state = _name(_split(held["name"]), known), parts.state or None
    elif parts.function is None:
        object.__setattr__(value, "__class__", _name(_split(held["name"]), known))
    return value


def _held(value: Opaque) -> dict[str, Any] | None:
    """Return the stored facts of a placeholder; None for other values."""
    parts = value.__opaque_parts__
    made_by, state = pickled_name(parts.function), parts.state
    if made_by == _PARTIAL and is_a(state, tuple) and len(state) == 4:
        state = state[2]
    elif made_by != _NAMESPACE:
        return None
    held = state.get(KEY) if is_a(state, dict) else None
    if not is_a(held, dict) or not is_a(held.get("name"), str) or ":" not in held["name"]:
        return None
    right = all(empty is None or type(held.get(name, empty)) is type(empty) for name, empty in _EMPTY.items())
    return held if right and all(held.get(name) is None or callable(held[name]) for name in _CALLED) else None


def _attributes(state: Any) -> dict[str, Any]:
    """Return the attributes in a state: those in ``__dict__``, and those in ``__slots__`` beside it."""
    found: dict[str, Any] = {}
    for part in state if is_a(state, tuple) and len(state) == 2 else (state,):
        found |= part if is_a(part, dict) else {}
    return found


def _split(text: str) -> Name:
    module, _, name = text.partition(":")
    return module, name


def _name(name: Name, known: dict[Name, OpaqueName]) -> OpaqueName:
    if name not in known:
        known[name] = opaque_name(*name, _settled())
    return known[name]


def _settled() -> Calls:
    """Return calls that are no longer loading."""
    calls = Calls()
    calls.loading = False
    return calls
