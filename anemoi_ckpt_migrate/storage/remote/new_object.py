"""A new object, or a new version of one: put together in a local file, then published whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, NotInPlace
from anemoi_ckpt_migrate.storage.descriptor import AssembledDescriptor, read_at
from anemoi_ckpt_migrate.storage.remote.find_store import store_of
from anemoi_ckpt_migrate.storage.remote.object_file import ObjectFile
from anemoi_ckpt_migrate.storage.remote.parts import Taken
from anemoi_ckpt_migrate.storage.remote.s3_store import S3Store
from anemoi_ckpt_migrate.storage.remote.store import CHANGED, RemoteObject, Store

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.url import Url


class AssembledFile(AssembledDescriptor):
    """The descriptor of a local file in which ranges of objects are holes: the store will copy them.

    Attributes
    ----------
    progress : callable or None
        What to call with the number of bytes that the store has copied.
    """

    progress: Progress | None

    @classmethod
    def over(cls, descriptor: int, scheme: str) -> AssembledFile:
        """Make an empty file one that takes ranges of objects of a scheme."""
        made = cls(descriptor)
        made._taken, made._scheme, made.progress = [], scheme, None
        return made

    _scheme: str
    _taken: list[tuple[Taken, ObjectFile]]

    @property
    def ranges(self) -> list[Taken]:
        """The ranges that the store will copy, in order."""
        return sorted(taken for taken, _ in self._taken)

    @property
    def size(self) -> int:
        """The length of the file, in bytes."""
        return max([os.fstat(self).st_size, *(taken.stop for taken, _ in self._taken)])

    def take(self, source: int, start: int, end: int, to: int, progress: Progress | None) -> bool:
        """Note a range of an object; a local file has to be copied."""
        if not isinstance(source, ObjectFile) or source.store.scheme != self._scheme:
            return False
        if start < end:
            self._taken.append((Taken(to, source.source, start, end), source))
            self.progress = progress or self.progress
        return True

    def read(self, start: int, end: int) -> bytes:
        """Return bytes of the file; those of taken ranges are fetched."""
        content = bytearray(os.pread(self, end - start, start).ljust(end - start, b"\0"))
        for taken, source in self._taken:
            first, last = max(start, taken.to), min(end, taken.stop)
            if first < last:
                shift = taken.start - taken.to
                content[first - start : last - start] = read_at(source, last - first, first + shift)
        return bytes(content)


class NewObject:
    """An object that is put together in a local file.

    Parameters
    ----------
    path : str
        The local file.
    descriptor : int
        Its descriptor.
    url : Url
        The object.
    store : Store
        The store.
    before : ObjectFile or None
        The object that it replaces; None if there must be none.

    Attributes
    ----------
    descriptor
        As above.
    """

    def __init__(self, path: str, descriptor: int, url: Url, store: Store, before: ObjectFile | None) -> None:
        self.descriptor = descriptor
        self._path, self._url, self._store, self._before = path, url, store, before

    def publish(self, backup: bool) -> Url | None:
        """Give the object its name.

        Parameters
        ----------
        backup : bool
            Keep the old object under a backup name.

        Returns
        -------
        Url or None
            The backup.

        Raises
        ------
        CannotWrite
            The old object has changed since it was read, or something now has the name; or the store refused.
        """
        before = None if self._before is None else self._before.source
        try:
            kept = self._store.keep_backup(before) if before is not None and backup else None
        except CannotRead as error:
            raise CannotWrite(error.sentence) from error
        try:
            self._upload(before)
        except BaseException:  # Ctrl-C too: the old object still has its name
            if kept is not None and self._store.never_copies_over:  # else another run may have made it too
                with contextlib.suppress(CannotWrite):  # the first error is the one to report
                    self._store.remove(kept)
            raise
        if self._before is not None:
            self._before.note_replaced()
        return kept

    def _upload(self, before: RemoteObject | None) -> None:
        file = self.descriptor
        if isinstance(file, AssembledFile) and isinstance(self._store, S3Store):
            self._store.assemble(
                self._url, file.size, file.ranges, file.read, before, before.headers if before else {}, file.progress
            )
            return
        try:
            self._store.put(self._path, self._url, before)
        except CannotRead as error:
            raise CannotWrite(error.sentence) from error


@contextlib.contextmanager
def new_object(url: Url, replaced: int | None) -> Iterator[NewObject]:
    """Yield a new object, of which nothing is left unless it was published.

    Parameters
    ----------
    url : Url
        The object.
    replaced : int or None
        The descriptor of the object that it replaces; None if there must be none.
    """
    store = store_of(url)
    with tempfile.TemporaryDirectory(prefix="ckpt-migrate-") as folder:
        path = os.path.join(folder, url.name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            file = AssembledFile.over(descriptor, url.scheme) if isinstance(store, S3Store) else descriptor
            yield NewObject(path, file, url, store, replaced if isinstance(replaced, ObjectFile) else None)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise CannotWrite(
                f"the new object is put together in the folder of temporary files, which refuses it ({reason}); set "
                "TMPDIR to another; nothing was changed"
            ) from error
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def removed_if_refused(url: Url, index: Url, content: bytes) -> Iterator[None]:
    """Remove an object that this run has made, if the store refuses the one that is to name it.

    It stays if the store may have taken that one: if it did not answer, for example. Nobody reads it then.

    Parameters
    ----------
    url : Url
        The object.
    index : Url
        The object that is to name it.
    content : bytes
        The content of that.
    """
    try:
        yield
    except CannotWrite as error:
        refused = error.sentence == CHANGED or isinstance(error.__cause__, PermissionError)
        with contextlib.suppress(CannotRead, CannotWrite):  # the first error is the one to report
            # A write that was sent again, as its answer was lost, finds its own object and calls it changed.
            if refused and _content_of(index) != content:
                store_of(url).remove(url)
        raise


def _content_of(url: Url) -> bytes:
    store = store_of(url)
    found = store.look(url)
    return b"" if found is None else store.read(found, 0, found.size)


def check_writable(url: Url, in_place: bool) -> None:
    """Refuse an object that cannot be replaced.

    Raises
    ------
    NotInPlace, Refused
        It was to be changed in part, or its store is only read.
    """
    if in_place:
        raise NotInPlace(
            "it is an object in a store, which is only ever replaced as a whole", "a new one takes its place"
        )
    store_of(url).check_writable()


def check_new(url: Url) -> None:
    """Refuse the URL of an object to write if it exists already, or if its store is only read.

    Raises
    ------
    CannotWrite, Refused
        It exists; its store is only read.
    """
    store = store_of(url)
    store.check_writable()
    if store.exists(url):
        raise CannotWrite(f"{url} exists already; remove it or write elsewhere")
