"""URLs of objects in stores, as places of checkpoints; all other paths stay paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

from anemoi_ckpt_migrate.errors import Refused, UsageError
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "memory", "hf")
"""The schemes of URLs that can be opened."""
_URL = lazy_regex(rf"({'|'.join(SCHEMES)})://(.*)", re.DOTALL)


@dataclass(frozen=True)
class Url(os.PathLike[str]):
    """The URL of an object, or of a prefix that stands for a folder. It has those properties of `Path` that it needs.

    Attributes
    ----------
    scheme : str
        The scheme, which names the store.
    key : str
        All that follows: bucket and key, in most stores.
    """

    scheme: str
    key: str

    def __fspath__(self) -> str:
        return f"{self.scheme}://{self.key}"

    __str__ = __fspath__

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The URL without its last part."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Url:
        """Return the URL of another object beside this one."""
        return self.parent / name

    def __truediv__(self, name: str) -> Url:
        return replace(self, key=f"{self.key}/{name}")

    def is_symlink(self) -> bool:
        """Return False: stores have no links."""
        return False


Location = Path | Url
"""The place of a checkpoint."""


def url_of(path: str | os.PathLike[str]) -> Url | None:
    """Return a path as the URL of an object; None for any other path.

    Raises
    ------
    UsageError
        It is a URL, but cannot name an object.
    """
    if isinstance(path, Url):
        return path
    text = os.fspath(path)
    found = _URL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    key = found[2].rstrip("/")
    parts = (key.removeprefix("/") if found[1] == "memory" else key).split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"{text!r:.200} names no object: give {found[1]}://BUCKET/KEY, without empty parts and dots")
    return Url(found[1], key)


def local_folder(place: Location) -> Path:
    """Return the real path of a folder to write.

    Raises
    ------
    Refused
        It is a URL.
    """
    if isinstance(place, Url):
        raise Refused("a folder of files is not written to a store: give a local folder to --output, and upload that")
    return Path(os.path.realpath(place))


def real_path(path: str | os.PathLike[str]) -> Location:
    """Return the place that a path leads to: links are followed, and URLs stay as they are."""
    return url_of(path) or Path(os.path.realpath(path))
