"""The pickle round trip: random trees, foreign classes, nothing that runs."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import enum
import fractions
import functools
import io
import os
import pickle
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, class_of
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler


def read(data: bytes) -> Any:
    return TreeUnpickler(data).load()


def write(tree: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    TreePickler(stream, protocol).dump(tree)
    return stream.getvalue()


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.binary().map(bytearray),
    st.datetimes(),
    st.timedeltas(),
    st.dates(),
    st.times(),
    st.frozensets(st.integers()),
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text()))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict),
        st.dictionaries(KEYS, inner, max_size=4).map(lambda d: collections.defaultdict(list, d)),
        st.sets(KEYS, max_size=4),
    ),
    max_leaves=20,
)


@given(TREES, st.integers(2, 5))
def test_random_trees(tree: Any, protocol: int) -> None:
    found = read(pickle.dumps(tree, protocol))
    assert found == tree
    assert kinds(found) == kinds(tree)
    assert pickle.loads(write(found, protocol)) == tree


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(2, 5))
def test_shared_and_cyclic_trees(links: list[int], protocol: int) -> None:
    """Lists that hold each other in any way; after the round trip they do so in the same way."""
    nodes: list[list[Any]] = [[index] for index in range(5)]
    for index, link in enumerate(links):
        nodes[index % 5].append(nodes[link])
    tree = {"nodes": nodes, "first": nodes[0]}
    found = pickle.loads(write(read(pickle.dumps(tree, protocol)), protocol))
    assert found["first"] is found["nodes"][0]
    for index, link in enumerate(links):
        assert any(item is found["nodes"][link] for item in found["nodes"][index % 5][1:])


def kinds(tree: Any) -> Any:
    if isinstance(tree, dict):
        return type(tree), [kinds(value) for value in tree.values()]
    if isinstance(tree, (list, tuple)):
        return type(tree), [kinds(value) for value in tree]
    return type(tree)


class Plain:
    def __init__(self) -> None:
        self.a, self.b = 1, [2]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, {"x": 2}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None


class DotDict(dict):
    """As Anemoi keeps its configurations: items, and attributes beside them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extra = "attribute"


class Names(list):
    pass


class WithArguments:
    def __init__(self, value: int) -> None:
        self.value = value

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"value": self.value}

    def __new__(cls, value: int = 0) -> WithArguments:
        made = super().__new__(cls)
        made.value = value
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithArguments) and self.value == other.value

    __hash__ = None


class SetsItsState(Plain):
    def __getstate__(self) -> list[int]:
        return [7]

    def __setstate__(self, state: list[int]) -> None:
        self.a, self.b = state[0], state


def set_state(obj: Plain, state: dict[str, Any]) -> None:
    obj.__dict__.update(state)


class StateSetter(Plain):
    """Restored by a function whose result the pickle drops, as cloudpickle does."""

    def __reduce__(self) -> Any:
        return StateSetter, (), {"a": 5, "b": [6]}, None, None, set_state


class Color(enum.Enum):
    RED = 1


FOREIGN = {
    "plain": Plain(),
    "slots": Slotted(),
    "dict": DotDict(a=1, b=DotDict(c=[2])),
    "list": Names([1, [2]]),
    "setstate": SetsItsState(),
    "state setter": StateSetter(),
    "enum": Color.RED,
    "enum keys": {Color.RED: 1},
    "class": Plain,
    "function": set_state,
    "builtin": len,
    "partial": functools.partial(set_state, 1, state=2),
    "path": Path("/tmp/x"),
    "uuid": uuid.UUID(int=5),
    "fraction": fractions.Fraction(1, 3),
    "counter": collections.Counter("abca"),
    "named in a class": Plain.__init__,
    "range": range(3),
    "deque": collections.deque([1, 2], maxlen=3),
    "zoned": datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    "zoned time": datetime.time(1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    "awkward names": argparse.Namespace(
        _state=1, _args=2, items=3, keys=4, append=5, calls=6, pickled_name=7, _items=8
    ),
    "classes": [bytes, bytearray, dict, collections.OrderedDict, datetime.date],
    "exception": ValueError("x"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_objects_come_back_as_they_were(name: str, protocol: int) -> None:
    value = pickle.loads(pickle.dumps(FOREIGN[name]))
    tree = {"one": value, "same": [value]}
    found = pickle.loads(write(read(pickle.dumps(tree, protocol)), protocol))
    assert repr(found["one"]) == repr(value) if name == "exception" else found["one"] == value or name == "partial"
    assert found["same"][0] is found["one"]
    if name == "partial":
        assert found["one"].keywords == {"state": 2}
    assert getattr(found["one"], "extra", None) == getattr(value, "extra", None)


@pytest.mark.parametrize("protocol", [4, 5])
def test_keyword_arguments_of_new(protocol: int) -> None:
    assert pickle.loads(write(read(pickle.dumps(WithArguments(3), protocol)), protocol)) == WithArguments(3)


def test_cycles_through_foreign_objects() -> None:
    plain = Plain()
    plain.a = {"self": plain}
    found = pickle.loads(write(read(pickle.dumps(plain, 2))))
    assert found.a["self"] is found


def test_opaque_objects_can_be_read_and_edited() -> None:
    tree = read(pickle.dumps({"config": DotDict(a=1, b=DotDict(c=2)), "names": Names([1, 2]), "plain": Plain()}, 2))
    config, names, plain = tree["config"], tree["names"], tree["plain"]
    assert isinstance(config, Opaque)
    assert class_of(config) == (DotDict.__module__, "DotDict")
    assert repr(config) == f"<opaque {DotDict.__module__}.DotDict>"
    assert (config["a"], config["b"]["c"], config.extra, list(config), len(config)) == (
        1,
        2,
        "attribute",
        ["a", "b"],
        2,
    )
    assert ("a" in config, "z" in config, dict(config.items())["a"]) == (True, False, 1)
    assert vars(config) == {"extra": "attribute"}
    config["new"], config.extra = config["b"], "changed"
    del config["a"], config["b"]
    names.append(3)
    names[0] = 0
    plain.a = "a"
    del plain.b
    plain.c = "c"
    with pytest.raises(AttributeError, match="carries no attribute 'nothing'"):
        _ = plain.nothing
    with pytest.raises(KeyError):
        _ = config["a"]
    copied = copy.deepcopy(config)
    assert (copied["new"]["c"], copied.extra) == (2, "changed")
    back = pickle.loads(write(tree))
    assert back["config"] == {"new": {"c": 2}}
    assert back["config"].extra == "changed"
    assert back["names"] == [0, 2, 3]
    assert vars(back["plain"]) == {"a": "a", "c": "c"}


class AttrDict(dict):
    """Whose attributes are its items, as configurations often do it."""

    __setattr__ = dict.__setitem__

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def test_attributes_of_any_name_can_be_read_and_edited() -> None:
    names = (
        "_state",
        "_args",
        "_items",
        "_pairs",
        "_setter",
        "calls",
        "items",
        "keys",
        "values",
        "append",
        "extend",
        "get",
    )
    tree = read(pickle.dumps(argparse.Namespace(**dict.fromkeys(names, 1)), 2))
    for name in names:
        assert getattr(tree, name) == 1
        setattr(tree, name, ["new"])
    assert pickle.loads(write(tree)) == argparse.Namespace(**{name: ["new"] for name in names})


def test_items_can_be_edited_as_attributes_and_with_the_methods_of_containers() -> None:
    config, names = read(pickle.dumps((AttrDict(a=1, b=2), Names([1, 2, 3])), 2))
    assert (config.a, config.get("z", 0)) == (1, 0)
    config.a = 5
    config.update(c=3)
    assert config.pop("b") == 2
    with pytest.raises(AttributeError, match=r"set obj\['d'\] if"):
        config.d = 1
    del config.c
    names.remove(2)
    names[0:1] = [7, 8]
    assert names.pop() == 3
    assert pickle.loads(write((config, names))) == ({"a": 5}, [7, 8])


def test_objects_of_attributes_alone_take_no_items() -> None:
    plain = read(pickle.dumps(Plain(), 2))
    for change in (
        lambda: plain.__setitem__("a", 3),
        lambda: plain.append(3),
        lambda: plain.extend([3]),
        lambda: plain.update(a=3),
        lambda: plain.pop("a"),
    ):
        with pytest.raises((TypeError, AttributeError)):
            change()
    assert pickle.loads(write(plain)) == Plain()


def test_copies_of_objects_with_a_state_setter() -> None:
    tree = read(pickle.dumps(StateSetter(), 2))
    assert vars(pickle.loads(write(copy.deepcopy(tree)))) == {"a": 5, "b": [6]}


class Bomb:
    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 5])
def test_nothing_runs(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    getters = Bomb(getattr, Bomb(getattr, trap, "write_text"), "__call__")
    bombs = [
        Bomb(os.system, f"touch {trap}"),
        Bomb(eval, f"open({str(trap)!r}, 'w')"),
        Bomb(exec, f"open({str(trap)!r}, 'w')"),
        Bomb(Path.write_text, trap, "x"),
        Bomb(functools.partial, os.system, f"touch {trap}"),
        getters,
        {"config": [Bomb(__import__, "antigravity")]},
    ]
    for bomb in bombs:
        tree = read(pickle.dumps(bomb, protocol))
        copy.deepcopy(tree)
        write(tree, protocol)
        repr(tree)
    assert not trap.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cbuiltins\nbytearray\nK\xff\x85R.",  # asks for memory
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",  # sets an attribute of a class
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a persistent id of no known kind
        b"\x80\x02((X\x06\x00\x00\x00moduleK\x01tQ.",
        b"\x80\x02X\xff\xff\xff\x7f.",  # a string of 2 GB
        b"\x80\x02h\x05.",
        b"\x80\x02}(" + b")" + b"\x85" * 1_000_000 + b"K\x01u.",  # a key whose hash overflows the stack
        b"\x80\x02Nr\xff\xff\xff\x3f.",  # room for a billion objects
        b"\x80\x02" + b"ccollections\ndeque\n)R" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02](" + b"K\x01" * 2000 + b"eq\x000" + b"cbuiltins\nfrozenset\nh\x00\x85R0" * 2000 + b"N.",
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x020000.",
        b"\x80\x02I99999999999999999999999\np999999999999\n.",
        b"\x80\x02c__builtin__\nstr\n" + b")" + b"\x85q\x00h\x00\x86" * 27 + b"\x85R.",  # 2 to the 27th brackets
        b"\x80\x02)" + b"\x85q\x00h\x00\x86" * 27 + b"Q.",  # the same in a persistent id
        b"\x80\x02.",
        b"",
        b"\x80\x09N.",
    ],
)
def test_hostile_pickles_are_refused(data: bytes) -> None:
    attributes = dict(vars(collections.OrderedDict))
    with pytest.raises(Exception):  # noqa: B017  (the store turns all of them into one error)
        read(data)
    assert vars(collections.OrderedDict) == attributes


def test_dates_and_zones() -> None:
    tree = {"when": datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)}
    assert pickle.loads(write(read(pickle.dumps(tree, 2)))) == tree
