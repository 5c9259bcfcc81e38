"""Choose the checkpoints of a call: paths, patterns, lists, and everything below folders."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from anemoi_ckpt_migrate.errors import CannotRead, MigrateError, NoneFound, UsageError
from anemoi_ckpt_migrate.storage.find_checkpoints import BACKUP, CHECKPOINT, Entry, Walk
from anemoi_ckpt_migrate.storage.url import url_of

_MAGIC = "*?["
_STDIN = "-"


@dataclass(frozen=True)
class Chosen:
    """A checkpoint that a call is about.

    Attributes
    ----------
    path : str
        Its path, as messages name it.
    relative : str
        Its path below the folder that was given, or the path itself: the place below ``--output``.
    size : int
        Bytes of the file or folder; 0 if unknown.
    named : bool
        Whether you named it, or a pattern of ``--include`` fits. Else it was found, and is left alone unless something
        tells that it belongs to the project.
    left : bool
        Whether files of an interrupted run are beside it.
    same_as : str
        The path by which it is in the call already; empty if it is not.
    error : MigrateError or None
        Why a folder could not be searched.
    """

    path: str
    relative: str = ""
    size: int = 0
    named: bool = True
    left: bool = False
    same_as: str = ""
    error: MigrateError | None = None


@dataclass(frozen=True)
class Selection:
    """The checkpoints that a call is about.

    Attributes
    ----------
    paths : tuple of str
        Checkpoints, folders, and patterns such as ``runs/**/*.ckpt``. A path that exists is never read as a pattern.
    recursive : bool
        Whether folders mean everything below them.
    from_file : str or None
        A file with a path a line; ``-`` is standard input.
    null : bool
        Whether the paths in that file end in NUL bytes instead.
    exclude : tuple of str
        Patterns for names, or for paths below a folder, that are left out; ``*`` fits slashes too.
    include : tuple of str
        Patterns for files that count as named.
    newer_than : float or None
        Only what changed after this time, in seconds since the epoch.
    part : tuple of int or None
        K and N: only the K-th of N parts.
    allow_empty : bool
        Whether it is no error if nothing is found.

    Examples
    --------
    >>> for group in Selection(("runs",), recursive=True).groups():
    ...     print([chosen.path for chosen in group])
    """

    paths: tuple[str, ...] = ()
    recursive: bool = False
    from_file: str | None = None
    null: bool = False
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    newer_than: float | None = None
    part: tuple[int, int] | None = None
    allow_empty: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a list of names without any choice."""
        return not any(map(self._searches, self.paths)) and self == Selection(self.paths)

    def groups(self) -> Iterator[tuple[Chosen, ...]]:
        """Yield the checkpoints. Those of one group are worked on one after the other: the inner ones first.

        Raises
        ------
        NoneFound
            There are none.
        UsageError, CannotRead
            The list cannot be read.
        """
        seen: dict[str, str] = {}
        found = False
        for group in self._all():
            if self.part is not None and not _is_in(self.part, group[-1]):
                found = True
                continue
            kept = tuple(filter(None, (self._kept(chosen, real, seen) for chosen, real in group)))
            if kept:
                found = True
                yield kept
        if not found and not self.allow_empty:
            raise NoneFound(self._shown())

    def backups(self) -> Iterator[Entry]:
        """Yield the backups below the folders and patterns of the call."""
        for path in filter(self._searches, self.paths):
            for group in self._walk(path):
                yield from (entry for entry in group if entry.kind == BACKUP)

    def _all(self) -> Iterator[tuple[tuple[Chosen, str], ...]]:
        """Yield all groups, each checkpoint with its path without links: first those that you named."""
        for path in (*self.paths, *self._listed()):
            if not self._searches(path):
                yield (self._named(path),)
        for path in filter(self._searches, self.paths):
            for group in self._walk(path):
                entries = [entry for entry in group if entry.kind == CHECKPOINT]
                if entries:
                    yield tuple((self._found(entry), entry.real) for entry in entries)

    def _kept(self, chosen: Chosen, real: str, seen: dict[str, str]) -> Chosen | None:
        """Return a checkpoint, unless it is left out; note that it is in the call."""
        before = seen.setdefault(real, chosen.path)
        if before == chosen.path:
            return chosen
        return replace(chosen, same_as=before) if chosen.named else None

    def _searches(self, path: str) -> bool:
        """Return whether a path is one to search: a folder below which everything is meant, or a pattern."""
        if url_of(path) is not None:
            return False
        return (self.recursive and os.path.isdir(path)) or is_pattern(path)

    def _named(self, path: str) -> tuple[Chosen, str]:
        if url_of(path) is not None:
            return Chosen(path, path), path
        try:
            size = os.stat(path).st_size
        except (OSError, ValueError):  # opening it will report that
            size = 0
        return Chosen(path, _below(path), size), os.path.realpath(path)

    def _found(self, entry: Entry) -> Chosen:
        named = any(_fits(pattern, entry.relative) for pattern in self.include)
        return Chosen(entry.path, entry.relative, entry.size, named, entry.left, error=entry.error)

    def _walk(self, path: str) -> Iterator[tuple[Entry, ...]]:
        folder, pattern = (path, []) if os.path.isdir(path) else _split(path)
        walk = Walk(lambda relative, is_folder: self._visits(relative, is_folder, pattern))
        for group in walk.below(folder):
            kept = tuple(entry for entry in group if self._is_meant(entry, pattern))
            if kept:
                yield kept

    def _visits(self, relative: str, is_folder: bool, pattern: list[str]) -> bool:
        if any(_fits(each, relative) for each in self.exclude):
            return False
        return not pattern or _matches(pattern, relative.split("/"), is_folder, self.recursive)

    def _is_meant(self, entry: Entry, pattern: list[str]) -> bool:
        if entry.error is None and self.newer_than is not None and entry.modified <= self.newer_than:
            return False
        return not pattern or _matches(pattern, entry.relative.split("/"), False, self.recursive)

    def _listed(self) -> list[str]:
        return [] if self.from_file is None else read_list(self.from_file, self.null)

    def _shown(self) -> str:
        return ", ".join((*self.paths, *([] if self.from_file is None else [self.from_file]))) or "the list"


def read_list(path: str, null: bool = False) -> list[str]:
    """Return the paths in a file, or in standard input.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard input.
    null : bool
        Whether paths end in NUL bytes, as ``find -print0`` writes them, instead of lines.

    Raises
    ------
    CannotRead
        The file cannot be read.
    """
    try:
        if path == _STDIN:
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as stream:
                content = stream.read()
    except OSError as error:
        raise CannotRead(f"the list cannot be read ({os.strerror(error.errno or 0).lower()})").about(path) from error
    return [os.fsdecode(each) for each in content.split(b"\0" if null else b"\n") if each]


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern: it has one of ``*?[`` in it, and nothing has that name."""
    return any(letter in path for letter in _MAGIC) and not os.path.lexists(path)


def parse_part(text: str) -> tuple[int, int]:
    """Return K and N of a part ``K/N``.

    Raises
    ------
    UsageError
        It is not one of 1/N to N/N.
    """
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise UsageError(f"{text!r:.40} is not a part; give K/N with K from 1 to N, for example 2/8")


def _split(pattern: str) -> tuple[str, list[str]]:
    """Return the folder in front of the first name with a wildcard, and the names from there on."""
    names = pattern.split("/")
    first = next(at for at, name in enumerate(names) if any(letter in name for letter in _MAGIC))
    return "/".join(names[:first]) or ("/" if pattern.startswith("/") else "."), names[first:]


def _matches(pattern: list[str], names: list[str], is_folder: bool, below: bool) -> bool:
    """Return whether a path fits a pattern, in which ``**`` stands for any folders, or leads to one that does.

    Parameters
    ----------
    pattern, names : list of str
        The names in the pattern and in the path.
    is_folder : bool
        Whether it suffices that the path leads to one that may fit.
    below : bool
        Whether everything below a folder that fits does fit.
    """
    if not names:
        return is_folder or all(name == "**" for name in pattern)
    if not pattern:
        return below
    if pattern[0] == "**":
        return _matches(pattern[1:], names, is_folder, below) or _matches(pattern, names[1:], is_folder, below)
    return fnmatch.fnmatchcase(names[0], pattern[0]) and _matches(pattern[1:], names[1:], is_folder, below)


def _fits(pattern: str, relative: str) -> bool:
    """Return whether a pattern fits a path, or its last name."""
    return fnmatch.fnmatchcase(relative, pattern) or fnmatch.fnmatchcase(relative.rpartition("/")[2], pattern)


def _is_in(part: tuple[int, int], last: tuple[Chosen, str]) -> bool:
    digest = hashlib.sha256(os.fsencode(last[0].relative)).digest()
    return int.from_bytes(digest[:8], "big") % part[1] == part[0] - 1


def _below(path: str) -> str:
    """Return the place of a named path below another folder: that of `cp --parents`."""
    normal = os.path.normpath(path)
    if normal.startswith(os.pardir):
        normal = os.path.abspath(path)
    return normal.lstrip("/")
