"""Open a checkpoint file: recognise its format, and return it as a `Checkpoint`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage import safetensors_header
from anemoi_ckpt_migrate.storage.atomic_replace import opened
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.in_place import whole_state
from anemoi_ckpt_migrate.storage.torch_file import TorchCheckpoint


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint file. This reads its table of contents, but no payload.

    Parameters
    ----------
    path : path
        The file: of `torch.save`, or of safetensors.
    trusted : collection of str
        Modules whose classes are built for real if they can be imported.

    Raises
    ------
    CannotRead
        The file cannot be opened.
    NotACheckpoint
        The file is not a readable checkpoint.
    """
    with opened(Path(path)) as descriptor:
        before = os.fstat(descriptor)
        left = whole_state(Path(os.path.realpath(path)), descriptor)
        length = before.st_size if left is None else left.length
        if safetensors_header.is_safetensors(os.pread(descriptor, 9, 0), length):
            if not safetensors_header.is_named_so(os.fspath(path)):
                # By its name, torch.load would read it, and that may find a pickle in the same bytes.
                raise NotACheckpoint(
                    "it is a safetensors file by its content; give it a name that ends in .safetensors"
                )
            from anemoi_ckpt_migrate.storage.safetensors_file import SafetensorsCheckpoint

            yield SafetensorsCheckpoint(Path(path), descriptor, before, length, left)
        else:
            yield TorchCheckpoint(Path(path), descriptor, before, length, trusted)
