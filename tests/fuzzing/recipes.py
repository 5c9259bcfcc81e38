"""Recipes: a sound checkpoint, and changes of it."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import pickletools
import re
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage import open_checkpoint
from tests.fuzzing.changes import (
    _CENTRAL,
    _END,
    LANDMARKS,
    Change,
    Entry,
    Opcodes,
    Zip,
    add,
    claim,
    cut,
    deflate,
    delete,
    double,
    drawn,
    drop,
    duplicate,
    encrypt,
    exchange,
    exchange_contents,
    extra_field,
    flip,
    graft,
    insert,
    lie,
    lie_at_the_end,
    move,
    opcodes_of,
    overlap,
    overwrite,
    picked,
    plant,
    put,
    refill,
    remove,
    rename,
    repeat,
    replace,
    splice,
    spoil,
    surround,
)
from tests.fuzzing.objects import INTEGERS, NUMBERS, OBJECTS, _text

DATA = Path(__file__).parents[1] / "data"
# Recipes.

Parts = Any  # of a file: `Zip`, a dict (tar), or bytes


@dataclass(frozen=True)
class Recipe:
    """A sound checkpoint, and what is changed of it. Its `repr` is the code that makes it.

    Attributes
    ----------
    sound : str
        A name in `seeds`.
    opcodes, archive, content : tuple of Change
        Changes of the pickle, the zip archive, the bytes.
    which : int
        The pickle that is changed, where the file has several.
    tensors : bool
        Whether the tensors are to be loaded for real, too.
    """

    sound: str
    opcodes: tuple[Change, ...] = ()
    archive: tuple[Change, ...] = ()
    content: tuple[Change, ...] = ()
    which: int = 0
    tensors: bool = False

    beside: ClassVar[tuple[tuple[str, str], ...]] = ()
    walk: ClassVar[None] = None  # that of the workbench

    @property
    def kind(self) -> str:
        """The level of the file that is changed."""
        changed = {"pickle": self.opcodes, "archive": self.archive, "bytes": self.content}
        return " and ".join(level for level, changes in changed.items() if changes) or "sound"

    def build(self) -> bytes:
        """Make the file."""
        content = seeds()[self.sound]
        if self.opcodes or self.archive:
            parts = _apart(content)
            if self.opcodes:
                parts = self._with_other_pickle(parts)
            for apply in self.archive if isinstance(parts, Zip) else ():
                if parts.entries:
                    apply(parts)
            content = _together(parts)
        changed = bytearray(content)
        for apply in self.content:
            apply(changed)
        return bytes(changed)

    def _with_other_pickle(self, parts: Parts) -> Parts:
        pickles = _pickles(parts)
        which = self.which % len(pickles)
        opcodes = opcodes_of(pickles[which])
        for apply in self.opcodes:
            apply(opcodes)
            opcodes = [opcode for opcode in opcodes if opcode] or [b"."]
        if isinstance(parts, Zip):
            parts.pickle().content = b"".join(opcodes)
        elif isinstance(parts, dict):
            parts[list(parts)[which]] = b"".join(opcodes)
        else:
            parts = b"".join(opcodes)
        return parts


def _apart(content: bytes) -> Parts:
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return Zip([Entry(info.filename.encode(), archive.read(info)) for info in archive.infolist()])
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    except tarfile.TarError:
        return content


def _together(parts: Parts) -> bytes:
    if isinstance(parts, Zip):
        return parts.build()
    return _tar(parts) if isinstance(parts, dict) else parts


def _pickles(parts: Parts) -> list[bytes]:
    if isinstance(parts, Zip):
        return [parts.pickle().content]
    return list(parts.values()) if isinstance(parts, dict) else [parts]


@functools.cache
def pickles_of(name: str) -> list[bytes]:
    """Return the pickles of a sound checkpoint."""
    return _pickles(_apart(seeds()[name]))


def recipes() -> st.SearchStrategy[Recipe]:
    """Draw recipes of all kinds."""
    sound = picked(sorted(seeds()))
    which, tensors = st.integers(0, 2), st.booleans()
    opcodes, archive, content = _tuples(_opcode_changes()), _tuples(_archive_changes()), _tuples(_content_changes())
    none = st.just(())
    mixed = [st.one_of(none, changes) for changes in (opcodes, archive, content)]
    return st.one_of(
        drawn(Recipe, sound, opcodes, none, none, which, tensors),
        drawn(Recipe, sound, opcodes, none, none, which, tensors),
        drawn(Recipe, sound, none, archive, none, which, tensors),
        drawn(Recipe, sound, none, none, content, which, tensors),
        drawn(Recipe, sound, *mixed, which, tensors),
    )


def _tuples(changes: st.SearchStrategy[Change]) -> st.SearchStrategy[tuple[Change, ...]]:
    return st.lists(changes, min_size=1, max_size=3).map(tuple)


def _opcode_changes() -> st.SearchStrategy[Change]:
    number, count, sound = st.integers(0, 1000), st.integers(1, 8), picked(sorted(seeds()))
    planted = drawn(plant, number, OBJECTS)
    return st.one_of(
        *[planted] * 7,
        *[drawn(plant, number, NUMBERS)] * 2,
        drawn(put, number, OBJECTS),
        drawn(put, number, OBJECTS.map(lambda data: data + b"0")),
        drawn(replace, number, OBJECTS),
        drawn(replace, number, picked(sorted(map(bytes, zip(_every_opcode(), strict=True))))),
        drawn(delete, number, count),
        drawn(duplicate, number, count, number),
        drawn(exchange, number, number),
        drawn(spoil, number, st.integers(0, 30), st.integers(0, 7)),
        drawn(claim, number, picked([b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff", b"\1"])),
        drawn(graft, number, sound, number, st.integers(1, 40)),
    )


def _every_opcode() -> list[int]:
    return [ord(opcode.code) for opcode in pickletools.opcodes]


def _archive_changes() -> st.SearchStrategy[Change]:
    number = st.integers(0, 30)
    inside = "data.pkl,version,data/0,constants.pkl,../version,byteorder,.format_version,ckpt_migrate/previous.json,\u00e9,/x,data/../version,,a\0b"
    names = [f"ROOT/{name}".encode() for name in inside.split(",")]
    names += [
        b"../x",
        b"/etc/x",
        b"other/data.pkl",
        b"data.pkl",
        b"",
        b"ROOT\\data.pkl",
        b"ROOT/\xff",
        b"\xff",
        b"x" * 65535,
    ]
    marks = [
        b"[]",
        b"{",
        b"[" * 5000,
        *(b'{"format": 1, "length": %d, "directory": 0, "crc": 0}' % at for at in (-1, 9, 1 << 70)),
    ]
    contents = picked(
        [*marks, b"", b"big", b"little", b"1", b"99999999999999999999", b"3\n", b"\x80\x02}.", bytes(100_000)]
    )
    small = picked([1, -1, 2, 4, -4, 64, -64, 46, 30, 100])
    by = st.one_of(small, picked([0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -10_000]), st.integers(-5000, 5000))
    fields = picked([name for name, _ in _CENTRAL] + ["offset", "size", "packed", "crc", "name length"] * 2)
    zip64 = st.binary(min_size=0, max_size=28) | st.lists(
        INTEGERS.map(lambda value: value % (1 << 64)), max_size=3
    ).map(lambda values: struct.pack(f"<{len(values)}Q", *values))
    return st.one_of(
        drawn(drop, number),
        drawn(double, number, number, st.none() | contents),
        drawn(move, number, number),
        drawn(rename, number, picked(names), picked([0, 0x800, 0x808])),
        drawn(add, picked(names), contents),
        drawn(refill, number, contents),
        *[drawn(lie, number, picked(["local", "central", "both"]), fields, by)] * 4,
        drawn(lie_at_the_end, picked([name for name, _ in _END]), by),
        drawn(deflate, number),
        drawn(encrypt, number),
        drawn(overlap, number, number),
        drawn(exchange_contents, number, number),
        drawn(extra_field, number, picked([1, 0x4246, 0x7075, 0xFFFF]), zip64),
        drawn(surround, picked([b"", b"x", b"PK\3\4"]), picked([b"", b"x", b"PK\5\6", bytes(65535)])),
    )


def _content_changes() -> st.SearchStrategy[Change]:
    near = st.tuples(picked(LANDMARKS), st.integers(0, 30), st.integers(0, 60))
    end = st.tuples(st.just(b""), st.just(0), st.integers(-120, -1))
    anywhere = st.tuples(st.just(b""), st.just(0), st.integers(0, 1 << 16))
    place = st.one_of(near, near, end, anywhere)
    count = st.one_of(st.integers(1, 64), st.integers(1, 4096))
    data = st.one_of(
        st.binary(min_size=1, max_size=8), picked([b"\xff" * 4, b"\xff" * 8, bytes(4), bytes(64), *LANDMARKS])
    )
    return st.one_of(
        drawn(flip, place, st.integers(0, 7)),
        drawn(flip, place, st.integers(0, 7)),
        drawn(overwrite, place, data),
        drawn(overwrite, place, data),
        drawn(insert, place, data),
        drawn(remove, place, count),
        drawn(cut, place),
        drawn(repeat, place, count, place),
        drawn(splice, place, picked(sorted(seeds())), place, count),
    )


# Sound checkpoints.


@functools.cache
def seeds() -> dict[str, bytes]:
    """Return sound checkpoints by name: those beside the tests, old formats made of them, and more where torch is."""
    found = {path.name: path.read_bytes() for path in sorted(DATA.iterdir()) if path.suffix in (".pt", ".ckpt")}
    found["legacy"] = _legacy(found["training.ckpt"])
    found["tar"] = _tar(_tar_parts())
    found["rewritten"], found["grown"] = _rewritten(DATA / "training.ckpt")
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        found |= _made_by_torch()
    return found


def _legacy(content: bytes) -> bytes:
    """Save a checkpoint as torch before 1.6 did: pickles in a row, then each storage with its length before it."""
    entries = {entry.name.partition(b"/")[2].decode(): entry.content for entry in _apart(content).entries}
    opcodes = opcodes_of(entries["data.pkl"])
    keys = [name[5:] for name in entries if name.startswith("data/")]
    for at in reversed(range(len(opcodes))):
        if opcodes[at] == b"Q":  # a persistent id has one word more: of what it is a view
            opcodes.insert(max(where for where in range(at) if opcodes[where] == b"t"), b"N")
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    before = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    storages = [struct.pack("<q", _numel(opcodes, key)) + entries[f"data/{key}"] for key in keys]
    return b"".join([*before, *opcodes, pickle.dumps(keys, 2), *storages])


def _numel(opcodes: Opcodes, key: str) -> int:
    """Return how many elements a storage has: what the persistent id names after key and location."""
    at = opcodes.index(_text(key))
    spelled = next(opcode for opcode in opcodes[at + 3 :] if opcode[0] in b"KM")
    return int.from_bytes(spelled[1:], "little")


def _tar_parts() -> dict[str, bytes]:
    """Describe one tensor as torch before 0.2 did."""
    storage = pickle.dumps(1, 2) + b"\x80\x02K\x00X\x03\x00\x00\x00cpuctorch\nFloatStorage\n\x87."
    storage += struct.pack("<q4f", 4, 1, 2, 3, 4) + pickle.dumps([], 2)
    tensor = pickle.dumps(1, 2) + b"\x80\x02K\x01K\x00ctorch\nFloatTensor\n\x87."
    tensor += struct.pack("<iiqqqqq", 2, 0, 2, 2, 2, 1, 0)
    return {"storages": storage, "tensors": tensor, "pickle": b"\x80\x02}X\x01\x00\x00\x00wK\x01Qs."}


def _tar(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _rewritten(path: Path) -> tuple[bytes, bytes]:
    """Return a checkpoint as it is after it was written anew, and after it was written in place."""
    with tempfile.TemporaryDirectory() as folder:
        output, grown = Path(folder, "output"), Path(shutil.copy(path, folder))
        with open_checkpoint(grown) as checkpoint:
            pickled = checkpoint.pickled(checkpoint.load())
            checkpoint.write(pickled, {"anemoi.json": b"{}"}, output)
            checkpoint.write_in_place(pickled, {"anemoi.json": b"{}"})
        return output.read_bytes(), grown.read_bytes()


def _made_by_torch() -> dict[str, bytes]:
    import torch

    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    base = torch.arange(12.0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    module(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    views = {"whole": base, "part": base[3:], "turned": base.view(3, 4).t(), "empty": torch.empty(0), "tied": base}
    kinds = {
        "sparse": torch.eye(3).to_sparse(),
        "rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(base, 0.1, 10, torch.quint8),
        "half": base.bfloat16(),
        "complex": base.to(torch.complex64),
        "parameter": torch.nn.Parameter(base.clone()),
        "meta": torch.empty(5, device="meta"),
    }
    return {
        "torch views": _saved(views),
        "torch kinds": _saved(kinds),
        "torch module": _saved(module),
        "torch optimizer": _saved({"optimizer": optimizer.state_dict(), "epoch": 1}),
        "torch protocol 4": _saved({"views": views, "device": torch.device("cpu")}, pickle_protocol=4),
        "torch legacy views": _saved(views, _use_new_zipfile_serialization=False),
        "torch legacy module": _saved(module, _use_new_zipfile_serialization=False),
    }


def _saved(value: Any, **options: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(value, stream, **options)
    content = stream.getvalue()
    # The legacy format names storages after their addresses, which change from run to run.
    for number, key in enumerate(dict.fromkeys(re.findall(rb"X[\x0d-\x10]\0\0\0(\d{13,16})", content))):
        content = content.replace(key, f"{number:0{len(key)}}".encode())
    return content
