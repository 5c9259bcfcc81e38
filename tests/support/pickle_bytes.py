"""Shared by tests: pickle bytes."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from tests.support.project import Folder


def text(word: str | bytes) -> bytes:
    word = word.encode() if isinstance(word, str) else word
    return b"X" + struct.pack("<I", len(word)) + word


def name(path: str) -> bytes:
    module, _, qualname = path.rpartition(".")
    return f"c{module}\n{qualname}\n".encode()


def call(function: str | bytes, *args: bytes) -> bytes:
    function = name(function) if isinstance(function, str) else function
    return function + b"(" + b"".join(args) + b"tR"


def tree(value: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + b"}(" + text("epoch") + b"K\x01" + text("x") + value + b"u."


STORAGE = b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\4tQ"
HOOKS = call("collections.OrderedDict")
TENSOR = call("torch._utils._rebuild_tensor_v2", STORAGE, b"K\0", b"K\4\x85", b"K\1\x85", b"\x89", HOOKS)
ONES = struct.pack("<4f", 1, 1, 1, 1)


def checkpoint(folder: Folder, data: bytes, more: dict[str, bytes] | None = None, stem: str = "x") -> Path:
    """Put a pickle into a checkpoint, with one storage of four floats, and more records."""
    path = folder.path / f"{stem}.ckpt"
    records = {"data.pkl": data, "byteorder": b"little", "data/0": ONES, "version": b"3\n"} | (more or {})
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            archive.writestr(f"{stem}/{record}", content)
    return path
