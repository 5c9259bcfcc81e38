"""What is written can be read again: a command refuses what it could not read, and changes nothing.

a tree --> a pickle --> its limits, by its own length --> the first byte is written
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

import pytest

from anemoi_ckpt_migrate.storage.pickle.dump import dumped
from anemoi_ckpt_migrate.storage.pickle.scan import scan
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.tree.first_difference import first_difference
from anemoi_ckpt_migrate.util.recursion import deep_recursion
from tests.support.pickle_bytes import call, checkpoint, name, text, tree
from tests.support.project import Folder

MOVE = 'ckpt["y"] = ckpt.pop("x")', 'ckpt["x"] = ckpt.pop("y")'
NESTED: dict[str, Callable[[Any], Any]] = {
    "frozensets": lambda inner: frozenset([inner]),
    "frozensets with another member": lambda inner: frozenset([inner, 1]),
    "frozensets of tuples": lambda inner: frozenset([(inner, inner)[:1]]),
    "frozensets in tuples": lambda inner: (frozenset([inner]), 1),
    "tuples": lambda inner: (inner, 1),
}
DEEP = 500


def nested(kind: str, depth: int) -> Any:
    made = None
    for _ in range(depth):
        made = NESTED[kind](made)
    return made


def written(value: Any, protocol: int) -> bytes:
    return dumped(value, lambda stream: TreePickler(stream, protocol))[1]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", NESTED)
def test_keys_nested_in_each_other(kind: str, protocol: int) -> None:
    """A frozenset remembers its hash, so that what lies deep within it is not visited for each one around it."""
    made = nested(kind, 150)
    with deep_recursion():
        for value in (made, {made: 1}, {made}, [made, made], {"a": made, "b": {made: (made,)}}):
            found = TreeUnpickler(pickle.dumps(value, protocol)).load()
            for again in range(2, 6):
                assert TreeUnpickler(written(found, again)).load() == value


@pytest.mark.parametrize("protocol", [2, 4])
def test_frozensets_nested_deeply_go_up_and_down(project: Folder, protocol: int) -> None:
    """Also as a pickle of protocol 2 spells them, in one that says that it is of protocol 4."""
    project.script("a1", None, *MOVE)
    one = b"q\x010h\0](h\1e\x85R"
    path = checkpoint(project, tree(name("builtins.frozenset") + b"q\0000N" + one * DEEP, protocol))
    for words in (["upgrade", "head", "--check-rollback"], ["downgrade", "base"], ["upgrade", "head"], ["current"]):
        project.ok(*words, path)
    assert "no problems" in project.ok("check", "--rollback").out


DEEP_THINGS = {
    "a key": b"}N" + b"\x85" * DEEP + b"K\1s",
    "tuples": b"N" + b"\x85" * DEEP,
    "lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "frozensets": b"N" + b"q\x010(h\1\x91" * DEEP,
}


@pytest.mark.parametrize("what", DEEP_THINGS)
def test_deep_things_are_compared(project: Folder, what: str) -> None:
    """Where a rollback is verified, as deep as they can be written."""
    project.script("a1", None, *MOVE)
    path = checkpoint(project, tree(DEEP_THINGS[what], 4))
    project.ok("upgrade", "head", "--check-rollback", path)


class Counted(int):
    """A number that counts how often it is hashed."""

    times = 0

    def __hash__(self) -> int:
        Counted.times += 1
        return int(self)


def test_a_frozenset_in_many_places_is_compared_once() -> None:
    one, other = frozenset([Counted(7)]), frozenset([Counted(7)])
    Counted.times = 0
    assert first_difference([one] * 1000, [other] * 1000, lambda *_: True) is None
    assert 0 < Counted.times < 20


# ---------------------------------------------------------------------------------- refused before anything is written

LONG = "'a' * 20_000"
UNREADABLE = {
    "keys that share a long text": f"{{(long, n): n for n in range(2000)}} if (long := {LONG}) else 0",
    "such keys in an OrderedDict": f"collections.OrderedDict(((long, n), n) for n in range(2000)) if (long := {LONG}) else 0",
    "members that share a long text": f"{{(long, n) for n in range(2000)}} if (long := {LONG}) else 0",
    "such members of a frozenset": f"frozenset((long, n) for n in range(2000)) if (long := {LONG}) else 0",
    "a long key in many dicts": f"[{{long: n}} for n in range(2000)] if (long := {LONG}) else 0",
    "numbers of one hash": "{n * (2**61 - 1) for n in range(8, 3000)}",
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_function_leaves_what_could_not_be_read_again(project: Folder, what: str) -> None:
    project.script("a1", None, f'ckpt["y"] = {UNREADABLE[what]}', top="import collections")
    path = checkpoint(project, tree(b"N", 4))
    before = path.read_bytes()
    for words in (["upgrade", "head"], ["upgrade", "head", "--in-place"]):
        ran = project.run(*words, path)
        assert ran.code == 1
        assert "ckpt['y'], which cannot be saved (UnpicklingError: " in ran.err
        assert "Traceback" not in ran.err
    assert path.read_bytes() == before
    assert not list(project.path.glob("x.ckpt.*"))


def test_a_pickle_that_is_long_only_by_what_it_drops(project: Folder) -> None:
    """It may be read: its objects share less than twice its length. But what it drops would not be written again."""
    project.script("a1", None, *MOVE)
    state = b"}(" + b"".join(b"M" + struct.pack("<H", n) + b"N" for n in range(3000)) + b"uq\2"
    dropped = text("a" * 100_000) + b"0"
    path = checkpoint(project, tree(dropped + b"(" + name("m.C") + b"q\1" + state + b"h\1)\x81h\2b" * 20 + b"l"))
    project.ok("current", path)
    before = path.read_bytes()
    ran = project.run("upgrade", "head", path)
    assert (ran.code, path.read_bytes()) == (1, before)
    assert "cannot be saved (UnpicklingError: it copies more than it holds)" in ran.err


@pytest.mark.parametrize("to", ["m." + "C" * 1000, "m." + "\ud800"], ids=["long", "half a character"])
def test_a_class_gets_a_name_that_cannot_be_read(project: Folder, to: str) -> None:
    project.script("a1", None, f'type(ckpt["x"]).__name_and_calls__ = ({tuple(to.split("."))!a}, None)')
    path = checkpoint(project, tree(name("m.C") + b")\x81"))
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "cannot be saved (UnpicklingError: a name has " in ran.err


def test_one_large_number_many_times() -> None:
    """As a seed of each of many workers: equal numbers are one key."""
    assert scan(pickle.dumps([1 << 70] * 3000)).length
    assert TreeUnpickler(pickle.dumps(dict.fromkeys(range(3000), 1 << 70))).load()[2999] == 1 << 70


# --------------------------------------------------------------------------- hashes and comparisons without an end

TWENTY = 22  # each level doubles what is to be visited; this many take a tenth of a second, and forty take hours
TUPLES = b"N" + b"2\x86" * TWENTY
FROZEN = name("builtins.frozenset") + b"q\x000"


def frozensets(first: int, level: bytes = b"h\0](%sK\0\x86%sK\1\x86e\x85R") -> bytes:
    """Spell frozensets that each hold the next one twice."""
    made = b"N"
    for number in range(first, first + TWENTY):
        held = b"j" + struct.pack("<I", number)
        made += b"r" + held[1:] + b"0" + level % (held, held)
    return made


ENDLESS = {
    "frozensets in a frozenset": FROZEN + b"h\0](" + frozensets(9) + frozensets(99) + b"e\x85R",
    "frozensets in a set": FROZEN + call("builtins.set", b"](" + frozensets(9) + frozensets(99) + b"e"),
    "frozensets in tuples in a set": FROZEN
    + call("builtins.set", b"](" + frozensets(9) + b"\x85" + frozensets(99) + b"\x85e"),
    "frozensets made by opcodes": FROZEN + b"h\0]("
    + b"".join(frozensets(first, b"(%sK\0\x86%sK\1\x86\x91") for first in (9, 99)) + b"e\x85R",
    "a tuple as key of a pair": call("collections.OrderedDict", b"](](" + TUPLES + b"Nee"),
    "a tuple as key of a pair with a default": call("collections.defaultdict", b"N", b"](](" + TUPLES + b"Nee"),
    "a tuple as key of a pair that is an object": call("collections.OrderedDict", b"](" + name("m.C") + b")R("
    + TUPLES + b"Nee"),
    "shapes in a set": name("torch.Size") + b"q\x000" + call("builtins.set", b"](N" + b"q\x010h\0h\1h\1\x86\x85R"
    * TWENTY + b"e"),
    "a frozenset that nobody could walk through": b"(" + TUPLES + b"\x91",
    "such a frozenset of a call": FROZEN + b"h\0](" + TUPLES + b"e\x85R",
    "frozensets of one pair each": FROZEN + frozensets(9, b"(%s%s\x86\x91"),
    "frozensets of one pair each, of calls": FROZEN + frozensets(9, b"h\0](%s%s\x86e\x85R"),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_things_that_hold_one_thing_twice(what: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"copies more|far larger|unknown way"):
        TreeUnpickler(b"\x80\x04" + ENDLESS[what] + b".").load()


def test_a_record_costs_no_second_reading(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors, texts, and all that a record notes (times in nanoseconds among it) meet no limit."""

    def read_again(data: bytes, trusted: Any) -> None:
        raise AssertionError("a plain pickle is read again")

    monkeypatch.setattr("anemoi_ckpt_migrate.storage.pickle.dump._read_again", read_again)
    project.script("a1", None, 'ckpt["y"] = 1', 'del ckpt["y"]')
    path = checkpoint(project, tree(b"N", 4))
    for words in (["upgrade", "head"], ["downgrade", "base"], ["upgrade", "head"]):
        project.ok(*words, path)
