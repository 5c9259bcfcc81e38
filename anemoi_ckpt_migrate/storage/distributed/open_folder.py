"""Open a folder of torch.distributed.checkpoint: its metadata, and the files that they name."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import CannotRead, NotACheckpoint, Refused
from anemoi_ckpt_migrate.storage.descriptor import FetchedDescriptor, Range, fetch_all, read_at
from anemoi_ckpt_migrate.storage.distributed.checkpoint import DataFile, DistributedCheckpoint
from anemoi_ckpt_migrate.storage.distributed.layout import RECORD, TensorItem, ValueItem, replaced
from anemoi_ckpt_migrate.storage.distributed.metadata import Metadata, Place, ValueEntry, places_of, read_metadata
from anemoi_ckpt_migrate.storage.distributed.record_attribute import from_attribute
from anemoi_ckpt_migrate.storage.folder_exchange import FolderState
from anemoi_ckpt_migrate.storage.open_inside import FolderSource, LocalFolder
from anemoi_ckpt_migrate.storage.shard_sets import METADATA, RESTS
from anemoi_ckpt_migrate.storage.url import Location

_OTHER_FILES = 256  # files that the process may have open beside those of the checkpoint
_BEGIN, _END, _END_LENGTH = b"PK\3\4", b"PK\5\6", 22  # of an archive


def _last_places(metadata: Metadata) -> list[tuple[str, Place]]:
    """Return the name of the last tensor or value in each file, and its place."""
    last: dict[str, tuple[int, str, Place]] = {}
    for name, entry in metadata.entries.items():
        for place in places_of(entry):
            end = place.start + place.length
            if end > last.get(place.file, (-1,))[0]:
                last[place.file] = end, name, place
    return [last[file][1:] for file in sorted(last)]


def _files_of_stash(metadata: Metadata) -> set[str]:
    """Return the files with values that the record keeps."""
    found: set[str] = set()

    def note(item: Any) -> None:
        if isinstance(item, (TensorItem, ValueItem)) and item.entry is not None:
            found.update(place.file for place in places_of(item.entry))

    with contextlib.suppress(ValueError, TypeError):  # as above
        replaced(from_attribute(metadata.more.get(RECORD)), note)
    return found


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files of this process, as far as it may: each of thousands of ranks has a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _check_holds(descriptor: int, name: str, place: Place) -> None:
    """Refuse a file that does not hold what the metadata say of its end, as one of another generation does not."""
    size, end = os.fstat(descriptor).st_size, place.start + place.length
    if end > size or not (place.transforms or _is_archive(descriptor, place.start, end)):
        raise NotACheckpoint(
            f"{name:.200} is not where its {METADATA} says, in {place.file}, which has {size:,} bytes; was it cut off, "
            "or does it belong to another checkpoint?"
        )


def _is_archive(descriptor: int, start: int, end: int) -> bool:
    """Return whether an archive begins and ends at two bytes; in a store, that is seen when it is read."""
    if isinstance(descriptor, FetchedDescriptor):
        return True
    return read_at(descriptor, 4, start) == _BEGIN and read_at(descriptor, 4, max(0, end - _END_LENGTH)) == _END


def _fetch_values(metadata: Metadata, files: list[DataFile]) -> None:
    """Fetch all that is no tensor, as every command reads it: together, that takes fewest requests."""
    places: dict[str, list[Range]] = {}
    for entry in metadata.entries.values():
        if isinstance(entry, ValueEntry):
            place = entry.place
            places.setdefault(place.file, []).append((place.start, place.start + place.length))
    for file in files:
        fetch_all(file.descriptor, places.get(file.name, ()))


@contextmanager
def open_distributed(
    path: Location,
    before: FolderState,
    trusted: Collection[str] = (),
    source: FolderSource | None = None,
    own: str = METADATA,
) -> Iterator[DistributedCheckpoint]:
    """Open a folder of torch.distributed.checkpoint. This reads its metadata, but no payload.

    Parameters
    ----------
    path : Path or Url
        The folder, as the user named it.
    before : FolderState
        The folder, just looked at.
    trusted : collection of str
        Modules whose classes are built for real.
    source : FolderSource, optional
        The source of its files; by default they are local.
    own : str
        The name of the metadata: that of a backup gives the state before.

    Raises
    ------
    CannotRead, NotACheckpoint, Refused
        A file is missing or damaged, or leads out of the folder.
    """
    source = source or LocalFolder(Path(os.path.realpath(path)))
    with ExitStack() as stack:
        descriptor = stack.enter_context(source.opened(own))
        metadata = read_metadata(read_at(descriptor, os.fstat(descriptor).st_size, 0))
        files, last = [], _last_places(metadata)
        packed = sum(bool(place.transforms) for entry in metadata.entries.values() for place in places_of(entry))
        _allow_open_files(len(last) + packed)
        for name, place in last:
            data = stack.enter_context(source.opened(place.file))
            _check_holds(data, name, place)
            files.append(DataFile(place.file, data, os.fstat(data)))
        for name in sorted(_files_of_stash(metadata) - {file.name for file in files}):
            with contextlib.suppress(CannotRead, Refused):  # then the record is damaged, which is for its reader to say
                data = stack.enter_context(source.opened(name))
                files.append(DataFile(name, data, os.fstat(data)))
        _fetch_values(metadata, files)
        rest = None
        for name in [name for name in RESTS if name in before.entries][:1]:
            data = stack.enter_context(source.opened(name))
            rest = DataFile(name, data, os.fstat(data))
        if not os.path.samestat(os.stat(source.path), before.own):
            raise CannotRead("another program replaced it while it was opened; run the command again")
        found = DistributedCheckpoint(path, metadata, descriptor, files, before, source, rest, trusted)
        stack.callback(found.close)
        yield found
