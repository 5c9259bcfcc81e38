"""The index of a sharded checkpoint: which file holds each tensor. Read with distrust, and written.

It is JSON: names of files by names of tensors under ``weight_map``, and facts about the whole under ``metadata``.
Source: `split_torch_state_dict_into_shards` of huggingface_hub (1.0), which writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex
from anemoi_ckpt_migrate.util.text import first_repeated

RECORD = "ckpt_migrate"
"""The key of the record under ``metadata``."""
STASH = "stash.safetensors"
"""The usual name of the file with kept values."""
_STASH = "ckpt_migrate_stash"
_MAP, _METADATA = "weight_map", "metadata"
_LONGEST = 256 << 20  # bytes of an index
_SIZE, _PARAMETERS = "total_size", "total_parameters"
_NUMBERED = lazy_regex(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(\.g\d+)?(?P<end>\.\w+)")
_STASH_FILE = lazy_regex(r"stash(\.g\d+)?\.safetensors")


@dataclass(frozen=True)
class Index:
    """The index of a sharded checkpoint.

    Attributes
    ----------
    data : dict
        All of its content.
    """

    data: dict[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """The file of each tensor."""
        found: dict[str, str] = self.data[_MAP]
        return found

    @property
    def shards(self) -> list[str]:
        """The files, in the order of their names."""
        return sorted(set(self.files.values()))

    @property
    def record(self) -> bytes | None:
        """The record of its revisions, as JSON; None if it has none."""
        metadata = self.data.get(_METADATA)
        found = metadata.get(RECORD) if isinstance(metadata, dict) else None
        return None if found is None else json.dumps(found).encode()

    @property
    def stash(self) -> str:
        """The name of the file with values that are kept for a downgrade, if there is one."""
        metadata = self.data.get(_METADATA)
        found = metadata.get(_STASH) if isinstance(metadata, dict) else None
        return found if isinstance(found, str) and _STASH_FILE.fullmatch(found) else STASH

    def changed(
        self, files: Mapping[str, str], size: int, parameters: int, record: bytes | None, stash: str = STASH
    ) -> bytes:
        """Return the text of a new index. All that this one holds besides stays.

        Parameters
        ----------
        files : mapping of str to str
            The file of each tensor.
        size, parameters : int
            The number of bytes and of elements of all tensors. Each is written if this index has it.
        record : bytes or None
            The record, as JSON.
        stash : str
            The name of the file with kept values.
        """
        old = self.data.get(_METADATA)
        metadata = dict(old) if isinstance(old, dict) else {}
        totals = {_SIZE: size, _PARAMETERS: parameters}
        metadata |= {name: total for name, total in totals.items() if name in metadata}
        metadata.pop(RECORD, None)
        metadata.pop(_STASH, None)
        if stash != STASH:
            metadata[_STASH] = stash
        if record is not None:
            metadata[RECORD] = json.loads(record)
        data = {**self.data, _MAP: dict(files)}
        if metadata or isinstance(old, dict):
            data[_METADATA] = metadata
        return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def new_index() -> Index:
    """Return the index of a checkpoint that was in one file until now."""
    return Index({_METADATA: {_SIZE: 0}, _MAP: {}})


def read_index(path: Path) -> Index:
    """Read an index.

    Raises
    ------
    NotACheckpoint
        It is damaged or hostile: it names a file in another folder, or a tensor twice.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
    except OSError as error:
        raise _wrong(path.name, f"it cannot be read ({error!s:.80})") from error
    return parse_index(path.name, content)


def parse_index(name: str, content: bytes) -> Index:
    """Return the index that a file holds.

    Parameters
    ----------
    name : str
        The name of the file, for messages.
    content : bytes
        Its content.

    Raises
    ------
    NotACheckpoint
        As for `read_index`.
    """
    try:
        if len(content) > _LONGEST:
            raise _wrong(name, f"it is longer than {_LONGEST:,} bytes")
        data = json.loads(content, object_pairs_hook=_without_repetition)
        content.decode().encode()
    except _Repeated as error:
        raise _wrong(name, error.args[0]) from None
    except RecursionError as error:
        raise _wrong(name, "it is nested too deeply") from error
    except ValueError as error:
        raise _wrong(name, f"it cannot be read as JSON ({error!s:.80})") from error
    files = data.get(_MAP) if isinstance(data, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise _wrong(name, "its weight_map does not give a file for each tensor")
    if not files:
        raise _wrong(name, "its weight_map is empty")
    for file in files.values():
        if os.path.basename(file) != file or file in ("", ".", "..") or "\0" in file:
            raise _wrong(name, f"it names {file!r:.80}, which is no file of its folder")
    return Index(data)


def shard_names(old: Sequence[str], count: int) -> list[str]:
    """Return names for so many shards: the old ones if their number stays, else numbered in the same way.

    A generation in the old names, as those in a store have it, goes away.

    Examples
    --------
    >>> shard_names(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], 3)[0]
    'model-00001-of-00003.safetensors'
    """
    if count == len(old):
        return list(old)
    found = _NUMBERED.fullmatch(old[0])
    stem, end = (found["stem"], found["end"]) if found else (Path(old[0]).stem, Path(old[0]).suffix)
    return [f"{stem}-{number:05}-of-{count:05}{end}" for number in range(1, count + 1)]


class _Repeated(Exception):
    """A key stands twice in a JSON object."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Repeated(f"it names {first_repeated(key for key, _ in pairs)!r:.80} twice")
    return found


def _wrong(name: str, sentence: str) -> NotACheckpoint:
    return NotACheckpoint(f"its index {name} is damaged or hostile: {sentence}")
