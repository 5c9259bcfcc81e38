"""What every operation is: data that can be printed, compared, written down and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from anemoi_ckpt_migrate.errors import BadOperation

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # in `typing` from Python 3.11 on, and for type checkers only

    def dataclass_transform(**_: Any) -> Any:
        """Leave a decorator as it is."""
        return lambda decorator: decorator


KINDS: dict[str, type[Operation]] = {}
"""Every kind of operation, by name."""


_ONE_OR_SEVERAL = ("keys", "sources", "targets")  # fields that take a single name too


class Operation:
    """One change that is declared instead of programmed. Those below are frozen dataclasses.

    Attributes
    ----------
    on_parameters : bool
        Whether it is about the parameters of the model, in every copy that a checkpoint has of them and in the state
        of its optimizers; otherwise about the tree.
    makes : bool
        Whether it makes tensors of others.
    written : bool
        Whether it may stand in a script; others only stand in a record, as what undoes one of those.
    noted : tuple of str
        Fields that only a record fills in: what was seen on a checkpoint.
    remedy : str
        What has to be given to one that cannot be undone, so that it can be.
    recorded : bool
        Whether it may stand in a record; others only stand in a script, whose author answers for what they cost.
    """

    on_parameters: ClassVar[bool] = True
    makes: ClassVar[bool] = False
    written: ClassVar[bool] = True
    noted: ClassVar[tuple[str, ...]] = ()
    remedy: ClassVar[str] = "a rollback"
    recorded: ClassVar[bool] = True

    @property
    def reversible(self) -> bool:
        """Whether there is a way back."""
        return True

    def inverse(self) -> Operation | None:
        """Return what undoes it, as far as that can be told without a checkpoint; None where it cannot."""
        return None

    def check_written(self) -> None:
        """Check what a script must not say, though a record may: there, each name was seen on a checkpoint.

        Raises
        ------
        BadOperation
            It says so.
        """

    def leaves(self) -> Iterator[Operation]:
        """Give the operations that it is made of; one that is made of none gives itself."""
        yield self

    def class_names(self) -> tuple[str, ...]:
        """Return the names of classes and functions that it spells out, as patterns; see `names.covers`."""
        return ()

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data: its kind under ``op``, and what differs from the defaults."""
        found: dict[str, Any] = {"op": type(self).__name__}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if repr(value) != repr(field.default):  # -0.0 is not 0
                found[field.name] = plain(value)
        return found

    def __repr__(self) -> str:
        words = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name in _ONE_OR_SEVERAL and len(value) == 1:
                value = value[0]
            if repr(value) != repr(field.default) or field.default is dataclasses.MISSING:
                bare = field.default is dataclasses.MISSING
                words.append(spelled(value) if bare else f"{field.name}={spelled(value)}")
        return f"{type(self).__name__}({', '.join(words)})"


_Kind = TypeVar("_Kind", bound=type[Operation])


@dataclass_transform(frozen_default=True)
def operation(kind: _Kind) -> _Kind:
    """Make a class an operation that can be read back: a frozen dataclass, known by its name."""
    made = dataclasses.dataclass(frozen=True, repr=False)(kind)
    KINDS[kind.__name__] = made
    return made  # type: ignore[return-value]


def from_data(data: Any) -> Operation:
    """Read an operation back.

    Raises
    ------
    BadOperation
        It is none that this version knows, or its fields are not what they have to be.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("op"), str):
        raise BadOperation(f"{data!r:.60} is no operation")
    if data["op"] in KINDS and not KINDS[data["op"]].recorded:
        raise BadOperation(f"{data['op']} may stand in a script only")
    try:
        return make(data["op"], (), {name: value for name, value in data.items() if name != "op"})
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise BadOperation(f"{data['op']}: {error}") from error


def read(value: Any) -> Operation:
    """Return an operation that stands in another one: as it is, or read back. As `from_data`."""
    return value if isinstance(value, Operation) else from_data(value)


def make(kind: str, args: Sequence[Any], named: Mapping[str, Any], only_written: bool = False) -> Operation:
    """Make an operation of a kind.

    Raises
    ------
    BadOperation
        There is no such kind, or it does not take these arguments.
    """
    found = KINDS.get(kind)
    if found is None or (only_written and not found.written):
        known = ", ".join(sorted(name for name, each in KINDS.items() if each.written))
        raise BadOperation(f"{kind} is an unknown operation; there are {known}")
    fields = dataclasses.fields(found)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    if len(args) > len(names):
        raise BadOperation(f"{kind} takes at most {len(names)} arguments, not {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in named.items():
        if name not in names:
            raise BadOperation(f"{kind} takes {', '.join(names)}, not {name}")
        if name in given:
            raise BadOperation(f"{kind} was given {name} twice")
        given[name] = value
    for name in found.noted:
        if only_written and name in given:
            raise BadOperation(f"{kind}: {name} is for records only; leave it out")
    missing = [field.name for field in fields if field.name not in given and field.default is dataclasses.MISSING]
    if missing:
        raise BadOperation(f"{kind} needs {' and '.join(missing)}")
    made = found(**given)
    if only_written:
        made.check_written()
    return made


def plain(value: Any) -> Any:
    """Turn tuples into lists and operations into data, in depth: a record is made of what JSON has too."""
    if isinstance(value, Operation):
        return value.to_data()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def spelled(value: Any) -> str:
    """Spell a value as a script does."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, str) and '"' not in value:
        return '"' + repr("'" + value)[2:]
    if callable(value):
        return str(getattr(value, "__name__", value))
    return repr(value)


# What the fields of an operation are checked with, and brought into one form.


def name_of(kind: Operation, what: str, value: Any) -> str:
    """Return a name, which has to be text.

    Raises
    ------
    BadOperation
        It is none. As the functions below.
    """
    if not isinstance(value, str) or not value:
        raise _wrong(kind, what, "a name", value)
    return value


def names_of(kind: Operation, what: str, value: Any, least: int = 1) -> tuple[str, ...]:
    """Return several names; a single one counts as a list of one."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name for name in names):
        raise _wrong(kind, what, "a name or a list of names", value)
    if len(names) < least:
        raise _wrong(kind, what, f"a list of {least} names or more", value)
    if len(set(names)) != len(names):
        raise BadOperation(f"{type(kind).__name__}: {what} names {_twice(names)} twice")
    return tuple(names)


def integer_of(kind: Operation, what: str, value: Any, least: int | None = None) -> int:
    """Return an integer, of some size at least."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise _wrong(kind, what, "an integer" if least is None else f"an integer from {least}", value)
    return value


def integers_of(kind: Operation, what: str, value: Any, least: int = 0) -> tuple[int, ...]:
    """Return several integers, each of some size at least."""
    if not isinstance(value, (tuple, list)):
        raise _wrong(kind, what, "a list of integers", value)
    return tuple(integer_of(kind, what, item, least) for item in value)


def flag_of(kind: Operation, what: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise _wrong(kind, what, "True or False", value)
    return value


def _wrong(kind: Operation, what: str, wanted: str, value: Any) -> BadOperation:
    return BadOperation(f"{type(kind).__name__}: {what} must be {wanted}, not {value!r:.60}")


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def set_fields(kind: Operation, **values: Any) -> None:
    """Set fields of a frozen operation, while it is made."""
    for name, value in values.items():
        object.__setattr__(kind, name, value)
