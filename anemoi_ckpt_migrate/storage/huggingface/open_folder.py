"""Open a folder of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.folder_names import INDEX
from anemoi_ckpt_migrate.storage.huggingface.folder import OWN, HuggingFaceFolder, named_by_kept
from anemoi_ckpt_migrate.storage.huggingface.index import STASH, Index, read_index
from anemoi_ckpt_migrate.storage.huggingface.safetensors_folder import SafetensorsFolder
from anemoi_ckpt_migrate.storage.huggingface.torch_files import Shard
from anemoi_ckpt_migrate.storage.huggingface.torch_folder import TorchFolder
from anemoi_ckpt_migrate.storage.open_inside import FolderSource, LocalFolder, place_inside
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.folder_exchange import FolderState
    from anemoi_ckpt_migrate.storage.huggingface.layout import Layout
    from anemoi_ckpt_migrate.storage.url import Location

_SHARD = lazy_regex(r".+-\d{5}-of-\d{5}")


@contextmanager
def open_huggingface(
    path: Location, layout: Layout, before: FolderState, source: FolderSource | None = None
) -> Iterator[HuggingFaceFolder]:
    """Open a folder of Hugging Face. This reads its index and the headers of its files, but no payload.

    Parameters
    ----------
    path : Path or Url
        The folder, as the user named it.
    layout : Layout
        The set of weights in it.
    before : FolderState
        The folder, just looked at.
    source : FolderSource, optional
        The source of its files; by default they are local.

    Raises
    ------
    CannotRead, NotACheckpoint, Refused
        A file is missing or damaged, or a link leads out of the folder.
    """
    source = source or LocalFolder(layout.folder)
    index = read_index(place_inside(layout.folder, layout.index)) if layout.index else None
    names = [layout.single] if index is None else index.shards
    with ExitStack() as stack:

        def opened(each: Sequence[str]) -> list[Shard]:
            files = [(name, stack.enter_context(source.opened(name))) for name in each]
            return [Shard(name, descriptor, os.fstat(descriptor).st_size) for name, descriptor in files]

        shards = opened(names)
        _check_all_named(layout, index, names, before, source)
        of_torch, folder = layout.is_of_torch, (path, layout, before, source, shards, index)
        kept_as = f"{OWN}/{STASH if index is None else index.stash}"
        kept = [] if of_torch or OWN not in before.entries or not (layout.folder / kept_as).is_file() else [kept_as]
        stash = next(iter(opened(kept)), None)
        if not layout.states:
            yield TorchFolder(*folder) if of_torch else SafetensorsFolder(*folder, stash=stash)
            return
        from anemoi_ckpt_migrate.storage.huggingface.trainer_folder import SafetensorsTrainerFolder, TorchTrainerFolder

        states = opened(layout.states)
        if of_torch:
            yield TorchTrainerFolder(*folder, states=states)
        else:
            yield SafetensorsTrainerFolder(*folder, stash=stash, states=states)


def _check_all_named(
    layout: Layout, index: Index | None, names: Sequence[str], before: FolderState, source: FolderSource
) -> None:
    """Refuse a folder with further shards: of another generation, which some readers would take.

    Those that a kept index names are of a generation that this tool has kept.
    """
    if index is None:
        return
    ending = Path(layout.index.removesuffix(INDEX)).suffix
    numbered = (
        name for name in before.entries if _SHARD.fullmatch(name.removesuffix(ending)) and name.endswith(ending)
    )
    further = [name for name in numbered if name not in names]
    if further:
        kept = named_by_kept(layout, before, source)
        further = [name for name in further if name not in kept]
    if further:
        raise NotACheckpoint(
            f"{further[0]} in it is not named by {layout.index}: it seems to hold files of two checkpoints; "
            "move those that do not belong to it to another folder"
        )
