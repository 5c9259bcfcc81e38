"""Open a checkpoint: recognise its format, and return it as a `Checkpoint`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint
from anemoi_ckpt_migrate.storage import safetensors_header
from anemoi_ckpt_migrate.storage.atomic_replace import opened
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.foreign_formats import refuse_folder
from anemoi_ckpt_migrate.storage.huggingface.layout import find_layout, folder_of_index
from anemoi_ckpt_migrate.storage.in_place import whole_state
from anemoi_ckpt_migrate.storage.shard_sets import METADATA, check_whole
from anemoi_ckpt_migrate.storage.torch_file import TorchCheckpoint


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint. This reads its table of contents, but no payload.

    Parameters
    ----------
    path : path
        A file of `torch.save` or of safetensors; a folder of Hugging Face, or its index; a folder of
        torch.distributed.checkpoint.
    trusted : collection of str
        Modules whose classes are built for real if they can be imported.

    Raises
    ------
    CannotRead
        It cannot be opened.
    NotACheckpoint
        It is not a readable checkpoint.
    Refused, NoCheckpointInFolder
        It is a folder of another format, or no checkpoint.
    """
    if Path(path).name == METADATA:
        check_whole(path)
    place = folder_of_index(Path(path)) or Path(path)
    with _open_folder(place, trusted) if _is_folder(place) else _open_file(place, trusted) as found:
        yield found


@contextlib.contextmanager
def _open_file(path: Path, trusted: Collection[str]) -> Iterator[Checkpoint]:
    with opened(path) as descriptor:
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

            yield SafetensorsCheckpoint(path, descriptor, before, length, left)
        else:
            yield TorchCheckpoint(path, descriptor, before, length, trusted)


@contextlib.contextmanager
def _open_folder(path: Path, trusted: Collection[str]) -> Iterator[Checkpoint]:
    from anemoi_ckpt_migrate.storage.folder_exchange import FolderState

    try:
        before = FolderState.of(path)
    except OSError as error:
        raise CannotRead(f"it cannot be read ({os.strerror(error.errno or 0).lower()})") from error
    if METADATA in before.entries:
        from anemoi_ckpt_migrate.storage.distributed.checkpoint import open_distributed

        with open_distributed(path, trusted) as checkpoint:
            yield checkpoint
        return
    layout = find_layout(path, before.entries)
    if layout is None:
        refuse_folder(before.entries)
    else:
        from anemoi_ckpt_migrate.storage.huggingface.open_folder import open_huggingface

        with open_huggingface(path, layout, before) as found:
            yield found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except ValueError:  # not a file name; opening it will report that
        return False
