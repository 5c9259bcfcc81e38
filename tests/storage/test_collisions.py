"""Keys whose hashes a file may choose: so many that collide are refused, and any number of others is read."""

from __future__ import annotations

import collections
import datetime
import functools
import pickle
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from anemoi_ckpt_migrate.errors import DamagedRecord
from anemoi_ckpt_migrate.record.encode import decode, encode
from anemoi_ckpt_migrate.storage.pickle.scan import scan
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler
from tests.support.pickle_bytes import call, checkpoint, name, text, tree
from tests.support.project import Folder

MANY = 3000
COLLIDING = 2000  # more than as many pairs as a file of this size may have


def integer(number: int) -> bytes:
    spelled = pickle.encode_long(number)
    return b"\x8a" + bytes([len(spelled)]) + spelled


def bits(number: int, zero: bytes, one: bytes) -> bytes:
    return b"(" + b"".join(one if number >> place & 1 else zero for place in range(11)) + b"t"


def tuples() -> list[bytes]:
    """Spell tuples of -1 and -2, which Python gives one hash."""
    assert hash(-1) == hash(-2)
    return [bits(number, b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff") for number in range(COLLIDING)]


def complexes() -> list[bytes]:
    """Spell the same in two complex numbers, which a call makes; the first tuple has them, the others refer to them."""
    zero, one = (call("builtins.complex", integer(part), b"K\1") for part in (-1, -2))
    return [b"(" + zero + b"q\0" + one + b"q\1t", *(bits(number, b"h\0", b"h\1") for number in range(1, 600))]


def multiples() -> list[bytes]:
    """Spell multiples of the number that all hashes are a remainder of."""
    return [integer(number * (2**61 - 1)) for number in range(1, MANY)]


def floats() -> list[bytes]:
    """Spell large floats that share a hash: a power of two is one after 61 doublings."""
    assert hash(2.0**61) == hash(1.0)
    values = [2.0 ** (61 * place) for place in range(16)]
    return [
        b"(" + b"".join(b"G" + struct.pack(">d", values[n >> 4 * at & 15]) for at in range(3)) + b"t"
        for n in range(COLLIDING)
    ]


@functools.cache
def one_way() -> tuple[int, ...]:
    """Return small integers of different hashes that try the same slots of a dict, one after the other."""
    size, numbers = 8192, random.Random(1)
    way = [0]
    while len(way) < 4000:  # where a search leads in the end
        way.append((5 * way[-1] + 1) % size)
    place = {slot: at for at, slot in enumerate(way)}
    late: list[int] = []
    while len(late) < 1400:
        number = rest = numbers.getrandbits(31)
        at = number % size
        while rest and at in place:
            rest >>= 5
            at = (5 * at + rest + 1) % size
        if place.get(at, size) < 1000:
            late.append(number)
    return *way, *late


def slots() -> list[bytes]:
    """Spell those."""
    return [b"J" + struct.pack("<i", number) for number in one_way()]


N = b"N"
PUT: dict[str, Callable[[list[bytes]], bytes]] = {
    "in a dict": lambda keys: b"}(" + b"".join(key + N for key in keys) + b"u",
    "in a dict, one by one": lambda keys: b"}" + b"".join(key + b"Ns" for key in keys),
    "in a dict made at once": lambda keys: b"(" + b"".join(key + N for key in keys) + b"d",
    "in a dict, half of them at once": lambda keys: (
        b"(" + b"".join(key + N for key in keys[::2]) + b"d(" + b"".join(key + N for key in keys[1::2]) + b"u"
    ),
    "in a set": lambda keys: b"\x8f(" + b"".join(keys) + b"\x90",
    "in a frozenset": lambda keys: b"(" + b"".join(keys) + b"\x91",
    "in a set by a call": lambda keys: call("builtins.set", b"](" + b"".join(keys) + b"e"),
    "in a frozenset by a call": lambda keys: call("builtins.frozenset", b"](" + b"".join(keys) + b"e"),
    "in an OrderedDict": lambda keys: call("collections.OrderedDict") + b"(" + b"".join(k + N for k in keys) + b"u",
    "in an OrderedDict by a call": lambda keys: call(
        "collections.OrderedDict", b"](" + b"".join(key + b"N\x86" for key in keys) + b"e"
    ),
    "in a Counter": lambda keys: call("collections.Counter") + b"(" + b"".join(key + N for key in keys) + b"u",
    "in an object, one by one": lambda keys: name("m.C") + b")\x81" + b"".join(key + b"Ns" for key in keys),
    "in many dicts that one object takes up": lambda keys: (
        call("collections.OrderedDict")
        + b"".join(b"}(" + b"".join(key + N for key in keys[at : at + 30]) + b"ub" for at in range(0, len(keys), 30))
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", PUT)
@pytest.mark.parametrize("make", [tuples, complexes, multiples, floats, slots], ids=lambda make: make.__name__)
def test_keys_that_collide(make: Callable[[], list[bytes]], where: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="hashes that collide"):
        TreeUnpickler(b"\x80\x04" + PUT[where](make()) + b".").load()


def test_a_checkpoint_of_such_keys(project: Folder) -> None:
    project.script("a1")
    path = checkpoint(project, tree(PUT["in a dict"](tuples())))
    before = path.read_bytes()
    for words in (["current"], ["inspect"], ["upgrade", "head"]):
        ran = project.run(*words, path)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "data.pkl is damaged or hostile" in ran.err
        assert "too many keys in its dicts and sets have hashes that collide" in ran.err
    assert path.read_bytes() == before


class Thing:
    """An object of a project, with items as keys."""

    def __init__(self) -> None:
        self.pairs: dict[Any, Any] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs[key] = value

    def __reduce__(self) -> Any:
        return Thing, (), None, None, iter(self.pairs.items())


DAY = datetime.date(2020, 1, 1)
HARMLESS: dict[str, Callable[[], Any]] = {
    "integers": lambda: dict.fromkeys(range(MANY)),
    "integers with gaps": lambda: dict.fromkeys(range(0, 10 * MANY, 7)),
    "integers from the last to the first": lambda: dict.fromkeys(range(MANY, -MANY, -1)),
    "integers at random": lambda: dict.fromkeys(random.Random(0).sample(range(1 << 62), MANY)),
    "multiples of a power of two": lambda: dict.fromkeys(number << 44 for number in range(MANY)),
    "floats": lambda: {number / 4096 for number in range(MANY)},
    "pairs": lambda: {(one, other): one for one in range(50) for other in range(50)},
    "days": lambda: {DAY + datetime.timedelta(number): number for number in range(MANY)},
    "spans": lambda: frozenset(datetime.timedelta(minutes=number) for number in range(MANY)),
    "sets": lambda: {frozenset([number, number + 1]) for number in range(MANY)},
    "complex numbers": lambda: {complex(one, other) for one in range(50) for other in range(50)},
    "many small dicts": lambda: {number: {number % 7: 1, 9: 2} for number in range(0, 2 * MANY, 2)},
    "all of Python's containers": lambda: [
        collections.OrderedDict.fromkeys((number, "a") for number in range(MANY)),
        collections.defaultdict(list, {number / 3: [] for number in range(MANY)}),
        collections.Counter(number**2 for number in range(MANY)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", HARMLESS)
def test_any_number_of_harmless_keys(what: str, protocol: int) -> None:
    value = HARMLESS[what]()
    if what == "all of Python's containers":
        value = value[:2]  # a Counter stays opaque
    assert TreeUnpickler(pickle.dumps(value, protocol)).load() == value


def test_equal_keys_do_not_count() -> None:
    """A set is made of a list that holds one value often, as no pickler writes it."""
    data = b"\x80\x04" + PUT["in a set by a call"]([b"K\5K\6\x86"] * 50_000) + b"."
    assert TreeUnpickler(data).load() == {(5, 6)}


def test_objects_are_read_beside_many_keys(tmp_path: Any) -> None:
    """The unpickler that counts does all that the other one does."""
    thing, ordered = Thing(), collections.OrderedDict(a=1)
    thing["x"], ordered.note = thing, [ordered]  # type: ignore[attr-defined]
    tree = {
        "keys": {(number,): number for number in range(MANY)},
        "thing": thing,
        "ordered": ordered,
        "f": Fraction(1, 2),
    }
    found = TreeUnpickler(pickle.dumps(tree, 4)).load()
    assert (found["keys"], found["ordered"]) == (tree["keys"], ordered)
    assert found["ordered"].note == [ordered]
    assert found["thing"]["x"] is found["thing"]
    assert repr(found["f"]) == "<opaque fractions.Fraction>"


def test_texts_and_integers_in_order_are_not_counted() -> None:
    """So an ordinary checkpoint is read by the quick unpickler."""
    state = {"state": {number: {"step": 1} for number in range(MANY)}, "names": [{str(n): 1} for n in range(MANY)]}
    assert scan(pickle.dumps(state, 2)).collisions <= 1
    assert scan(pickle.dumps(dict.fromkeys(range(0, 200, 2), 1), 2)).collisions == 99 * 99


def test_keys_of_a_record() -> None:
    """A record spells sets, and dicts with other keys than texts, as lists."""
    alike = [{"$tuple": [-1 - (number >> place & 1) for place in range(13)]} for number in range(MANY)]
    for value in (
        {"$set": alike},
        {"$frozenset": alike},
        {"$dict": [[key, 1] for key in alike]},
        {"$set": [*one_way()]},
    ):
        with pytest.raises(DamagedRecord, match="does not encode a value"):
            decode(value)
    for what in ("integers at random", "floats", "pairs", "multiples of a power of two"):
        assert decode(encode(HARMLESS[what]())) == HARMLESS[what]()


def test_numbers_of_objects_leave_no_gap() -> None:
    """A file chooses the numbers of the objects that it remembers, and the reader keeps those in a dict."""
    scan(b"\x80\x02" + b"Nr\xe8\3\0\0.")
    with pytest.raises(pickle.UnpicklingError, match="numbers an object beyond"):
        scan(b"\x80\x02" + text("a" * 5000) + b"r\xe9\3\0\0.")
