"""Dataclasses of the project are used like those of the standard library, and answer as those do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from anemoi_ckpt_migrate.util import dataclass as ours

Library = Any


def classes(library: Library) -> dict[str, Any]:
    """Declare the same classes with one library or the other."""

    @library.dataclass(frozen=True)
    class Point:
        kind: ClassVar[str] = "point"
        x: int
        y: int = 2
        notes: dict[str, int] = library.field(default_factory=dict, compare=False)

        def moved(self) -> Point:
            return library.replace(self, x=self.x + 1)

    @library.dataclass(frozen=True)
    class Named(Point):
        y: int = 5
        name: str = "a"

        def __post_init__(self) -> None:
            object.__setattr__(self, "name", self.name.upper())

    @library.dataclass
    class Count:
        number: int = 0
        of: list[Any] = library.field(default_factory=list)
        begun: int = library.field(init=False)
        seen: set[int] = library.field(init=False, default_factory=set)

    @library.dataclass(frozen=True, eq=False)
    class Handle:
        number: int

    @library.dataclass(frozen=True, repr=False)
    class Own:
        number: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self))

        def __repr__(self) -> str:
            return "own"

    @library.dataclass
    class Empty:
        pass

    class Plain(Point):
        """No dataclass itself."""

    return {each.__name__: each for each in (Point, Named, Count, Handle, Own, Empty, Plain)}


CALLS: dict[str, Callable[[dict[str, Any], Library], Any]] = {
    "made": lambda c, _: [c["Point"](1), c["Point"](1, y=3), c["Named"](1, name="b"), c["Empty"]()],
    "shown": lambda c, _: [repr(c["Point"](1)), repr(c["Named"](1)), repr(c["Own"](1)), repr(c["Empty"]())],
    "a list in itself": lambda c, _: shown_in_itself(c["Count"]),
    "compared": lambda c, _: [c["Point"](1) == c["Point"](1, 2, {"a": 1}), c["Point"](1) == c["Point"](2)],
    "compared with another class": lambda c, _: [c["Point"](1, 5) == c["Named"](1), c["Point"](1) == 1],
    "with an own comparison": lambda c, _: c["Own"](1) == c["Own"](2),
    "without a comparison": lambda c, _: c["Handle"](1) == c["Handle"](1),
    "hashed": lambda c, _: [
        hash(c["Point"](1)) == hash(c["Point"](1, 2, {"a": 1})),
        len({c["Named"](1), c["Named"](1)}),
    ],
    "hashed with an own comparison": lambda c, _: hash(c["Own"](1)) == hash(c["Own"](1)),
    "hashed though it may change": lambda c, _: hash(c["Count"]()),
    "an argument missing": lambda c, _: c["Point"](),
    "an argument too many": lambda c, _: c["Handle"](1, 2),
    "an unknown argument": lambda c, _: c["Point"](1, z=2),
    "an argument of a field without": lambda c, _: c["Count"](begun=1),
    "assigned": lambda c, _: setattr(c["Point"](1), "x", 2),
    "assigned what is no field": lambda c, _: setattr(c["Point"](1), "other", 2),
    "assigned below": lambda c, _: setattr(c["Plain"](1), "x", 2),
    "assigned below what is no field": lambda c, _: changed(c["Plain"](1), "other"),
    "deleted": lambda c, _: delattr(c["Point"](1), "x"),
    "changed": lambda c, _: repr(changed(c["Count"](), "number").number),
    "a field of its own for each": lambda c, _: c["Count"]().of is c["Count"]().of,
    "not set yet": lambda c, _: c["Count"]().begun,
    "set at the start": lambda c, _: c["Count"]().seen,
    "replaced": lambda c, library: [repr(c["Point"](1).moved()), repr(library.replace(c["Named"](1), y=7))],
    "replaced by an unknown name": lambda c, library: library.replace(c["Point"](1), z=1),
    "as a dict": lambda c, library: library.asdict(c["Point"](c["Handle"](2))),
    "a default of the class": lambda c, _: [c["Point"].y, c["Named"].y, hasattr(c["Point"], "notes"), c["Point"].kind],
    "names of fields": lambda c, library: [each.name for each in library.fields(c["Named"])],
    "fields of an object": lambda c, library: [each.name for each in library.fields(c["Count"]())],
    "matched": lambda c, _: matched(c["Point"], c["Point"](4)),
    "fields for the standard library": lambda c, _: [
        (each.name, each.type, each.default is dataclasses.MISSING, each.init, each.compare)
        for each in dataclasses.fields(c["Named"])
    ],
    "a dataclass for the standard library": lambda c, _: [dataclasses.is_dataclass(each) for each in c.values()],
    "replaced by the standard library": lambda c, _: repr(dataclasses.replace(c["Named"](1), x=8)),
    "as a dict of the standard library": lambda c, _: dataclasses.asdict(c["Named"](1)),
    "below, of the standard library": lambda c, _: repr(below(c["Point"])(1, name="n")),
    "replaced below, of the standard library": lambda c, library: repr(
        library.replace(below(c["Point"])(1), name="m", y=3)
    ),
    "fields below, of the standard library": lambda c, library: [
        each.name for each in library.fields(below(c["Point"]))
    ],
    "what is no dataclass": lambda c, library: library.fields(3),
    "signature": lambda c, _: [list(inspect.signature(c[name]).parameters) for name in ("Point", "Count", "Plain")],
    "signature in full": lambda c, _: str(inspect.signature(c["Handle"])),
    "signature of a class below": lambda c, _: str(inspect.signature(type("Below", (c["Point"],), {"__init__": init}))),
    "copied": lambda c, _: [copy.copy(c["Point"](1)) == c["Point"](1), copy.deepcopy(c["Named"](1)) == c["Named"](1)],
}


def init(self: object, other: int) -> None:
    """Be the `__init__` of a class below."""


def shown_in_itself(count: Any) -> str:
    made = count()
    made.of.append(made)
    made.begun = 1
    return repr(made)


def changed(value: Any, name: str) -> Any:
    setattr(value, name, 7)
    return value


def matched(kind: Any, value: Any) -> Any:
    match value:
        case kind(x, y):
            return x, y


def below(kind: Any) -> Any:
    return dataclasses.make_dataclass("Below", [("name", str, "x")], bases=(kind,), frozen=True)


def answer(library: Library, call: Callable[[dict[str, Any], Library], Any]) -> tuple[str, str]:
    """Return what a call returns, or the class of its error and the text."""
    try:
        found = call(classes(library), library)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", repr(found)


@pytest.mark.parametrize("what", CALLS)
def test_a_class_answers_as_one_of_the_standard_library(what: str) -> None:
    assert answer(ours, CALLS[what]) == answer(dataclasses, CALLS[what])


@ours.dataclass(frozen=True)
class Kept:
    """A class that a pickle finds."""

    number: int
    more: list[int] = ours.field(default_factory=list)


def test_an_object_that_came_from_another_process_is_compared_hashed_and_shown_before_the_class_was_called() -> None:
    code = f"""
import pickle
value = pickle.loads({pickle.dumps(Kept(3))!r})
assert value == value and repr(value) == "Kept(number=3, more=[])", value
try:
    value.number = 4
except AttributeError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "cannot assign to field 'number'\n"


def test_to_declare_and_to_call_classes_does_not_import_the_standard_library_for_it() -> None:
    code = """
from __future__ import annotations
import sys
from anemoi_ckpt_migrate.util.dataclass import dataclass
@dataclass(frozen=True)
class Point:
    x: int
assert len({Point(1), Point(1)}) == 1 and repr(Point(2)) == "Point(x=2)"
print("dataclasses" in sys.modules, "inspect" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False False\n"
