"""The names in folders, listed once for many files, and the facts about sets of files that follow from them."""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path

from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

INDEX = ".index.json"
"""The end of the name of an index of Hugging Face."""
_INDICES = (f".safetensors{INDEX}", f".bin{INDEX}")
_LONGEST_INDEX = 256 << 20  # in bytes
RANK_FOLDER = lazy_regex(r"(mp|tp|pp|ep)_rank_\d+(_.*)?")
"""The name of the folder of a rank, in checkpoints of Megatron."""
RANK = lazy_regex(r"(?P<before>.*(?:rank|shard|model_part)[-_]?)(?P<number>\d+)(?P<after>(?:[-_.].*)?)", re.IGNORECASE)
"""The name of the file of a rank."""
# All names that a look below may recognise without an index or the name of the folder.
_MAY_BE_MEMBER = lazy_regex(
    r"-\d{2,}-of-|^consolidated\.|_states\.pt$|(?:rank|shard|model_part)[-_]?\d|^(?:meta|fp32|exp_avg|exp_avg_sq|step)\.pt$"
    r"|\.distcp$|^\.metadata$",
    re.IGNORECASE,
)


class FolderNames:
    """The names in a folder, read once.

    Attributes
    ----------
    names : collection of str
        The names; empty if the folder cannot be listed.

    Parameters
    ----------
    path : Path
        The folder.
    names : collection of str, optional
        The names in it, if they are known.
    """

    def __init__(self, path: Path, names: Collection[str] | None = None) -> None:
        self._path = path
        try:
            self.names: Collection[str] = os.listdir(path) if names is None else names
        except OSError:
            self.names = []

    def beginning_with(self, start: str) -> list[str]:
        """Return the names that begin with a text, in order."""
        first = bisect.bisect_left(self._ordered, start)
        return self._ordered[first : bisect.bisect_left(self._ordered, start + chr(sys.maxunicode), first)]

    @cached_property
    def _ordered(self) -> list[str]:
        return sorted(self.names)

    def may_be_member(self, name: str) -> bool:
        """Return whether `membership_by_name` may find a set for a file in it; this is quick."""
        return _MAY_BE_MEMBER.search(name) is not None or self._is_of_rank or name in self.indexed

    @cached_property
    def _is_of_rank(self) -> bool:
        return RANK_FOLDER.fullmatch(self._path.name) is not None

    @cached_property
    def indexed(self) -> dict[str, Path]:
        """The files that indices name, each with its first index."""
        indices = [self._path / name for name in sorted(self.names, reverse=True) if name.endswith(INDEX)]
        return {name: index for index in indices for name in files_of_index(index)}

    @cached_property
    def ranks(self) -> dict[tuple[str, str], set[str]]:
        """The numbers of ranks, by the text before and after the number."""
        found: dict[tuple[str, str], set[str]] = {}
        for match in filter(None, map(RANK.fullmatch, self.names)):
            found.setdefault((match["before"], match["after"]), set()).add(match["number"])
        return found


class FolderListings:
    """The names in folders, each listed once, or again after some seconds.

    Parameters
    ----------
    seconds : float
        How long names count as known. A set that is known only from its index is missed if the index appears later.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._seconds = seconds
        self._known: dict[Path, tuple[float, FolderNames]] = {}

    def names(self, path: Path) -> FolderNames:
        """Return the names in a folder."""
        now = time.monotonic()
        since, found = self._known.get(path, (-math.inf, None))
        if found is None or now - since > self._seconds:
            fresh = {each: known for each, known in self._known.items() if now - known[0] <= self._seconds}
            found = FolderNames(path)
            self._known = {**fresh, path: (now, found)}
        return found


_LISTINGS: ContextVar[FolderListings | None] = ContextVar("listings", default=None)


@contextlib.contextmanager
def folders_listed_once(listings: FolderListings | None = None) -> Iterator[None]:
    """List each folder only once in this context, for a run over many files.

    Parameters
    ----------
    listings : FolderListings, optional
        Names that are known from earlier; by default none.
    """
    token = _LISTINGS.set(listings or FolderListings())
    try:
        yield
    finally:
        _LISTINGS.reset(token)


def names_in(folder: Path) -> FolderNames:
    """Return the names in a folder, in a context of `folders_listed_once` perhaps as they were some seconds ago."""
    listings = _LISTINGS.get()
    return FolderNames(folder) if listings is None else listings.names(folder)


def folder_of_index(path: Path) -> Path | None:
    """Return the folder of an index, which stands for the folder; None for any other path."""
    return path.parent if is_index(path.name) and path.is_file() else None


def is_index(name: str) -> bool:
    """Return whether a file has the name of an index."""
    return name.endswith(_INDICES)


def files_of_index(index: Path) -> set[str]:
    """Return the names of files that an index gives; none if it cannot be read."""
    try:
        if not index.is_file() or index.stat().st_size > _LONGEST_INDEX:
            return set()
        listed = json.loads(index.read_bytes())["weight_map"].values()
        return {os.path.basename(name) for name in listed if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # not an index of shards
