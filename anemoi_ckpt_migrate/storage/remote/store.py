"""A store of objects, through fsspec: look at objects, read ranges of them, put whole ones.

Credentials and options are those of fsspec: its configuration (``~/.config/fsspec``, ``FSSPEC_S3_...``), and all that
the library of the store reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, MigrateError
from anemoi_ckpt_migrate.storage.atomic_replace import backup_names

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.url import Url

_VERSIONS = ("ETag", "etag", "generation", "blob_id")
CHANGED = "another program changed the object in the meantime; run the command again"
"""The message for an object that is no longer the one that was read."""


class RemoteObject(NamedTuple):
    """An object of a store, at one moment.

    Attributes
    ----------
    url : Url
        Its URL.
    size : int
        Its length, in bytes.
    version : str
        Differs whenever the object was written: its ETag, or all that the store says about it.
    headers : dict of str to object
        Properties that a new object in its place gets too, in the terms of the store.
    """

    url: Url
    size: int
    version: str
    headers: dict[str, Any]


class Store:
    """A store of any kind that fsspec knows.

    Parameters
    ----------
    scheme : str
        The scheme of its URLs.
    filesystem : fsspec.AbstractFileSystem
        The store in terms of fsspec.

    Attributes
    ----------
    scheme
        As above.
    copies_ranges : bool
        Whether a new object can take ranges of others, without the bytes passing through this machine.
    reads_one_version : bool
        Whether `read` fails if the object has changed.
    never_copies_over : bool
        Whether a copy within the store fails if there is an object of the new name.
    """

    copies_ranges = False
    reads_one_version = False
    never_copies_over = False

    def __init__(self, scheme: str, filesystem: Any) -> None:
        self.scheme, self._fs = scheme, filesystem

    def look(self, url: Url) -> RemoteObject | None:
        """Return the object of a URL; None if it is the prefix of others.

        Raises
        ------
        CannotRead
            There is neither, or the store does not let you see it.
        """
        with explained_reading():
            return self._look(url)

    def _look(self, url: Url) -> RemoteObject | None:
        self._fs.invalidate_cache()
        found = self._fs.info(self._path(url))
        if found["type"] == "directory":
            return None
        said = repr(sorted(found.items(), key=str))
        version = next((str(found[name]) for name in _VERSIONS if found.get(name)), said)
        return RemoteObject(url, found["size"], version, {})

    def exists(self, url: Url) -> bool:
        """Return whether there is an object."""
        with explained_reading():
            try:
                return self._look(url) is not None
            except FileNotFoundError:
                return False

    def entries(self, url: Url) -> dict[str, int | None]:
        """Return the names below a prefix and the sizes of these objects; None for further prefixes."""
        with explained_reading():
            try:
                found = self._fs.ls(self._path(url), detail=True)
            except FileNotFoundError:
                found = []
        own = self._path(url)
        named = {each["name"].rstrip("/").rpartition("/")[2]: each for each in found if each["name"].rstrip("/") != own}
        sizes = {name: each["size"] if each["type"] == "file" else None for name, each in sorted(named.items())}
        return {name: size for name, size in sizes.items() if name not in ("", ".", "..")}

    def read(self, found: RemoteObject, start: int, end: int) -> bytes:
        """Return a range of an object.

        Raises
        ------
        CannotRead
            The store refused, or the object has changed (see `reads_one_version`).
        """
        with explained_reading():
            content = bytes(self._read(found, start, end))
        if len(content) != end - start:
            raise CannotRead(CHANGED)
        return content

    def _read(self, found: RemoteObject, start: int, end: int) -> bytes:
        return self._fs.cat_file(self._path(found.url), start=start, end=end)  # type: ignore[no-any-return]

    def check_unchanged(self, found: RemoteObject) -> None:
        """Refuse an object that was written, or removed, since it was looked at.

        Raises
        ------
        CannotRead
            It was.
        """
        with explained_reading():
            try:
                now = self._look(found.url)
            except FileNotFoundError:
                now = None
        if now is None or now.version != found.version:
            raise CannotRead(CHANGED)

    def check_writable(self) -> None:
        """Refuse a store that is only read.

        Raises
        ------
        Refused
            It is one.
        """

    def put(self, path: str, url: Url, before: RemoteObject | None) -> None:
        """Upload a local file as a whole. Its condition and the write are one where the store offers that.

        Parameters
        ----------
        path : str
            The file.
        url : Url
            The object to make or to replace.
        before : RemoteObject or None
            The object that it replaces; None if there must be none.

        Raises
        ------
        CannotWrite
            The object has changed in the meantime, or exists already; or the store refused.
        """
        with explained_writing(url):
            self._put(path, url, before)

    def _put(self, path: str, url: Url, before: RemoteObject | None) -> None:
        if before is not None:
            self.check_unchanged(before)
        elif self.exists(url):
            raise FileExistsError(str(url))
        self._fs.put_file(path, self._path(url), mode="overwrite" if before is not None else "create")

    def keep_backup(self, found: RemoteObject) -> Url:
        """Copy an object, within the store, to a free name: ``NAME.bak``, ``NAME.bak1`` and so on."""
        return next(kept for kept in backup_names(found.url) if self._keeps(found, kept))

    def _keeps(self, found: RemoteObject, kept: Url) -> bool:
        """Copy an object to a name; return False if there is another one."""
        if self.exists(kept):
            return False
        with explained_writing(kept), contextlib.suppress(FileExistsError):
            self._copy(found, kept)
            return True
        return False

    def _copy(self, found: RemoteObject, new: Url) -> None:
        """Copy an object within the store.

        Raises
        ------
        FileExistsError
            There is an object of the new name (see `never_copies_over`).
        """
        self._fs.cp_file(self._path(found.url), self._path(new))

    def remove(self, url: Url) -> None:
        """Remove an object that this run has made."""
        with explained_writing(url):
            self._fs.rm_file(self._path(url))

    def _path(self, url: Url) -> str:
        return str(self._fs._strip_protocol(str(url)))


@contextlib.contextmanager
def explained_reading() -> Iterator[None]:
    """Turn every error of a store into one sentence."""
    try:
        yield
    except MigrateError:
        raise
    except FileNotFoundError as error:
        raise CannotRead("there is no such object, or no such bucket") from error
    except PermissionError as error:
        raise CannotRead("the store does not let you read it (permission denied); check your credentials") from error
    except Exception as error:
        raise CannotRead(_why(error, "read")) from error


@contextlib.contextmanager
def explained_writing(url: Url) -> Iterator[None]:
    """Turn every error of a store that is written to into one sentence."""
    try:
        yield
    except MigrateError:
        raise
    except FileExistsError as error:
        raise CannotWrite(f"{url} exists already; remove it or write elsewhere") from error
    except FileNotFoundError as error:
        raise CannotWrite(f"there is no bucket for {url}; make it, or write elsewhere with --output") from error
    except PermissionError as error:
        raise CannotWrite(
            f"the store does not let you write {url} (permission denied); check your credentials, or write elsewhere "
            "with --output; nothing was changed"
        ) from error
    except Exception as error:
        raise CannotWrite(f"{_why(error, 'written')}; nothing was changed") from error


def _why(error: Exception, done: str) -> str:
    """Return a message for an error that a store has no class for."""
    is_late = isinstance(error, (TimeoutError, asyncio.TimeoutError)) or "Timeout" in type(error).__name__
    if is_late:
        return "the store did not answer in time; run the command again, or raise the timeout in fsspec's configuration"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the store cannot be {done} ({text:.300})"
