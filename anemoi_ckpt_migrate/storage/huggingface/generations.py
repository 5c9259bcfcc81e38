"""Put a changed set of files into a store: new files under names of their own, and last the index, which names them.

The old files stay beside a copy of the old index, or go away once the new index has its name. So an index never names a
file that is not there, and a reader of the old one finds its files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotWrite
from anemoi_ckpt_migrate.storage.copy_range import Progress, write_at
from anemoi_ckpt_migrate.storage.remote.find_store import store_of
from anemoi_ckpt_migrate.storage.remote.new_object import new_object, removed_if_refused
from anemoi_ckpt_migrate.storage.remote.object_file import ObjectFile
from anemoi_ckpt_migrate.storage.remote.store import CHANGED
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.single_file import NewFile
    from anemoi_ckpt_migrate.storage.url import Url

_GENERATION = lazy_regex(r"\.g(\d+)\.\w+")
_GENERATION_OF_STEM = lazy_regex(r"\.g\d+$")


def next_generation(names: Iterable[str]) -> int:
    """Return the first number of a generation that is higher than those of all names.

    Examples
    --------
    >>> next_generation(["model-00001-of-00002.safetensors", "model-00002-of-00002.g3.safetensors"])
    4
    """
    found = (_GENERATION.search(name) for name in names)
    return max((int(each[1]) for each in found if each is not None), default=0) + 1


def name_in_generation(name: str, generation: int) -> str:
    """Return the name of a file for a generation, in place of the one that the name may have.

    Examples
    --------
    >>> name_in_generation("model-00001-of-00002.safetensors", 2)
    'model-00001-of-00002.g2.safetensors'
    """
    stem, end = os.path.splitext(name)
    return f"{_GENERATION_OF_STEM.sub('', stem)}.g{generation}{end}"


def put_file(url: Url, file: NewFile, replaced: int, backup: bool, progress: Progress | None) -> Url | None:
    """Put a file in place of an object, and return its backup.

    Parameters
    ----------
    url : Url
        The object.
    file : NewFile
        Its new content.
    replaced : int
        The open old object.
    backup : bool
        Keep a copy of it.
    progress : callable, optional
        Called with the number of bytes copied.
    """
    with new_object(url, replaced) as new:
        file.write(new.descriptor, progress)
        return new.publish(backup)


def put_set(
    files: Mapping[Url, NewFile],
    staying: Sequence[int],
    index: Url,
    opened_index: int,
    content: bytes,
    progress: Progress | None,
) -> Url:
    """Put new files, and then the index that names them; return the copy of the old index.

    Parameters
    ----------
    files : mapping of Url to NewFile
        The new files.
    staying : sequence of int
        The open files that the new index names too.
    index : Url
        The index.
    opened_index : int
        The open old index.
    content : bytes
        The new index.
    progress : callable, optional
        Called with the number of bytes copied.

    Raises
    ------
    CannotWrite
        Another program has changed the index, or a file that stays, in the meantime; or the store refused. The index is
        the old one, and the new files are gone, unless the store does not answer.
    """
    with ExitStack() as unnamed:
        for url, file in files.items():
            with new_object(url, None) as new:
                file.write(new.descriptor, progress)
                new.publish(False)
            unnamed.callback(_remove_quietly, url)
        for descriptor in staying:
            if isinstance(descriptor, ObjectFile):
                descriptor.store.check_unchanged(descriptor.source)
        unnamed.pop_all()
    with ExitStack() as stack:
        for url in files:
            stack.enter_context(removed_if_refused(url, index, content))
        with new_object(index, opened_index) as new:
            write_at(new.descriptor, content, 0)
            kept = new.publish(True)
    if kept is None:
        raise CannotWrite(CHANGED)
    return kept


def remove_old(files: Mapping[Url, int], kept: Url) -> None:
    """Remove the files that the old index alone named, and the copy of that.

    Parameters
    ----------
    files : mapping of Url to int
        The files, with their descriptors.
    kept : Url
        The copy of the old index. It goes last: until then, it tells to which checkpoint the files belong.

    Raises
    ------
    CannotWrite
        The store refused; the new files are in place.
    """
    try:
        for url, descriptor in files.items():
            store_of(url).remove(url)
            if isinstance(descriptor, ObjectFile):
                descriptor.note_replaced()
        store_of(kept).remove(kept)
    except CannotWrite as error:
        raise CannotWrite(
            f"it was changed, but the store did not let all of its old files be removed; remove {kept}, and the files "
            "that it alone names"
        ) from error


def _remove_quietly(url: Url) -> None:
    with contextlib.suppress(CannotWrite):  # the first error is the one to report
        store_of(url).remove(url)
