"""Recognise files that form one checkpoint together: shards with an index, files per rank, torch.distributed folders.

Such a file must not be changed alone: the index of its tensors, or the other files, would not follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from anemoi_ckpt_migrate.errors import MemberOfSet, shown_path
from anemoi_ckpt_migrate.storage.folder_names import RANK, RANK_FOLDER, FolderNames, names_in
from anemoi_ckpt_migrate.storage.url import Url, url_of
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

METADATA = ".metadata"
"""The name of the metadata of a distributed checkpoint."""
RESTS = ("meta.pt", "common.pt")
"""The file beside the metadata in which Lightning, or Megatron-Core, keeps everything other than tensors."""
_SHARD = lazy_regex(r"(?P<stem>.+)-(?P<number>\d{2,})-of-(?P<count>\d{2,})(?P<end>\..+)?")
_LLAMA = lazy_regex(r"consolidated\.(?P<number>\d\d)\.pth")
_DEEPSPEED = lazy_regex(r"(?=.*(rank|layer|expert|model)_\d).*[-_](model|optim)_states\.pt")
_OF_WEIGHTS, _OF_STATES = (".safetensors", ".bin"), ("optimizer", "scheduler")  # as a trainer calls its files
_UNIVERSAL = lazy_regex(r"(fp32|exp_avg|exp_avg_sq|step)\.pt")


@dataclass(frozen=True)
class Membership:
    """The set that a file belongs to.

    Attributes
    ----------
    kind : str
        The kind of the set, as a message names it.
    name : str
        The set: a folder, an index, or the pattern of its files.
    way : str
        How to make one file from the set.
    """

    kind: str
    name: str
    way: str

    def __str__(self) -> str:
        return f"it is part of {self.kind} ({shown_path(self.name)})"


def membership(path: str | os.PathLike[str]) -> Membership | None:
    """Return the set that a file belongs to, by its name and its neighbours; None if it is whole by itself.

    A link counts by its own name and by the name of its target.
    """
    url = url_of(path)
    if url is not None:
        return _membership_in_store(url)
    named = Path(os.path.abspath(path))
    try:
        places = dict.fromkeys((named, Path(os.path.realpath(named))))
    except ValueError:  # not a file name; opening it will report that
        return None
    found = (membership_by_name(place) for place in places if not place.is_dir())
    return next((each for each in found if each is not None), None)


def membership_by_name(file: Path, names: FolderNames | None = None) -> Membership | None:
    """Return the set that a local file belongs to, by its own name and its neighbours; None if it is whole by itself.

    Parameters
    ----------
    file : Path
        The absolute path of a file. If it is a link, its target does not count.
    names : FolderNames, optional
        The names in its folder, if they are known.
    """
    names = names or names_in(file.parent)
    return next((found for look in _LOOKS if (found := look(file, names)) is not None), None)


def _membership_in_store(url: Url) -> Membership | None:
    """Return the set that an object belongs to: that of a local file with its name and its neighbours."""
    from anemoi_ckpt_migrate.storage.remote.opened_url import neighbours

    with neighbours(url) as (place, top):
        found = membership(place)
        if found is None:
            return None
        before = str(url).removesuffix(place.relative_to(top).as_posix())
        local = f"{top}{os.sep}"
        return Membership(found.kind, found.name.replace(local, before), found.way.replace(local, before))


def check_whole(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is a checkpoint only together with others, because it must not be changed alone.

    Raises
    ------
    MemberOfSet
        The file belongs to a set.
    """
    found = membership(path)
    if found is not None:
        raise MemberOfSet(found.kind, found.name, found.way)


_LOAD_ALL = "load all its files, save them as one with torch.save, and migrate that"


def distributed(folder: str) -> Membership:
    """Return the membership in a set of torch.distributed.checkpoint."""
    return Membership(
        "a distributed checkpoint (torch.distributed.checkpoint)", folder, f"give its folder, {shown_path(folder)}"
    )


def _distributed(path: Path, folder: FolderNames) -> Membership | None:
    beside = path.name in (METADATA, *RESTS) and (path.parent / METADATA).is_file()
    return distributed(os.fspath(path.parent)) if path.suffix == ".distcp" or beside else None


def _indexed(path: Path, folder: FolderNames) -> Membership | None:
    """Find the index that names a file."""
    index = folder.indexed.get(path.name)
    if index is None:
        return None
    way = "give the path of its folder" if path.suffix in (".safetensors", ".bin") else _LOAD_ALL
    return Membership("a sharded checkpoint", os.fspath(index), way)


def _numbered(path: Path, folder: FolderNames) -> Membership | None:
    """Recognise ``NAME-00001-of-00002.bin``; ``00001-of-00001`` is whole."""
    found = _SHARD.fullmatch(path.name)
    if found is None or int(found["count"]) < 2:
        return None
    pattern = f"{found['stem']}-*-of-{found['count']}{found['end'] or ''}"
    return Membership("a sharded checkpoint", os.fspath(path.parent / pattern), _LOAD_ALL)


def _llama(path: Path, folder: FolderNames) -> Membership | None:
    found = _LLAMA.fullmatch(path.name)
    if found is None or (int(found["number"]) == 0 and not (path.parent / "consolidated.01.pth").exists()):
        return None
    way = "join the parts of each tensor, save them as one file, and migrate that"
    return Membership("a checkpoint of Llama in parallel parts", os.fspath(path.parent / "consolidated.*.pth"), way)


def _deepspeed(path: Path, folder: FolderNames) -> Membership | None:
    universal = _UNIVERSAL.fullmatch(path.name) and path.parent.parent.name == "zero"
    if not universal and not _DEEPSPEED.fullmatch(path.name):
        return None
    # Its script zero_to_fp32.py splits more than 5 GB into several files.
    way = (
        "save the weights that deepspeed.utils.zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint returns with "
        "torch.save, and migrate that"
    )
    return Membership("a checkpoint of DeepSpeed", os.fspath(path.parent), way)


def _megatron(path: Path, folder: FolderNames) -> Membership | None:
    if not RANK_FOLDER.fullmatch(path.parent.name):
        return None
    way = "join the files of its ranks; a single file can be copied out of its folder and migrated there"
    return Membership("a checkpoint of Megatron", os.fspath(path.parent.parent), way)


def _ranks(path: Path, folder: FolderNames) -> Membership | None:
    """Recognise ``NAME_rank0.pt`` beside a file with another number."""
    found = RANK.fullmatch(path.name)
    if found is None:
        return None
    if len(folder.ranks.get((found["before"], found["after"]), ())) < 2:
        return None
    pattern = path.with_name(f"{found['before']}*{found['after']}")
    way = "join the files of its ranks into one, and migrate that"
    return Membership("a checkpoint with a file for each rank", os.fspath(pattern), way)


def _trainer(path: Path, folder: FolderNames) -> Membership | None:
    """Recognise weights beside the state of an optimizer, and that state."""
    if not (path.name.endswith(_OF_WEIGHTS) or path.name.startswith(_OF_STATES)):
        return None
    from anemoi_ckpt_migrate.storage.huggingface.layout import is_member_of_trainer

    if not is_member_of_trainer(path.name, folder.names):
        return None
    way = f"give its folder, {shown_path(os.fspath(path.parent))}"
    return Membership("weights with the state of their optimizer", os.fspath(path.parent), way)


_LOOKS: tuple[Callable[[Path, FolderNames], Membership | None], ...] = (
    _distributed,
    _indexed,
    _numbered,
    _llama,
    _deepspeed,
    _megatron,
    _ranks,
    _trainer,
)
