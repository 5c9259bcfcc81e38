"""Archives that torch's extension `ZStandard` compressed: unpacked into files without a name.

Python has zstd since 3.14; before, the package `zstandard` or `pyzstd` has it, as torch wants it too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any, BinaryIO, cast

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint, Refused

_ZSTD = "stream.zstd"  # torch.distributed.checkpoint._extension.ZStandard; its version follows, after a slash
_PIECE = 1 << 20
Opener = Callable[[BinaryIO], BinaryIO]


def is_known(transforms: Sequence[str]) -> bool:
    """Return whether bytes were transformed only in ways that can be undone here."""
    return all(map(_is_zstd, transforms)) and (not transforms or _opener() is not None)


def refusal(name: str, transforms: Sequence[str]) -> Refused:
    """Return the reason why a value cannot be read.

    Parameters
    ----------
    name : str
        The value.
    transforms : sequence of str
        The ways in which its bytes were transformed.
    """
    if all(map(_is_zstd, transforms)):
        return Refused(
            f"{name:.200} is compressed with zstd, so it can be moved but not changed; `pip install zstandard` makes "
            "it readable"
        )
    return Refused(
        f"{name:.200} is stored in another form ({', '.join(transforms):.100}), so it can be moved but not changed"
    )


def unpack(packed: BinaryIO, transforms: Sequence[str], most: int) -> IO[bytes]:
    """Return a file without a name that holds the bytes before they were transformed.

    Parameters
    ----------
    packed : file
        The bytes in the checkpoint.
    transforms : sequence of str
        The ways in which they were transformed, of which `is_known` is true.
    most : int
        The number of bytes that there may be.

    Raises
    ------
    NotACheckpoint
        There are more.
    CannotRead
        The folder of temporary files refuses them.
    """
    for _ in transforms:
        packed = cast(Opener, _opener())(packed)
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(tempfile.TemporaryFile())
            count = 0
            while piece := packed.read(_PIECE):
                count += len(piece)
                if count > most:
                    raise NotACheckpoint(f"it unpacks to more than {most:,} bytes")
                file.write(piece)
            file.flush()
        except OSError as error:
            raise CannotRead(
                f"it cannot be unpacked into {tempfile.gettempdir()} ({os.strerror(error.errno or 0).lower()}); set "
                "TMPDIR to a folder with more room"
            ) from error
        held.pop_all()
    return file


def _is_zstd(transform: str) -> bool:
    name, _, version = transform.partition("/")
    return name == _ZSTD and version.partition(".")[0] in ("", "1")


@functools.cache
def _opener() -> Opener | None:
    """Return a function that opens a compressed stream; None if nothing here can."""
    ways: dict[str, Callable[[Any], Opener]] = {
        "compression.zstd": lambda module: cast(Opener, module.ZstdFile),
        "zstandard": lambda module: lambda file: module.ZstdDecompressor().stream_reader(file, read_across_frames=True),
        "pyzstd": lambda module: cast(Opener, module.ZstdFile),
    }
    for name, way in ways.items():
        try:
            return way(importlib.import_module(name))
        except ImportError:
            continue
    return None
