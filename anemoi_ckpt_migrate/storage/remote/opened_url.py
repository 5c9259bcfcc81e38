"""Open what a URL names: an object as a local file, or a prefix as a local folder; their bytes come when asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotRead
from anemoi_ckpt_migrate.storage.folder_names import is_index
from anemoi_ckpt_migrate.storage.remote.find_store import store_of
from anemoi_ckpt_migrate.storage.remote.object_file import ObjectFile, explained_room, object_file

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.remote.store import RemoteObject, Store
    from anemoi_ckpt_migrate.storage.url import Url

_PREFIX = "ckpt-migrate-"
_PARTS = 4  # of a path, which tell to which set a file belongs
_LONGEST_INDEX = 256 << 20  # in bytes


class MirroredFolder:
    """A prefix of a store as a local folder: names and lengths of its files; their content comes when asked for.

    Attributes
    ----------
    path : Path
        The local folder.
    url : Url
        The prefix.
    """

    def __init__(self, path: Path, url: Url, store: Store) -> None:
        self.path, self.url, self._store = path, url, store
        with explained_room():
            for name, size in store.entries(url).items():
                if size is None:
                    (path / name).mkdir()
                else:
                    (path / name).touch()
                    os.truncate(path / name, size)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a file of the folder for reading, and yield its descriptor."""
        found = self._look(name)
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX) as folder,
            object_file(Path(folder, Path(name).name), self._store, found) as descriptor,
        ):
            yield descriptor

    def list_folder(self, name: str) -> None:
        """Give a folder in the folder files with the names and lengths of those in the store."""
        MirroredFolder(self.path / name, self.url / name, self._store)

    def complete(self, name: str) -> None:
        """Fetch the whole content of a file."""
        path = self.path / name
        path.unlink(missing_ok=True)
        with object_file(path, self._store, self._look(name)) as file:
            file.fetch([(0, file.source.size)])

    def complete_all(self, without: Collection[str]) -> None:
        """Fetch the whole content of all files in the folder but some, and of those in folders below it."""
        for name, size in self._store.entries(self.url).items():
            if name in without:
                continue
            if size is not None:
                self.complete(name)
                continue
            shutil.rmtree(self.path / name)
            (self.path / name).mkdir()
            MirroredFolder(self.path / name, self.url / name, self._store).complete_all(())

    def _look(self, name: str) -> RemoteObject:
        found = self._store.look(self.url / name)
        if found is None:
            raise CannotRead(f"{name} in it is not an object")
        return found


@contextlib.contextmanager
def opened_url(url: Url) -> Iterator[ObjectFile | MirroredFolder]:
    """Open what a URL names.

    Raises
    ------
    MigrateError
        There is nothing, or the store refused.
    """
    store = store_of(url)
    if is_index(url.name):
        url = url.parent
    try:
        found = store.look(url)
    except CannotRead as error:
        if isinstance(error.__cause__, FileNotFoundError) and set("*?[") & set(url.key):
            raise CannotRead(f"{error.sentence}; patterns are for local paths, so name each object") from error
        raise
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        if found is None:
            place = Path(folder, url.name)
            place.mkdir()
            yield MirroredFolder(place, url, store)
        else:
            with object_file(Path(folder, url.name), store, found) as file:
                yield file


@contextlib.contextmanager
def neighbours(url: Url) -> Iterator[tuple[Path, Path]]:
    """Yield a local path beside empty files with the names of an object's neighbours; their indices have content.

    Yields
    ------
    tuple of Path and Path
        The path that stands for the object, and the folder that stands for all that precedes its last parts.
    """
    parts = url.key.removeprefix("/").split("/")[-_PARTS:]
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as top:
        place = Path(top, *parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        if len(parts) > 1:
            with contextlib.suppress(CannotRead):  # a folder that cannot be listed tells nothing, as a local one
                mirror = MirroredFolder(place.parent, url.parent, store_of(url))
                for each in place.parent.iterdir():
                    if each.name.endswith(".index.json") and each.stat().st_size <= _LONGEST_INDEX:
                        mirror.complete(each.name)
        yield place, Path(top)
