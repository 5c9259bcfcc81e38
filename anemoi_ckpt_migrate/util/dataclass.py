"""Dataclasses that cost nothing until they are used, since a call of the program uses few of those it imports.

`dataclasses` of the standard library compiles up to eight functions for each class, which takes a millisecond, and
imports `inspect`. Here the methods are ordinary functions that look at the fields, and ``__init__`` is compiled by the
first call of the class. For `dataclasses.fields`, `replace` and `asdict`, they are dataclasses like others.

Of the options there are `frozen`, `eq` and `repr`, and of those of a field `default`, `default_factory`, `init` and
`compare`. Annotations must be text (``from __future__ import annotations``).
"""

from __future__ import annotations

from collections.abc import Callable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["MISSING", "asdict", "dataclass", "field", "fields", "replace"]

_FIELDS = "__ckpt_migrate_fields__"  # the fields of a class, by name
_COMPARED = "__ckpt_migrate_compared__"  # names of those that comparisons look at


class _Missing:
    """Stands for a default that is not given."""

    def __repr__(self) -> str:
        return "MISSING"


_MISSING = _Missing()


class _Field:
    """A field: its name, annotation and defaults, and what it takes part in."""

    __slots__ = "compare", "default", "default_factory", "init", "name", "type"

    name: str
    type: str

    def __init__(
        self, default: Any = _MISSING, default_factory: Any = _MISSING, init: bool = True, compare: bool = True
    ) -> None:
        self.default, self.default_factory, self.init, self.compare = default, default_factory, init, compare


def _dataclass(cls: Any = None, /, **options: bool) -> Any:
    """Make a class a dataclass, as `dataclasses.dataclass` does."""
    return (lambda cls: _make(cls, **options)) if cls is None else _make(cls, **options)


def _fields(of: Any) -> tuple[Any, ...]:
    """Return the fields of a dataclass, or of an object of one, in order."""
    for cls in (of if isinstance(of, type) else type(of)).__mro__:
        if _FIELDS in vars(cls):
            return tuple(getattr(cls, _FIELDS).values())
        if "__dataclass_fields__" in vars(cls):  # of the standard library, below one of these
            break
    import dataclasses

    return dataclasses.fields(of)


def _replace(value: Any, /, **changes: Any) -> Any:
    """Return a copy of an object with other values of some fields."""
    for each in _fields(value):
        if each.init:
            changes.setdefault(each.name, getattr(value, each.name))
    return type(value)(**changes)


def _asdict(value: Any) -> dict[str, Any]:
    """Return an object as a dict, and those in its fields too."""
    import dataclasses

    return dataclasses.asdict(value)


if TYPE_CHECKING:
    from dataclasses import MISSING, asdict, dataclass, field, fields, replace
else:
    MISSING, asdict, dataclass, field, fields, replace = _MISSING, _asdict, _dataclass, _Field, _fields, _replace


def _make(cls: Any, frozen: bool = False, eq: bool = True, repr: bool = True) -> Any:  # noqa: A002
    found = _collect_fields(cls)
    setattr(cls, _FIELDS, found)
    setattr(cls, _COMPARED, tuple(name for name, each in found.items() if each.compare))
    given: dict[str, Any] = {
        "__init__": _first_init(cls),
        "__replace__": _replace,
        "__match_args__": tuple(name for name, each in found.items() if each.init),
        "__signature__": _Signature(cls),
        "__dataclass_fields__": _OfStandardLibrary(cls, "__dataclass_fields__", frozen),
        "__dataclass_params__": _OfStandardLibrary(cls, "__dataclass_params__", frozen),
    }
    if repr:
        given["__repr__"] = _repr
    if frozen:
        given |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
    if eq:
        given["__eq__"] = _eq
        if vars(cls).get("__hash__") is None:  # Python sets it to None where a class defines `__eq__`
            cls.__hash__ = _hash if frozen else None
    for name, value in given.items():
        if name not in vars(cls):
            setattr(cls, name, value)
    return cls


def _collect_fields(cls: Any) -> dict[str, _Field]:
    """Return the fields of a class and of those above it, by name."""
    found: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= vars(base).get(_FIELDS, {})
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if not annotation.startswith("ClassVar"):
            found[name] = _field_of(cls, name, annotation)
    return found


def _field_of(cls: Any, name: str, annotation: str) -> _Field:
    """Return a field of a class, and leave only its default in the class."""
    given = vars(cls).get(name, _MISSING)
    made = given if isinstance(given, _Field) else _Field(given)
    made.name, made.type = name, annotation
    if made.default is not _MISSING:
        setattr(cls, name, made.default)
    elif made is given:
        delattr(cls, name)
    return made


def _first_init(cls: Any) -> Callable[..., None]:
    """Return an ``__init__`` that puts the compiled one in its place, and calls that."""

    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807
        _compile_init(cls)
        cls.__init__(self, *args, **named)

    return __init__


def _compile_init(cls: Any) -> None:
    """Compile ``__init__`` from the fields. Several threads may do so at a time."""
    values: dict[str, Any] = {"_set": object.__setattr__, "_missing": _MISSING, "__name__": cls.__module__}
    parameters, lines = ["self"], []
    for each in _fields(cls):
        name = value = each.name
        default = ""
        if each.default_factory is not _MISSING:
            values[f"_make_{name}"] = each.default_factory
            value = f"_make_{name}() if {name} is _missing else {name}" if each.init else f"_make_{name}()"
            default = "=_missing"
        elif each.default is not _MISSING:
            values[f"_default_{name}"] = each.default
            default = f"=_default_{name}"
        if each.init:
            parameters.append(name + default)
        if each.init or each.default_factory is not _MISSING:
            lines.append(
                f"_set(self, {name!r}, {value})" if cls.__setattr__ is _refuse_set else f"self.{name} = {value}"
            )
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    source = f"def __init__({', '.join(parameters)}):\n " + ("\n ".join(lines) or "pass")
    named = f"<__init__ of {cls.__qualname__}>"
    exec(compile(source, named, "exec"), values)  # noqa: S102  # it is made of the names of fields
    compiled = values["__init__"]
    compiled.__qualname__ = f"{cls.__qualname__}.__init__"
    compiled.__annotations__ = {each.name: each.type for each in _fields(cls) if each.init} | {"return": None}
    cls.__init__ = compiled


def _key(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in getattr(value, _COMPARED)])


def _eq(self: Any, other: object) -> Any:
    return _key(self) == _key(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_key(self))


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in _fields(self))
    return f"{type(self).__qualname__}({shown})"


def _refuse_set(self: Any, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    object.__setattr__(self, name, value)


def _refuse_delete(self: Any, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(value: Any, name: str, what: str) -> None:
    """Refuse to change a field of a frozen object, or anything unless its class is an undecorated one below."""
    if _FIELDS in vars(type(value)) or name in getattr(value, _FIELDS):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


class _OfStandardLibrary:
    """What `dataclasses` looks for in a class, made when it looks."""

    def __init__(self, cls: Any, name: str, frozen: bool) -> None:
        self.cls, self.name, self.frozen = cls, name, frozen

    def __get__(self, value: object, owner: Any) -> Any:
        import dataclasses

        described: list[tuple[str, Any, Any]] = []
        for each in _fields(self.cls):
            options: dict[str, Any] = {"init": each.init, "compare": each.compare}
            for option in ("default", "default_factory"):
                if getattr(each, option) is not _MISSING:
                    options[option] = getattr(each, option)
            described.append((each.name, each.type, dataclasses.field(**options)))
        twin: Any = dataclasses.make_dataclass(self.cls.__name__, described, frozen=self.frozen)
        self.cls.__dataclass_params__ = twin.__dataclass_params__
        self.cls.__dataclass_fields__ = twin.__dataclass_fields__
        return getattr(owner, self.name)


class _Signature:
    """The signature of a class for `inspect`, which would see that of the first ``__init__``."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def __get__(self, value: object, owner: Any) -> Any:
        if value is not None:
            raise AttributeError("__signature__")
        from inspect import signature

        _compile_init(self.cls)
        found = signature(owner.__init__)
        return found.replace(parameters=list(found.parameters.values())[1:])
