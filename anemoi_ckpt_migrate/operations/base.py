"""The base of all operations: data that can be printed, compared, written to a record and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.kinds import all_kinds, kind_of, register
from anemoi_ckpt_migrate.util.dataclass import MISSING, dataclass, fields
from anemoi_ckpt_migrate.util.text import first_repeated

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext
else:  # in `typing` since Python 3.11; only type checkers need it

    def dataclass_transform(**_: Any) -> Any:
        """Return a decorator that returns its argument unchanged."""
        return lambda decorator: decorator


class Runner(Protocol):
    """Applies operations to an open checkpoint; see `engine.runner`. Each method returns the rollback."""

    def apply_to_parameters(self, operation: Operation) -> list[Operation]:
        """Apply an operation to the state dict and its copies."""

    def apply_to_tree(self, operation: Any) -> list[Operation]:
        """Apply a `TreeOperation`."""

    def derive(self, operation: Any) -> list[Operation]:
        """Apply the operations that a `Derive` derives."""

    def declare_groups(self, operation: Any) -> list[Operation]:
        """Use a declaration of the parameters of an optimizer for the operations that follow."""

    def apply_to_optimizer(self, operation: Any) -> list[Operation]:
        """Apply an `OptimizerOperation`."""

    def use_locations(self, operation: Any) -> list[Operation]:
        """Use the locations of parameters in a record for the operations that follow."""


_ONE_OR_SEVERAL = ("keys", "sources", "targets")  # fields that take a single name too
_AS_IT_IS = ("value",)  # fields in which a tuple is not a list
_PATHS = ("path", "new", "under")  # fields in which a tuple is a path, written with dots if its keys allow it


class Operation:
    """One declared change to a checkpoint. Each kind is a frozen dataclass.

    Attributes
    ----------
    on_parameters : bool
        Whether it changes the parameters of the model, in all their copies and in the state of the optimizers;
        otherwise it works on the tree.
    makes : bool
        Whether it makes tensors from other tensors.
    written : bool
        Whether a script may contain it. Other kinds occur in records only, as rollbacks.
    noted : tuple of str
        Fields that only a record fills in, with facts about one checkpoint.
    remedy : str
        The argument that makes an irreversible operation reversible.
    recorded : bool
        Whether a record may contain it. Other kinds occur in scripts only, whose author is responsible for their cost.
    restores_stash : bool
        Whether it puts back values that were stashed.
    applies_to_copies : bool
        Whether it applies to all copies of the parameters; otherwise only to the state dict.
    """

    on_parameters: ClassVar[bool] = True
    makes: ClassVar[bool] = False
    written: ClassVar[bool] = True
    noted: ClassVar[tuple[str, ...]] = ()
    remedy: ClassVar[str] = "a rollback"
    recorded: ClassVar[bool] = True
    restores_stash: ClassVar[bool] = False
    applies_to_copies: ClassVar[bool] = True

    @property
    def concerns_optimizers(self) -> bool:
        """Whether it may change the state of optimizers."""
        return True

    @property
    def strips_wrappers(self) -> bool:
        """Whether it only removes wrappers from names, wherever they stand in these."""
        return False

    @property
    def runs_code(self) -> bool:
        """Whether it runs functions of a script."""
        return any(leaf.runs_code for leaf in self.leaves() if leaf is not self)

    @property
    def reaches_parameters(self) -> bool:
        """Whether it may change parameters, in ways that cannot be followed from its fields."""
        return False

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Names of the classes whose placeholders it replaces."""
        return ()

    def changes_order(self, names: Mapping[str, object]) -> bool:
        """Return whether it needs to know the positions of these parameters: it moves one of them, or adds one."""
        return False

    def beside_others(self, names: Mapping[str, object], group: Callable[[str], int | None]) -> str | None:
        """Return a parameter that it places relative to one of another group of an optimizer; None if there is none.

        Parameters
        ----------
        names : mapping of str to object
            The state dict.
        group : callable
            Returns the group of a name; None if the optimizer does not have it.
        """
        return None

    def per_copy(self) -> tuple[Sequence[Operation], Mapping[str, Sequence[Operation]]]:
        """Return the operations for the state dict, and the different ones for copies, by path."""
        return (self,), {}

    def perform(self, runner: Runner) -> list[Operation]:
        """Apply it to an open checkpoint by the method of the runner that fits it, and return the rollback.

        Most kinds apply to the parameters: then the runner calls `apply` for the state dict and for each copy.
        """
        return runner.apply_to_parameters(self)

    def apply(self, context: ParameterContext) -> list[Operation]:
        """Apply it to one copy of the parameters, and return the rollback. Faults and losses go to the context."""
        raise NotImplementedError

    @property
    def reversible(self) -> bool:
        """Whether it has a rollback."""
        return True

    def inverse(self) -> Operation | None:
        """Return the operation that undoes it; None if that depends on the checkpoint."""
        return None

    def check_written(self) -> None:
        """Refuse arguments that only records may have: there, each name was seen on a checkpoint.

        Raises
        ------
        BadOperation
            It has such an argument.
        """

    def leaves(self) -> Iterator[Operation]:
        """Iterate over the operations that it contains; an operation without nested ones yields itself."""
        yield self

    def class_names(self) -> tuple[str, ...]:
        """Return patterns of the classes and functions that its arguments name; see `class_names.covers`."""
        return ()

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data: its kind under ``op``, and all fields that differ from their defaults."""
        found: dict[str, Any] = {"op": type(self).__name__}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if repr(value) != repr(field.default):  # -0.0 is not 0
                found[field.name] = plain(value)
        return found

    def __repr__(self) -> str:
        return self._spelled(False)

    def as_written(self) -> str:
        """Return it as an author would write it: like its `repr`, with dots in paths whose keys allow that."""
        return self._spelled(True)

    def _spelled(self, dotted: bool) -> str:
        words = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name in _ONE_OR_SEVERAL and len(value) == 1:
                value = value[0]
            if repr(value) != repr(field.default) or field.default is MISSING:
                bare = field.default is MISSING
                text = _spelled_field(field.name, value, dotted)
                words.append(text if bare else f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(words)})"


_Kind = TypeVar("_Kind", bound=type[Operation])


@dataclass_transform(frozen_default=True)
def operation(kind: _Kind) -> _Kind:
    """Make a class a kind of operation: a frozen dataclass, registered under its name for `from_data`."""
    made = dataclass(frozen=True, repr=False)(kind)
    register(made)
    return made  # type: ignore[return-value]


def from_data(data: Any) -> Operation:
    """Read an operation from a record.

    Raises
    ------
    BadOperation
        This version does not know the kind, records may not contain it, or its fields are wrong.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("op"), str):
        raise BadOperation(f"{data!r:.60} is not an operation")
    kind = kind_of(data["op"])
    if kind is not None and not kind.recorded:
        raise BadOperation(f"{data['op']} is for scripts only")
    try:
        return make(data["op"], (), {name: value for name, value in data.items() if name != "op"})
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise BadOperation(f"{data['op']}: {error}") from error


def read(value: Any) -> Operation:
    """Return an operation nested in another one; data is read by `from_data`."""
    return value if isinstance(value, Operation) else from_data(value)


def make(kind: str, args: Sequence[Any], named: Mapping[str, Any], only_written: bool = False) -> Operation:
    """Make an operation of a kind.

    Raises
    ------
    BadOperation
        The kind does not exist, or does not take these arguments.
    """
    found = kind_of(kind)
    if found is None or (only_written and not found.written):
        known = ", ".join(sorted(name for name, each in all_kinds().items() if each.written))
        raise BadOperation(f"{kind} is an unknown operation; the operations are {known}")
    described = fields(found)
    names = [field.name for field in described]
    if len(args) > len(names):
        raise BadOperation(f"{kind} takes at most {len(names)} arguments, not {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in named.items():
        if name not in names:
            raise BadOperation(f"{kind} takes {', '.join(names)}, not {name}")
        if name in given:
            raise BadOperation(f"{kind} got {name} twice")
        given[name] = value
    for name in found.noted:
        if only_written and name in given:
            raise BadOperation(f"{kind}: {name} is for records only; leave it out")
    missing = [field.name for field in described if field.name not in given and field.default is MISSING]
    if missing:
        raise BadOperation(f"{kind} needs {' and '.join(missing)}")
    made: Operation = found(**given)
    if only_written:
        made.check_written()
    return made


def plain(value: Any) -> Any:
    """Turn tuples into lists and operations into data, recursively: a record contains only types that JSON has."""
    if isinstance(value, Operation):
        return value.to_data()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def spelled(value: Any) -> str:
    """Return a value as Python source, the way a script spells it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, str) and '"' not in value:
        return '"' + repr("'" + value)[2:]
    if callable(value):
        return str(getattr(value, "__name__", value))
    return repr(value)


def _spelled_field(name: str, value: Any, dotted: bool) -> str:
    """Return the value of a field as a script spells it."""
    if isinstance(value, tuple) and name in _AS_IT_IS:
        return repr(value)
    is_path = dotted and isinstance(value, tuple) and name in _PATHS
    return spelled(".".join(value) if is_path and all(map(_has_no_dot, value)) else value)


def _has_no_dot(key: Any) -> bool:
    return isinstance(key, str) and key != "" and "." not in key


# Checks of fields, which also convert them to one form.


def name_of(kind: Operation, what: str, value: Any) -> str:
    """Return a name, which must be text and not empty.

    Raises
    ------
    BadOperation
        The value is not a name. The functions below raise it too.
    """
    if not isinstance(value, str) or not value:
        raise _wrong(kind, what, "a name", value)
    return value


def names_of(kind: Operation, what: str, value: Any, least: int = 1) -> tuple[str, ...]:
    """Return several names, all different; a single name counts as a list of one."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name for name in names):
        raise _wrong(kind, what, "a name or a list of names", value)
    if len(names) < least:
        raise _wrong(kind, what, f"a list of {least} names or more", value)
    if (twice := first_repeated(names)) is not None:
        raise BadOperation(f"{type(kind).__name__}: {what} names {twice} twice")
    return tuple(names)


def integer_of(kind: Operation, what: str, value: Any, least: int | None = None) -> int:
    """Return an integer, `least` or larger."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise _wrong(kind, what, "an integer" if least is None else f"an integer from {least}", value)
    return value


def integers_of(kind: Operation, what: str, value: Any, least: int = 0) -> tuple[int, ...]:
    """Return several integers, each `least` or larger."""
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


def set_fields(kind: Operation, **values: Any) -> None:
    """Set fields of a frozen operation from its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(kind, name, value)
