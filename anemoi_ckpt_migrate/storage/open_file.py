"""Open a checkpoint: recognise its format, and return it as a `Checkpoint`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint
from anemoi_ckpt_migrate.storage.atomic_replace import opened
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.folder_names import folder_of_index
from anemoi_ckpt_migrate.storage.foreign_formats import refuse_folder
from anemoi_ckpt_migrate.storage.formats import any_formats, find_format
from anemoi_ckpt_migrate.storage.in_place import Mark, whole_state
from anemoi_ckpt_migrate.storage.safetensors_magic import is_named_so, is_safetensors
from anemoi_ckpt_migrate.storage.shard_sets import METADATA, check_whole
from anemoi_ckpt_migrate.storage.torch_file import TorchCheckpoint
from anemoi_ckpt_migrate.storage.url import Location, Url, url_of
from anemoi_ckpt_migrate.util.gc_pause import paused as gc_paused

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint. This reads its table of contents, but no payload.

    Parameters
    ----------
    path : path
        A file of `torch.save` or of safetensors; a folder of Hugging Face, or its index; a folder of
        torch.distributed.checkpoint; a file or a folder of a format that another package adds. All but the last may
        be URLs of a store.
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
    with gc_paused():  # a tree of a hundred thousand tensors has no cycles; code of the user runs with the collector
        url = url_of(path)
        if url is not None:
            with _open_url(url, trusted) as found:
                yield found
            return
        if Path(path).name == METADATA:
            check_whole(path)
        place = folder_of_index(Path(path)) or Path(path)
        with _open_folder(place, trusted) if _is_folder(place) else _open_file(place, trusted) as found:
            yield found


@contextlib.contextmanager
def _open_file(path: Path, trusted: Collection[str]) -> Iterator[Checkpoint]:
    with contextlib.ExitStack() as stack:
        descriptor = stack.enter_context(opened(path))
        left = whole_state(Path(os.path.realpath(path)), descriptor)
        try:
            found = _checkpoint_in(path, descriptor, left, trusted)
        except NotACheckpoint:
            other = find_format(path)
            if other is None:
                raise
            found = stack.enter_context(other.open(path))
        yield found


def _checkpoint_in(path: Location, descriptor: int, left: Mark | None, trusted: Collection[str]) -> Checkpoint:
    """Return the checkpoint in an open file, or that which an interrupted run left."""
    before = os.fstat(descriptor)
    length = before.st_size if left is None else left.length
    if not is_safetensors(read_at(descriptor, 9, 0), length):
        return TorchCheckpoint(path, descriptor, before, length, trusted)
    if not is_named_so(os.fspath(path)):
        # By its name, torch.load would read it, and that may find a pickle in the same bytes.
        raise NotACheckpoint("it is a safetensors file by its content; give it a name that ends in .safetensors")
    from anemoi_ckpt_migrate.storage.safetensors_file import SafetensorsCheckpoint

    return SafetensorsCheckpoint(path, descriptor, before, length, left)


@contextlib.contextmanager
def _open_url(url: Url, trusted: Collection[str]) -> Iterator[Checkpoint]:
    from anemoi_ckpt_migrate.storage.remote.opened_url import opened_url

    with opened_url(url) as found:
        if isinstance(found, int):
            with _local_formats_named():
                checkpoint = _checkpoint_in(url, found, None, trusted)
            yield checkpoint
            return
        from anemoi_ckpt_migrate.storage.folder_exchange import FolderState
        from anemoi_ckpt_migrate.storage.huggingface.folder import OWN
        from anemoi_ckpt_migrate.storage.huggingface.layout import check_one_set, find_layout, sets_of_weights
        from anemoi_ckpt_migrate.storage.huggingface.open_folder import open_huggingface

        before = FolderState.of(found.path)
        layout = find_layout(found.path, before.entries)
        if METADATA in before.entries:
            check_one_set([METADATA, *sets_of_weights(before.entries)])
            from anemoi_ckpt_migrate.storage.distributed.open_folder import open_distributed

            with open_distributed(found.url, before, trusted, found) as distributed:
                yield distributed
            return
        if layout is None:
            refuse_folder(before.entries, in_store=True)
        if layout.index:
            found.complete(layout.index)
        if OWN in before.entries:
            found.list_folder(OWN)
        with open_huggingface(found.url, layout, before, found) as checkpoint:
            yield checkpoint


@contextlib.contextmanager
def _local_formats_named() -> Iterator[None]:
    """Say that formats of other packages are asked about local files only, if there are any."""
    try:
        yield
    except NotACheckpoint as error:
        if not any_formats():
            raise
        raise NotACheckpoint(
            f"{error.sentence}; if it is of a format that another package adds, copy it to a local file first"
        ) from error


@contextlib.contextmanager
def _open_folder(path: Path, trusted: Collection[str]) -> Iterator[Checkpoint]:
    from anemoi_ckpt_migrate.storage.folder_exchange import FolderState
    from anemoi_ckpt_migrate.storage.huggingface.layout import check_one_set, find_layout, sets_of_weights

    try:
        before = FolderState.of(path)
    except OSError as error:
        raise CannotRead(f"it cannot be read ({os.strerror(error.errno or 0).lower()})") from error
    if METADATA in before.entries and not stat.S_ISDIR(before.entries[METADATA].st_mode):
        check_one_set([METADATA, *sets_of_weights(before.entries)])
        from anemoi_ckpt_migrate.storage.distributed.open_folder import open_distributed

        with open_distributed(path, before, trusted) as checkpoint:
            yield checkpoint
        return
    layout = find_layout(path, before.entries)
    if layout is None:
        other = find_format(path)
        if other is None:
            refuse_folder(before.entries)
        with other.open(path) as found:
            yield found
    else:
        from anemoi_ckpt_migrate.storage.huggingface.open_folder import open_huggingface

        with open_huggingface(path, layout, before) as found:
            yield found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except ValueError:  # not a file name; opening it will report that
        return False
