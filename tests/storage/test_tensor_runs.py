"""Tensors that are read and written many at once are those that opcode by opcode would give: no more, no less."""

from __future__ import annotations

import collections
import io
import itertools
import pickle
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage.pickle import scan, tree_pickle
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.tensors.refs import RebuildFunction, StoredStorage, StoredTensor, reduced


class OneByOne(TreePickler):
    """Writes tensor by tensor, as torch does: all that could be shared is remembered."""

    writes_tensors = False

    def save_tensor(self, obj: StoredTensor) -> None:
        function, args, state = reduced(obj)
        self.save_reduce(function, args, state, obj=obj)

    dispatch = TreePickler.dispatch | {StoredTensor: save_tensor}


class Slow(TreePickler):
    """Writes tensor by tensor, each of them anew."""

    writes_tensors = False


def written(tree: Any, pickler: type[TreePickler] = Slow) -> bytes:
    stream = io.BytesIO()
    pickler(stream, 2).dump(tree)
    return stream.getvalue()


def read_one_by_one(data: bytes) -> Any:
    unpickler = TreeUnpickler(data)
    unpickler.scanned = scan._walk(data, take=False)
    return unpickler.load()


def outcome(read: Callable[[bytes], Any], data: bytes) -> bytes | type[Exception]:
    """What a reader makes of a pickle, as the bytes that write it again; or that it refuses it."""
    try:
        return written(read(data))
    except Exception:
        return Exception


def read(data: bytes) -> Any:
    return TreeUnpickler(data).load()


FUNCTION = RebuildFunction(("torch._utils", "_rebuild_tensor_v2"), [])
NAMES = read(b"\x80\x02](ctorch\nFloatStorage\nctorch\nHalfStorage\nctorch\nLongStorage\ncpkg\nOddStorage\ne.")
PLACES = ["cpu", "cuda:0", "x" * 70]


def tensor(key: str, shape: tuple[int, ...] = (2, 3), kind: int = 0, place: int = 0, offset: int = 0) -> StoredTensor:
    strides = tuple(itertools.accumulate((1, *shape[:0:-1]), lambda one, other: one * other))[::-1] if shape else ()
    shape = (*shape,)  # of its own, as that of a tensor in torch
    storage = StoredStorage(NAMES[kind], key, PLACES[place], 1 << len(shape))
    return StoredTensor(FUNCTION, (storage, offset, shape, strides, False, collections.OrderedDict()))


def model(count: int, first: int = 0) -> dict[str, StoredTensor]:
    return {f"layers.{number}.weight": tensor(str(number), (number % 300, 2)) for number in range(first, first + count)}


def adam(count: int) -> dict[str, Any]:
    """
    state      0 ---- step, exp_avg, exp_avg_sq
               1 ---- step, exp_avg, exp_avg_sq      the keys are the same objects everywhere
    """
    keys = itertools.count(10_000)
    slots = [("step", ()), ("exp_avg", (4, 2)), ("exp_avg_sq", (4, 2))]
    return {
        "state": {place: {slot: tensor(str(next(keys)), shape) for slot, shape in slots} for place in range(count)},
        "param_groups": [{"lr": 0.1, "params": list(range(count))}],
    }


def average(of: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A copy that shares the names of a model."""
    return {name: tensor(f"5{place}", (3,)) for place, name in enumerate(of)}


WHOLE = model(3000)
TREES = {
    "model": {"state_dict": model(400), "epoch": 3},
    "batches": {"state_dict": WHOLE, "average": average(WHOLE)},
    "ordered": collections.OrderedDict(model(1500)),
    "optimizer": {"state_dict": model(300), "optimizer_states": [adam(300)]},
    "tied": {"state_dict": WHOLE, "other": {f"tied.{name}": value for name, value in WHOLE.items()}},
    "kinds": {f"w{number}": tensor(str(number), (2,) * (number % 10), number % 4, number % 3) for number in range(900)},
    "names": {
        f"a({number})\0é{number}\ud800" if number % 7 else f"n{number}": tensor(str(number)) for number in range(900)
    },
    "between": {f"w{number}": tensor(str(number)) if number % 5 else [number] for number in range(900)},
    "one key": {f"w{number}": tensor("7", offset=number) for number in range(900)},
    "list": [model(200), model(200, 200), {"nothing": 1}, model(200, 400)],
}


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("pickler", [TreePickler, OneByOne])
def test_the_same_tree(kind: str, pickler: type[TreePickler]) -> None:
    data = written(TREES[kind], pickler)
    assert written(read(data)) == written(read_one_by_one(data)) == written(TREES[kind])


@pytest.mark.parametrize("kind", TREES)
def test_the_same_bytes(kind: str) -> None:
    assert written(TREES[kind], TreePickler) == written(TREES[kind], Slow)


@pytest.mark.parametrize("kind", ["model", "batches", "ordered", "optimizer", "tied", "list"])
@pytest.mark.parametrize("pickler", [TreePickler, OneByOne])
def test_most_tensors_are_taken_together(kind: str, pickler: type[TreePickler]) -> None:
    data = written(TREES[kind], pickler)
    found = scan.scan(data)
    assert (
        sum(stop - begin for _, begin, stop in found.tensors) > 0.9 * len(set(map(id, tensors_of(TREES[kind])))) - 150
    )
    assert found[:3] == scan._walk(data, take=False)[:3]


def tensors_of(tree: Any) -> list[StoredTensor]:
    if type(tree) is StoredTensor:
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [each for value in values for each in tensors_of(value)]


SHAPES = st.lists(st.integers(0, 70_000), max_size=9).map(tuple)
TENSORS = st.builds(tensor, st.text(max_size=22), SHAPES, st.integers(0, 3), st.integers(0, 2), st.integers(0, 70_000))
DICTS = st.dictionaries(st.one_of(st.text(max_size=40), st.integers(-3, 300)), TENSORS, max_size=9)
VALUES = st.one_of(DICTS, TENSORS, st.lists(DICTS, max_size=3), st.dictionaries(st.integers(0, 9), DICTS, max_size=4))


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=6), st.sampled_from([TreePickler, OneByOne]))
def test_random_trees(tree: dict[str, Any], pickler: type[TreePickler]) -> None:
    tree = {"before": model(100), **tree, "after": model(20)}
    data = written(tree, pickler)
    assert outcome(read, data) == outcome(read_one_by_one, data)


SHORT = [written({"a": model(60), "b": adam(20), "c": model(30, 90)}, pickler) for pickler in (TreePickler, OneByOne)]


@given(st.sampled_from(SHORT), st.randoms(use_true_random=False))
def test_damaged_pickles(data: bytes, chance: random.Random) -> None:
    """Bytes that are changed, moved or missing: both readers refuse, or both read the same."""
    for _ in range(20):
        at, end = sorted(chance.choices(range(3, len(data)), k=2))
        end = min(end, at + chance.choice([1, 2, 5, 400]))
        piece = chance.choice(
            [b"", b"h\x07", bytes([chance.randrange(256)]), data[at:end] * 2, chance.randbytes(end - at)]
        )
        changed = data[:at] + piece + data[end:]
        assert outcome(read, changed) == outcome(read_one_by_one, changed)


def number_in(data: bytes, what: bytes) -> bytes:
    """The number under which an object is remembered, as the pickle spells it."""
    return data[data.index(what) + len(what) + 1 :][:4]


def test_parts_of_tensors_may_be_got_elsewhere() -> None:
    """The shape of a tensor is remembered, and got by another opcode: all is read one by one."""
    data = written({"a": model(200)}, OneByOne)
    shape = number_in(data, b"K\x96K\x02\x86")
    end = data[:-1] + b"X\x05\0\0\0shapej" + shape + b"s."
    assert read(end)["shape"] == (150, 2)
    assert not scan.scan(end).tensors


def test_keys_and_tensors_may_be_got_elsewhere() -> None:
    data = written({"a": model(200)}, OneByOne)
    key, weight = number_in(data, b"X\x03\0\0\x00150"), number_in(data, b"layers.150.weight")
    tree = read(data[:-1] + b"(X\x03\0\0\0keyj" + key + b"X\x04\0\0\0namej" + weight + b"u.")
    assert tree["key"] == "150"
    assert tree["name"] == "layers.150.weight"
    assert scan.scan(data).tensors


HOSTILE = {
    "one tensor too many": lambda data: data[:-1] + b"X\x01\0\0\0bNQs.",
    "one tensor too early": lambda data: data[:2] + b"NQ0" + data[2:],
    "a number that comes later": lambda data: (
        data[:2] + b"}q\0(X\x01\0\0\0aj" + struct.pack("<I", 900) + b"u0" + data[2:]
    ),
    "a number beyond all": lambda data: data[:-1] + b"Nr" + struct.pack("<I", 1 << 30) + b"0.",
    "a count below zero": lambda data: data.replace(b"K\x04tr", b"J\xff\xff\xff\xfftr"),
    "another word": lambda data: data.replace(b"storage", b"starage"),
    "another function": lambda data: data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
    "other hooks": lambda data: data.replace(b"OrderedDict", b"defaultdict"),
    "storages that are functions": lambda data: data.replace(b"torch\nFloatStorage", b"builtins\ngetattr"),
}


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("pickler", [TreePickler, OneByOne])
def test_hostile_pickles(attack: str, pickler: type[TreePickler]) -> None:
    data = written({"a": model(200)}, pickler)
    changed = HOSTILE[attack](data)
    assert changed != data or pickler is TreePickler
    assert outcome(read, changed) == outcome(read_one_by_one, changed)


@pytest.mark.parametrize(
    "attack", ["one tensor too many", "one tensor too early", "another word", "a number that comes later"]
)
def test_hostile_pickles_are_refused(attack: str) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        read(HOSTILE[attack](written({"a": model(200)})))


def test_numbers_put_again() -> None:
    """A number of a tensor is taken by another object later: what was got before is the tensor."""
    data = written({"a": model(200)})
    number = number_in(data, b"layers.150.weight")
    end = b"X\x01\0\0\0bj" + number + b"X\x01\0\0\0cNr" + number + b"X\x01\0\0\0dj" + number
    tree = read(data[:-1] + b"(" + end + b"u.")
    assert [tree[key] for key in "bcd"] == ["layers.150.weight", None, None]


@pytest.mark.parametrize("put", [b"r%b", b"p%d\n"])
def test_a_number_beyond_the_next(put: bytes) -> None:
    """An object has a number that a part of a tensor takes later: who gets it then gets that part."""
    data = written({"a": model(200)}, OneByOne)
    number = number_in(data, b"K\x96K\x02\x86")
    early = put % (number if b"r" in put else int.from_bytes(number, "little"))
    at = data.index(b"X\x10\0\0\0layers.60.weight")
    changed = data[:at] + b"X\x01\0\0\0b" + early + b"0" + data[at:-1] + b"X\x01\0\0\0cj" + number + b"s."
    assert outcome(read, changed) == outcome(read_one_by_one, changed)
    assert read(changed)["c"] == (150, 2)


def test_memoized_without_number() -> None:
    """MEMOIZE counts what the unpickler has; so tensors beside it are read one by one."""
    data = written({"a": model(200)})
    changed = data[:-1] + b"X\x01\0\0\0bX\x01\0\0\0m\x94s."
    assert outcome(read, changed) == outcome(read_one_by_one, changed)
    assert list(read(changed)) == ["a", "b"]


def test_the_module_reads_trees_through_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded that was not scanned."""
    scanned = []
    monkeypatch.setattr(tree_pickle, "scan", lambda data: scanned.append(data) or scan.scan(data))
    data = written({"a": model(50)})
    read(data)
    assert scanned == [data]
