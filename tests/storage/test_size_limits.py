"""What a file made to cost much costs: it is refused, or read in a time and a memory that grow with its length.

a pickle --> scan --> calls counted --> a tree --> each thing visited once --> names shortened
a record --> operations --> patterns in linear time --> sizes checked --> the first byte is written
"""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import from_data
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.pickle import opaque
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreeUnpickler
from tests.support.operations import declare
from tests.support.pickle_bytes import TENSOR, call, checkpoint, name, text, tree
from tests.support.project import Folder

LONG = 20_000
LONG_BYTES = b"B" + struct.pack("<I", LONG) + b"a" * LONG
OFTEN = b"h\1h\2\x85R" * 100


def often(function: str, argument: bytes) -> bytes:
    """Spell a hundred calls of a function with one long argument."""
    return b"(" + name(function) + b"q\1" + argument + b"q\2" + OFTEN + b"l"


COPIES = {
    "a bytearray of bytes": often("builtins.bytearray", LONG_BYTES),
    "bytes of text": b"(" + name("_codecs.encode") + b"q\1" + text("a" * LONG) + b"q\2" + text("latin1") + b"q\3"
    + b"h\1h\2h\3\x86R" * 100 + b"l",
    "a shape of text": often("torch.Size", text("a" * LONG)),
    "a shape of an object with items": often("torch.Size", name("m.C") + b")R(" + b"N" * LONG + b"e"),
    "a frozenset of a list": often("builtins.frozenset", b"](" + b"N" * LONG + b"e"),
    "an ordered dict of text": often("collections.OrderedDict", text("a" * LONG)),
    "a complex number of text": often("builtins.complex", text(" " * LONG + "1")),
    "arguments of one tuple": b"(" + name("m.C") + b"q\1(" + b"N" * LONG + b"tq\2" + b"h\1h\2R" * 100 + b"l",
    "arguments of bare objects": b"(" + name("m.C") + b"q\1(" + b"N" * LONG + b"tq\2" + b"h\1h\2\x81" * 100 + b"l",
    "attributes of many objects": b"(" + name("m.C") + b"q\1}(" + b"".join(text(str(n)) + b"N" for n in range(LONG))
    + b"uq\2" + b"h\1)\x81h\2b" * 100 + b"l",
    "attributes that grow later": b"(" + name("m.C") + b"q\1}q\2" + b"h\1)\x81h\2b" * 100 + b"h\2("
    + b"".join(text(str(n)) + b"N" for n in range(LONG)) + b"ul",
    "attributes of ordered dicts": b"(" + name("collections.OrderedDict") + b"q\1}(" +
    b"".join(text(str(n)) + b"N" for n in range(LONG)) + b"uq\2" + b"h\1)Rh\2b" * 100 + b"l",
    "arguments of tensors": b"(" + name("torch._utils._rebuild_any") + b"q\1](" + b"N" * LONG + b"eq\2" + OFTEN + b"l",
    "calls of what calls made": b"(" + name("m.C") + b")R" * 900 + b"q\1" + b"h\1)R" * 1000 + b"l",
    "hashes of one integer": b"}(" + b"\x8b" + struct.pack("<I", LONG) + b"\1" * LONG + b"q\1N" + b"h\1N" * LONG + b"u",
    "hashes of one text": b"}(" + text("a" * LONG) + b"q\1N" + b"h\1N" * LONG + b"u",
}  # fmt: skip


def test_calls_within_calls(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing asks each of them for attributes that it has not; to say which one has not walks all within it."""
    path = checkpoint(project, tree(call("m.D", LONG_BYTES, name("m.C") + b")R" * 200), protocol=4))
    asked, real = [], opaque.class_of
    monkeypatch.setattr(opaque, "class_of", lambda each: asked.append(each) or real(each))  # type: ignore[func-returns-value]
    with open_checkpoint(path) as file:
        file.pickled(file.load())
    assert len(asked) <= 200


def test_the_class_of_what_many_calls_made(project: Folder) -> None:
    """Calls within each other have the class of the innermost, as long as the file is longer than the way to it."""
    long_enough = call("m.D", b"B" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000, name("m.C") + b")R" * 1100)
    shown = project.ok("inspect", "--depth", "3", checkpoint(project, tree(long_enough, protocol=4))).out
    assert "m.C" in shown


@pytest.mark.parametrize("what", COPIES)
def test_copies_of_one_thing(project: Folder, what: str) -> None:
    """What a call copies counts, whatever it makes; the pickle may copy twice its length."""
    path = checkpoint(project, tree(COPIES[what], protocol=4))
    ran = project.run("current", path)
    assert ran.code == 1
    assert "damaged or hostile" in ran.err
    assert "MemoryError" not in ran.err


@pytest.mark.parametrize(
    "value",
    [
        call("builtins.bytearray", call("_codecs.encode", text("a" * LONG), text("latin1"))),
        call("builtins.set", b"](" + b"".join(b"M" + struct.pack("<H", n) for n in range(LONG)) + b"e"),
        b"(" + call("builtins.complex", b"G" + struct.pack(">d", 1), b"K\2") * 1000 + b"l",
        call("collections.OrderedDict") + b"}" + text("_metadata") + b"}sb",
    ],
    ids=["a bytearray of protocol 2", "a set of protocol 2", "complex numbers", "an ordered dict with attributes"],
)
def test_what_python_writes_itself(project: Folder, value: bytes) -> None:
    project.ok("current", checkpoint(project, tree(value)))


def test_an_ordered_dict_that_shares_its_attributes_keeps_them() -> None:
    data = b"\x80\x02](}q\1" + text("a") + b"K\1s" + (name("collections.OrderedDict") + b")Rh\1b") * 2 + b"e."
    _, *made = TreeUnpickler(data).load()
    assert [vars(each) for each in made] == [{"a": 1}, {"a": 1}]


def shared(key: str, count: int) -> bytes:
    """Spell a state dict with a long key, below which one tensor stands many times."""
    below = b"}" + text(key) + b"(" + TENSOR + b"q\5" + b"h\5" * count + b"ls"
    return b"\x80\x02}" + text("state_dict") + below + b"s."


def test_a_long_key_is_not_spelled_for_each_tensor_below_it(project: Folder) -> None:
    path = checkpoint(project, shared("a" * 10_000, 1000))
    found = json.loads(project.ok("inspect", "--json", path).out)
    assert len(found["tensors"]) == 1001
    assert max(len(tensor["path"]) for tensor in found["tensors"]) <= 501
    assert len(project.ok("inspect", path).out) < 100_000


def test_long_keys_in_each_other_are_not_spelled_each(project: Folder) -> None:
    """Each key is shortened, and so is the path that they make together."""
    below = b"(" + TENSOR + b"q\5" + b"h\5" * 100 + b"l"
    for _ in range(20):
        below = b"}" + text("a" * 240) + below + b"s"
    path = checkpoint(project, b"\x80\x02}" + text("state_dict") + below + b"s.")
    found = json.loads(project.ok("inspect", "--json", path).out)["tensors"]
    assert len(found) == 101
    assert max(len(tensor["path"]) for tensor in found) <= 501


def test_a_key_of_usual_length_is_spelled_whole(project: Folder) -> None:
    key = "model." + "encoder." * 20 + "weight"
    path = checkpoint(project, shared(key, 1))
    assert json.loads(project.ok("inspect", "--json", path).out)["tensors"][0]["path"] == f"state_dict.{key}.0"


# ------------------------------------------------------------------------------------------------- what a record asks


def recorded(project: Folder, operations: list[dict[str, Any]], names: list[str]) -> Path:
    """Make a checkpoint whose record says that operations undo its one revision."""
    undo = {"source": "", "python": None, "pickle": None, "operations": operations, "parameters": None}
    entry = {"revision": "zz", "parents": [], "depends_on": [], "name": "n", "signature": "", "versions": {},
             "final": False, "undo": undo}  # fmt: skip
    record = {"format": 1, "heads": ["zz"], "lineage": [entry], "log": []}
    state = b"}(" + b"".join(text(each) + TENSOR for each in names) + b"u"
    data = b"\x80\x02}(" + text("state_dict") + state + text("ckpt_migrate") + spelled(record) + b"u."
    return checkpoint(project, data)


def spelled(value: Any) -> bytes:
    import pickle

    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return b"}(" + b"".join(spelled(key) + spelled(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(spelled, value)) + b"e"
    if isinstance(value, int) and not isinstance(value, bool):
        number = pickle.encode_long(value)
        return b"\x8a" + bytes([len(number)]) + number
    return {None: b"N", True: b"\x88", False: b"\x89"}[value]


def test_a_record_holds_no_regular_expression(project: Folder) -> None:
    """`RenameRegex` is for scripts; what undoes it are pairs of names."""
    data = {"op": "RenameRegex", "pattern": "(a+)+$", "replacement": "b"}
    assert op.RenameRegex("a", "b").inverse() is None
    with pytest.raises(BadOperation, match="is for scripts only"):
        from_data(data)
    ran = project.run("downgrade", "base", "--dry-run", recorded(project, [data], ["a" * 40 + "b"]))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "is for scripts only" in ran.err


def test_thirty_stars(project: Folder) -> None:
    path = recorded(project, [{"op": "Drop", "keys": ["*a" * 30 + "*c"]}], ["a" * 3000])
    ran = project.run("downgrade", "base", "--dry-run", path)
    assert ran.code == 1
    assert "no name matches" in ran.err


@pytest.mark.parametrize("places", ["{a}{b}{c}{d}{e}{f}x{a}x", "{a}{b}{c}{d}{e}{f}{g}{h}x", "*{a}*{b}*{c}*{d}*x"])
def test_a_pattern_with_many_ways_ends(places: str) -> None:
    try:
        assert pattern(places).bind("a" * 900) is None
    except BadOperation as error:
        assert "too many ways" in error.sentence


def test_a_name_longer_than_any_meets_no_placeholder() -> None:
    with pytest.raises(BadOperation, match="more than 1000 characters"):
        pattern("h.{i}.x").bind("a" * 1001)
    assert pattern("a*a").bind("a" * 1_000_000) == {}


@given(
    st.lists(st.sampled_from(["a", "b", ".", "*", "{i}", "{j}", "a."]), max_size=6).map("".join),
    st.text("ab.", max_size=9),
)
def test_patterns_mean_what_their_regular_expressions_do(written: str, tried: str) -> None:
    found = pattern(written)
    whole, begun = found.regex.fullmatch(tried), found.regex.match(tried)
    assert found.bind(tried) == (None if whole is None else whole.groupdict())
    assert found.begin(tried) == (None if begun is None else (begun.groupdict(), begun.end()))


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "Add", "key": "z", "shape": [10**12], "dtype": "float32"},
        {"op": "Pad", "keys": ["w"], "size": 10**12},
    ],
    ids=["Add", "Pad"],
)
def test_a_record_asks_for_terabytes(project: Folder, operation: dict[str, Any]) -> None:
    path = recorded(project, [operation], ["w"])
    before = path.read_bytes()
    for words in (["downgrade", "base"], ["downgrade", "base", "--in-place"]):
        ran = project.run(*words, path)
        assert ran.code == 1
        assert "the rollbacks in its record would make" in ran.err
    assert path.read_bytes() == before
    # The way out that the message names.
    project.ok("stamp", "--purge", "base", path)
    assert "base" in project.ok("current", path).out


@pytest.mark.parametrize("shape", ["[10**13]", "[2**62, 2**62]", "[2**70, 0]", "[-1]", "[True]"])
def test_a_script_asks_for_more_than_the_disk_has(project: Folder, shape: str) -> None:
    declare(project, "a1", f'op.Add("z", {shape}, "float32")')
    path = checkpoint(project, b"\x80\x02}" + text("state_dict") + b"}" + text("w") + TENSOR + b"ss.")
    before = path.read_bytes()
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert ran.err.count("\n") < 4
    assert path.read_bytes() == before
    assert [each.name for each in project.path.glob("*.ckpt*")] == [path.name]


def test_a_script_asks_for_more_than_a_file_may_have(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(project, "a1", 'op.Add("z", [100_000], "float32")')
    path = checkpoint(project, b"\x80\x02}" + text("state_dict") + b"}" + text("w") + TENSOR + b"ss.")
    with monkeypatch.context() as limited:
        limited.setattr(resource, "getrlimit", lambda what: (100_000, 100_000))
        ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "the largest file that this process may write is 100,000 bytes" in ran.err
    project.ok("upgrade", "head", path)
    assert "400.0 kB" in project.ok("inspect", path).out
