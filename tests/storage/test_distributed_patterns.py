"""The metadata of distributed checkpoints are read by patterns as object by object: the same content, the same refusals."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.distributed.checkpoint.filesystem import _StorageInfo  # noqa: E402
from torch.distributed.checkpoint.metadata import (  # noqa: E402
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from anemoi_ckpt_migrate.errors import NotACheckpoint  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed import metadata as reader  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed import metadata_patterns  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed.closed_pickle import Struct, walk  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed.metadata import read_metadata  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed.metadata_patterns import Irregular  # noqa: E402
from anemoi_ckpt_migrate.storage.distributed.metadata_writer import metadata_bytes  # noqa: E402
from tests.support.distributed import save, save_trained  # noqa: E402


def plain(value: Any) -> Any:
    """What was read, in terms that can be compared."""
    if type(value) is Struct:
        return "Struct", value.name, plain(value.args), plain(value.state), value.called
    if isinstance(value, Mapping):
        return [(plain(key), plain(each)) for key, each in value.items()]
    if isinstance(value, (tuple, list)):
        return type(value), [plain(each) for each in value]
    return type(value), value


def outcome(data: bytes) -> Any:
    """What was read, or why it was refused."""
    try:
        found = read_metadata(data)
    except NotACheckpoint as error:
        return str(error)
    return plain(found.entries), plain(found.paths), plain(found.more)


def object_by_object(data: bytes) -> Any:
    with patch.object(reader, "read_by_pattern", side_effect=Irregular("patterns are off")):
        return outcome(data)


def by_patterns(data: bytes) -> Any:
    """The outcome, which has to come from patterns."""
    with patch.object(reader, "read", side_effect=AssertionError("no pattern matches")):
        return outcome(data)


@contextlib.contextmanager
def walks() -> Iterator[list[int]]:
    """Note each entry that no pattern matches."""
    found: list[int] = []

    def noted(data: bytes, known: Any, at: int, *more: Any) -> Any:
        found.append(at)
        return walk(data, known, at, *more)

    with patch.object(metadata_patterns, "walk", noted):
        yield found


# Metadata as torch makes them, by hand


def tensor(shape: list[int], pieces: list[int], dtype: Any = torch.float32) -> TensorStorageMetadata:
    """A tensor that is cut into so many pieces in each dimension; a dimension has to be a multiple."""
    sizes = [size // count for size, count in zip(shape, pieces, strict=True)]
    firsts = itertools.product(*(range(count) for count in pieces))
    boxes = [
        ChunkStorageMetadata(
            torch.Size([first * size for first, size in zip(each, sizes, strict=True)]), torch.Size(sizes)
        )
        for each in firsts
    ]
    return TensorStorageMetadata(TensorProperties(dtype), torch.Size(shape), boxes)


def metadata(entries: dict[str, Any], paths: dict[str, Any] | None = None, shuffled: int | None = None) -> Metadata:
    """Metadata with a place for each chunk; in the order of the entries, or in another one."""
    indices = [
        index
        for name, each in entries.items()
        for index in (
            [MetadataIndex(name, chunk.offsets, number) for number, chunk in enumerate(each.chunks)]
            if isinstance(each, TensorStorageMetadata)
            else [MetadataIndex(name)]
        )
    ]
    if shuffled is not None:
        random.Random(shuffled).shuffle(indices)
    places = {
        index: _StorageInfo(f"__{number % 3}_0.distcp", number**3 * 1000, 900 + number % 5)
        for number, index in enumerate(indices)
    }
    if paths is None:
        paths = {name: (name,) for name in entries}
    return Metadata(entries, paths, places, StorageMeta("here"), "1.0.0")


def from_ranks(found: Metadata) -> Metadata:
    """As from several processes: equal texts and sizes are objects of their own in each map."""
    fields = ("state_dict_metadata", "planner_data", "storage_data")
    return Metadata(*(pickle.loads(pickle.dumps(getattr(found, each))) for each in fields), found.storage_meta)


MANY = {f"layers.{i}.weight": tensor([8, 6], [1, 1]) for i in range(3000)}
CUT = {f"layers.{i}.weight": tensor([200, 60], [20, 3], torch.bfloat16) for i in range(60)}
MIXED = {f"{i}.{'ab'[i % 2]}": tensor([12] * (i % 5), [1 + i % 2] * (i % 5)) if i % 3 else BytesStorageMetadata() for i in range(2500)}  # fmt: skip
LONG = {"one": tensor([3600], [3600])} | {f"{i}": tensor([1], [1]) for i in range(1500)}
REGULAR = {
    "thousands of tensors": metadata(MANY),
    "thousands of chunks": metadata(CUT, shuffled=1),
    "tensors and values": metadata(MIXED, {name: ("x", *name.split("."))[1:] for name in MIXED}, shuffled=2),
    "one tensor of thousands of chunks": metadata(LONG),
    "names from ranks": from_ranks(metadata(CUT, shuffled=3)),
}


@pytest.mark.parametrize("kind", REGULAR)
def test_what_torch_writes_is_read_by_patterns(kind: str) -> None:
    """All but the first entry of a kind, and those where a frame of the pickle ends, which has 64 kB."""
    data = pickle.dumps(REGULAR[kind])
    with walks() as walked:
        found = by_patterns(data)
    assert len(walked) < 25 + 4 * (len(data) >> 16)
    assert found == object_by_object(data)


@pytest.mark.parametrize("kind", REGULAR)
def test_what_is_written_is_read_by_patterns_again(kind: str) -> None:
    """And torch reads it as what it wrote."""
    found = read_metadata(pickle.dumps(REGULAR[kind]))
    data = metadata_bytes(found)
    assert pickle.loads(data) == REGULAR[kind]
    with walks() as walked:
        again = by_patterns(data)
    assert len(walked) < 25
    assert again == (plain(found.entries), plain(found.paths), plain(found.more))


def test_checkpoints_of_torch(tmp_path: Path) -> None:
    trained, flat = save_trained(tmp_path / "trained"), save_trained(tmp_path / "flat", flat=True)
    for folder in (trained, flat, save({"a": torch.ones(3), "b": {"c": [torch.ones(())]}}, tmp_path / "small")):
        data = (folder / ".metadata").read_bytes()
        assert by_patterns(data) == object_by_object(data)


# Odd metadata

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(
    ["size", "offset", "fqn", "torch", "Size", "x" * 300, "\x94", "\u0394", "0", "chunks", "ckpt_migrate"]
)
SHAPES = st.lists(st.tuples(st.integers(0, 3) | st.sampled_from([300, 70_000]), st.integers(1, 3)), max_size=5)
ODD = {
    "later": st.none() | st.booleans() | st.integers() | TEXTS | st.lists(st.integers(), max_size=3),
    "size": st.builds(torch.Size, st.lists(st.integers(0, 9), max_size=4)),
}


@st.composite
def tensors(draw: st.DrawFn) -> TensorStorageMetadata:
    dims = draw(SHAPES)
    if not all(size for size, _ in dims):
        dims = [(size, 1) for size, _ in dims]
    found = tensor([size * count for size, count in dims], [count for _, count in dims], draw(DTYPES))
    for each in (found, *found.chunks):
        if draw(st.integers(0, 12)) == 0:
            each.later = draw(ODD["later"])
    return found


@st.composite
def any_metadata(draw: st.DrawFn) -> Metadata:
    """Metadata as torch or a fork of it may write: shared or repeated, with attributes that nobody knows."""
    keys = st.lists(TEXTS | st.integers(0, 300), min_size=1, max_size=5).map(tuple)
    paths = {".".join(map(str, path)): path for path in draw(st.lists(keys, max_size=8))}
    entries = {name: draw(tensors() | st.builds(BytesStorageMetadata)) for name in paths}
    found = metadata(entries, paths, draw(st.none() | st.integers(0, 9)))
    if draw(st.booleans()):
        found = from_ranks(found)
    if draw(st.integers(0, 3)) == 0:
        found.planner_data = draw(st.none() | st.just({}) | st.just({"x": ("x",)}))
    if draw(st.booleans()):
        setattr(found, draw(st.sampled_from(["later", "ckpt_migrate"])), draw(ODD["later"] | ODD["size"]))
    for place in found.storage_data.values():
        if draw(st.integers(0, 12)) == 0:
            place.transform_descriptors = draw(st.none() | st.just(["stream.zstd/1"]))
        if draw(st.integers(0, 12)) == 0:
            place.offset = draw(st.integers(-5, 1 << 70))
    return found


@given(any_metadata(), st.integers(2, 5), st.booleans())
def test_odd_metadata(found: Metadata, protocol: int, in_python: bool) -> None:
    dumps = pickle._dumps if in_python else pickle.dumps  # type: ignore[attr-defined]
    data = dumps(found, protocol)
    expected = object_by_object(data)
    assert outcome(data) == expected
    if not isinstance(expected, str):
        written = metadata_bytes(read_metadata(data))
        assert outcome(written) == object_by_object(written)
        assert pickle.loads(written) == pickle.loads(data)


# Hostile metadata: any change of any bytes

SMALL = metadata({"a": tensor([4, 2], [2, 1]), "b": tensor([4], [1]), "c": BytesStorageMetadata(), "d": tensor([], []),
                  "e": tensor([4, 2], [1, 2]), "f": BytesStorageMetadata(), "g": tensor([4], [1])})  # fmt: skip
SOURCES = [pickle.dumps(SMALL), pickle.dumps(from_ranks(SMALL)), metadata_bytes(read_metadata(pickle.dumps(SMALL)))]
OPCODES = st.sampled_from(
    [getattr(pickle, name) for name in pickle.__all__ if name.isupper() and isinstance(getattr(pickle, name), bytes)]
)
PIECES = st.one_of(
    OPCODES,
    st.binary(max_size=3),
    st.integers(0, 255).map(lambda number: pickle.BINGET + bytes((number,))),
    st.integers(0, 300).map(lambda number: pickle.LONG_BINGET + number.to_bytes(4, "little")),
    st.integers(0, 300).map(lambda length: pickle.FRAME + length.to_bytes(8, "little")),
    st.sampled_from([b"\x8c\x01a\x94", b"\x8c\x02a\x94", b"\x8c\x01\xff\x94", b"K\x01", b"J\xff\xff\xff\xff", b")\x81\x94", b"}\x94(", b"ub", b"aub", b"eub"]),
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(SOURCES))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 6) | st.integers(0, 200)))
        new = draw(PIECES | st.just(b"") | st.just(data[begin:end] * 2))
        if draw(st.integers(0, 3)) == 0:  # a part from elsewhere
            other = draw(st.integers(0, len(data)))
            new = data[other : other + draw(st.integers(0, 120))]
        data = data[:begin] + new + data[end:]
    return data


@given(changed())
def test_changed_bytes(data: bytes) -> None:
    assert outcome(data) == object_by_object(data)


def test_any_byte_changed_or_removed() -> None:
    for data in SOURCES:
        for at, by in itertools.product(range(0, len(data), 3), (1, 0x80, 0xFF)):
            one = data[:at] + bytes((data[at] ^ by,)) + data[at + 1 :]
            assert outcome(one) == object_by_object(one), (at, by)
            cut = data[:at] + data[at + 1 :]
            assert outcome(cut) == object_by_object(cut), at


# Differences that patterns might overlook, each accepted or refused as object by object


def swapped(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


LIES = {
    "a length that ends inside the text": (b"\x8c\x01g\x94", b"\x8c\x02g\x94"),
    "a name that is there twice": (b"\x8c\x01g\x94", b"\x8c\x01b\x94"),
    "a frame inside an entry": (b"\x8c\x01g\x94", b"\x95\x01\0\0\0\0\0\0\0\x8c\x01g\x94"),
    "a frame that ends inside a text": (b"\x8c\x01g\x94", b"\x8c\x01g\x95\0\0\0\0\0\0\0\0\x94"),
    "attributes of a value": (b"\x8c\x01g\x94", b"}\x94b\x8c\x01g\x94"),
    "attributes of a value after a frame": (b"\x8c\x01g\x94", b"\x95\0\0\0\0\0\0\0\0}\x94b\x8c\x01g\x94"),
    "an entry made a tuple": (b"\x8c\x01g\x94", b"\x86\x94N\x8c\x01g\x94"),
    "an entry numbered twice": (b"\x8c\x01g\x94", b"\x94\x8c\x01g\x94"),
    "a list with a mark and without an end": (b"aub", b"eub"),
    "a negative size": (b"K\x04\x85\x94\x85", b"J\xff\xff\xff\xff\x85\x94\x85"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(lie: str) -> None:
    data = swapped(SOURCES[0], *LIES[lie])
    assert outcome(data) == object_by_object(data)
