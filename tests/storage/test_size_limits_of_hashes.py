"""A pickle that would be slow to hash, or deep to walk, is refused by looking at it: nothing of it is built."""

from __future__ import annotations

import pickle
import struct

import pytest

from anemoi_ckpt_migrate.storage.pickle.scan import DEEPEST, scan
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler

LONG, OFTEN = 20_000, 2000
TEXT = b"X" + struct.pack("<I", LONG) + b"a" * LONG
KEY = TEXT + b"q\1"

HASHED_OFTEN = {
    "keys, one by one": b"}" + KEY + b"Ns" + b"h\1Ns" * OFTEN + b".",
    "keys, together": b"}(" + KEY + b"N" + b"h\1N" * OFTEN + b"u.",
    "keys of a dict made at once": b"(" + KEY + b"N" + b"h\1N" * OFTEN + b"d.",
    "members of a set": b"\x8f(" + KEY + b"h\1" * OFTEN + b"\x90.",
    "members of a frozenset": b"(" + KEY + b"h\1" * OFTEN + b"\x91.",
    "a line of text": b"}(V" + b"a" * LONG + b"\nq\1N" + b"h\1N" * OFTEN + b"u.",
    # Two to the hundredth, and something that makes the count of it come round to nothing.
    "tuples of one tuple twice": b"})" + b"2\x86" * 99 + b"\x852\x86Ns.",
}


@pytest.mark.parametrize("what", HASHED_OFTEN)
def test_one_long_thing_is_hashed_often(what: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="far larger than the pickle itself"):
        scan(b"\x80\x04" + HASHED_OFTEN[what])


def test_a_long_value_is_not_hashed() -> None:
    """One text as the value of many keys, and objects that share a long list as keys: those are hashed as they are."""
    scan(b"\x80\x04}(" + b"".join(b"M" + struct.pack("<H", n) + (b"h\1" if n else KEY) for n in range(OFTEN)) + b"u.")
    shared = b"(" + b"N" * LONG + b"lq\1" + b"0cm\nC\nq\x020}("
    scan(b"\x80\x04" + shared + b"h\2h\1\x85RN" * OFTEN + b"u.")


NESTED = {
    "tuples": b")" + b"\x85" * (DEEPEST + 1),
    "lists": b"]" * (DEEPEST + 2) + b"a" * (DEEPEST + 1),
    "tuples remembered in between": b")" + b"q\0000h\0\x85" * (DEEPEST + 1),
    "tuples remembered as text says": b")" + b"p0\n0g0\n\x85" * (DEEPEST + 1),
    "tuples doubled in between": b")" + b"2\x85" * (DEEPEST + 1),
}


@pytest.mark.parametrize("what", NESTED)
def test_nested_one_level_too_deep(what: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="levels deep"):
        scan(b"\x80\x02" + NESTED[what] + b".")


def test_nested_as_deep_as_may_be() -> None:
    assert scan(b"\x80\x02)" + b"\x85" * DEEPEST + b".").length == DEEPEST + 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"Nr\xff\xff\xff\x3f.", "numbers an object beyond"),
        (b"Np1000000000\n.", "numbers an object beyond"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"N\x97.", "opcode 0x97"),
    ],
    ids=["a number of four bytes", "a number in text", "an extension", "a buffer beside the pickle"],
)
def test_what_no_checkpoint_has(data: bytes, says: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=says):
        scan(b"\x80\x05" + data)


STATES = {
    "its own": (b"}", False),
    "its own, though it is remembered": (b"}q\1", False),
    "remembered under a number": (b"}q\0010h\1", True),
    "under a number of four bytes": (b"}r\1\0\0\0000h\1", True),
    "under a number in text": (b"}p1\n0g1\n", True),
    "under the next number": (b"}\x940h\0", True),
    "holding what is remembered": (b"}q\0010Nh\1\x86", True),
    "doubled": (b"}20", True),
}


@pytest.mark.parametrize("how", STATES)
def test_state_that_may_stand_elsewhere_too(how: str) -> None:
    """However it is remembered, what several objects share is counted for each."""
    state, shared = STATES[how]
    assert scan(b"\x80\x04cm\nC\n)R" + state + b"b.").shares_state is shared


@pytest.mark.parametrize("sign", [1, -1])
def test_a_long_integer_in_many_frozensets(sign: int) -> None:
    """Each of them hashes it anew, whatever its sign."""
    number = pickle.encode_long(sign << 8 * LONG)
    long = b"\x8b" + struct.pack("<I", len(number)) + number
    one = b"](" + long + b"eq\0000cbuiltins\nfrozenset\nq\x010"
    with pytest.raises(pickle.UnpicklingError, match="copies more than it holds"):
        TreeUnpickler(b"\x80\x03" + one + b"(" + b"h\1h\0\x85R" * 100 + b"l.").load()


def called(name: str, *args: bytes) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n(".encode() + b"".join(args) + b"tR"


def stored(key: str = "0", device: str = "cpu", size: int = 4) -> bytes:
    """Spell a storage."""
    number = pickle.encode_long(size)
    parts = [b"X" + struct.pack("<I", len(each)) + each.encode() for each in ("storage", key, device)]
    return (
        b"(" + parts[0] + b"ctorch\nFloatStorage\n" + b"".join(parts[1:]) + b"\x8a\x09" + number.ljust(9, b"\0") + b"tQ"
    )


EMPTY_LIST_OF = b"](NNe"
ORDERED = b"](ccollections\nOrderedDict\nq\1)R%bq\2bh\1)Rh\2be"
REFUSED = {
    "bytes of a number": (called("builtins.bytes", b"K\xff"), "bytes are spelled"),
    "bytes of bytes by codecs": (called("_codecs.encode", b"C\1a", b"X\6\0\0\0latin1"), "bytes are spelled"),
    "bytes of text by another codec": (called("_codecs.encode", b"X\1\0\0\0aX\3\0\0\0hex"), "bytes are spelled"),
    "a bytearray of a list": (called("builtins.bytearray", b"](K\1e"), "a bytearray is spelled"),
    "a list of a list": (called("builtins.list", EMPTY_LIST_OF), "a list is spelled"),
    "a number of text": (called("builtins.int", b"X\1\0\0\x001"), "a int is spelled"),
    "a complex number of text": (called("builtins.complex", b"X\1\0\0\x001"), "a complex number is spelled"),
    "a set of text": (called("builtins.set", b"X\1\0\0\x001"), "a set is spelled"),
    "attributes in a list": (ORDERED % b"](X\1\0\0\0aK\1\x86e", "the state of an OrderedDict"),
    "a hook as attribute": (ORDERED % b"}X\x0c\0\0\0__setstate__Ns", "the state of an OrderedDict"),
    "a name too long": (b"cm\n" + b"C" * 1000 + b"\n", "a name has more than 1000"),
    "a key too long": (stored(key="0" * 1001), "the key or the device of a storage"),
    "a device too long": (stored(device="0" * 1001), "the key or the device of a storage"),
    "more than any disk has": (stored(size=1 << 60), "a storage has an impossible size"),
    "less than nothing": (
        b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuJ\xff\xff\xff\xfftQ",
        "a storage has an impossible size",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_spelled_in_another_way_than_python_does(what: str) -> None:
    """It might ask for memory, or be gone through once for each call."""
    spelled, says = REFUSED[what]
    with pytest.raises(pickle.UnpicklingError, match=says):
        TreeUnpickler(b"\x80\x03" + spelled + b".").load()


def test_what_python_does_spell() -> None:
    TreeUnpickler(b"\x80\x03" + stored(key="0" * 1000, device="0" * 1000, size=(1 << 60) - 1) + b".").load()
    TreeUnpickler(b"\x80\x03cm\n" + b"C" * 999 + b"\n.").load()
    assert TreeUnpickler(b"\x80\x03" + called("builtins.complex", b"K\1", b"K\2") + b".").load() == 1 + 2j
    for kind in (list, dict, tuple, set, frozenset, str, int, float, bool, bytes, bytearray, complex):
        assert TreeUnpickler(b"\x80\x03" + called(f"builtins.{kind.__name__}") + b".").load() == kind()


def test_bytes_that_can_be_changed() -> None:
    """Before Python 3.8, protocol 2 spelled them as text and its encoding."""
    data = b"\x80\x02" + called("builtins.bytearray", b"X\3\0\0\0a\xc3\xbf", b"X\7\0\0\0latin-1") + b"."
    assert TreeUnpickler(data).load() == pickle.loads(data) == bytearray(b"a\xff")


@pytest.mark.parametrize("spelled", ["", "m", "m C.", "m C..D", "m .C", "m C\nD", "m\nn C"])
def test_a_name_that_no_line_can_hold(spelled: str) -> None:
    module, _, last = spelled.partition(" ")
    parts = b"".join(b"X" + struct.pack("<I", len(each)) + each.encode() for each in (module, last))
    with pytest.raises(pickle.UnpicklingError, match="a name does not have exactly one line"):
        TreeUnpickler(b"\x80\x04" + parts + b"\x93.").load()


def parameter(of: bytes) -> bytes:
    """Spell a parameter of a tensor."""
    return called("torch._utils._rebuild_parameter", of, b"\x88", b"ccollections\nOrderedDict\n)R")


def test_tensors_in_each_other() -> None:
    made = called(
        "torch._utils._rebuild_tensor_v2", stored(), b"K\0K\4\x85K\1\x85\x89", called("collections.OrderedDict")
    )
    for _ in range(20):
        made = parameter(made)
    with pytest.raises(pickle.UnpicklingError, match="made of tensors nested more than 20"):
        TreeUnpickler(b"\x80\x03" + parameter(parameter(made)) + b".").load()


def test_tensors_that_share_a_list_in_a_dict() -> None:
    shared = b"(ctorch._utils\n_rebuild_any\nq\1}K\1](" + b"N" * LONG + b"esq\2" + b"h\1h\2\x85R" * 100 + b"l"
    with pytest.raises(pickle.UnpicklingError, match="copies more than it holds"):
        TreeUnpickler(b"\x80\x03" + shared + b".").load()


def test_a_tensor_of_more_dimensions_than_any() -> None:
    shape, hooks = b"(" + b"K\1" * 65 + b"t", called("collections.OrderedDict")
    with pytest.raises(pickle.UnpicklingError, match="more than 64 dimensions"):
        made = called("torch._utils._rebuild_tensor_v2", stored(), b"K\0", shape, shape, b"\x89", hooks)
        TreeUnpickler(b"\x80\x03" + made + b".").load()


def test_a_tuple_in_many_frozensets() -> None:
    one = b"](((" + b"N" * LONG + b"tteq\0000cbuiltins\nfrozenset\nq\x010"
    with pytest.raises(pickle.UnpicklingError, match="copies more than it holds"):
        TreeUnpickler(b"\x80\x03" + one + b"(" + b"h\1h\0\x85R" * 100 + b"l.").load()
