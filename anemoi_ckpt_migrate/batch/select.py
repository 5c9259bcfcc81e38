"""Choose the checkpoints of a call: paths, patterns, lists, and everything below folders."""

from __future__ import annotations

import codecs
import contextlib
import fnmatch
import functools
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, MigrateError, NoneFound, UsageError, shown_path
from anemoi_ckpt_migrate.storage.url import url_of
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.find_checkpoints import Entry

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
        Its place below ``--output``, by which it also gets into a part: its path below the folder or the pattern, if
        there is only one; else its path as given.
    size : int
        Bytes of the file or folder; 0 if unknown.
    named : bool
        Whether you named it, or a pattern of ``--include`` fits. Else it was found, and is left alone unless something
        tells that it belongs to the project.
    left : bool
        Whether files of an interrupted run are beside it.
    same_as : str
        The path by which it is in the call already; empty if it is not.
    inside : bool
        Whether it lies in the folder of the last checkpoint of its group.
    error : MigrateError or None
        Why a folder could not be searched, or why nothing is to be written.
    """

    path: str
    relative: str = ""
    size: int = 0
    named: bool = True
    left: bool = False
    same_as: str = ""
    inside: bool = False
    error: MigrateError | None = None


Group = tuple[Chosen, ...]
"""Checkpoints that are worked on one after the other."""


@dataclass(frozen=True)
class Selection:
    """The checkpoints that a call is about.

    A checkpoint counts once, whatever names, links and overlapping folders lead to it. It counts by the name that you
    gave, or else by the one that was found first.

    Attributes
    ----------
    paths : tuple of str
        Checkpoints, folders, and patterns such as ``runs/**/*.ckpt``. A path that exists is never read as a pattern.
        ``**`` means any folders in between, or none. Hidden names are found only if you give them, or a folder before
        the first wildcard is hidden.
    recursive : bool
        Whether folders mean everything below them.
    from_file : str or None
        A file with a path a line; ``-`` is standard input. Its paths are never read as patterns.
    null : bool
        Whether the paths in that file end in NUL bytes instead.
    exclude : tuple of str
        Patterns for names, for paths below a folder, or for paths as given, that are left out, whether you named them
        or not. ``*`` fits slashes too. All that lies in a folder that fits is left out.
    include : tuple of str
        Patterns, of the same kind, for files that count as named when they are found, even if neither name nor content
        is that of a checkpoint.
    newer_than : float or None
        Only what changed after this time, in seconds since the epoch. A folder changed when a file in it did.
    part : tuple of int or None
        K and N: only the K-th of N parts. A checkpoint is always in the same part, as long as its path below the given
        folder stays.
    allow_empty : bool
        Whether it is no error if nothing is found.
    output : str or None
        The folder of the results, which is not searched.

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
    output: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a list of names without any choice."""
        return not any(map(self._searches, self.paths)) and self == Selection(self.paths, output=self.output)

    def groups(self) -> Iterator[Group]:
        """Yield the checkpoints. Those of one group are worked on one after the other: the inner ones first.

        If there is an output, the outer ones are first, since their copies hold copies of the inner ones.

        Raises
        ------
        NoneFound
            There are none.
        UsageError, CannotRead
            The list cannot be read, or the output is a folder to search.
        """
        found = False
        places: dict[str, str] = {}
        for group in self._all():
            found = True
            if self.part is None or _is_in(self.part, group[-1]):
                yield group if self.output is None else tuple(self._placed(group, places))
        if not found and not self.allow_empty:
            raise NoneFound(self._shown())

    def backups(self) -> Iterator[Entry]:
        """Yield the backups below the folders and patterns of the call."""
        from anemoi_ckpt_migrate.storage.find_checkpoints import BACKUP

        for path in filter(self._searches, self.paths):
            for group in self._walk(path, backups=True):
                yield from (entry for entry in group if entry.kind == BACKUP)

    def _all(self) -> Iterator[Group]:
        """Yield all groups: those that you named, those that are found, and those that you named but were not found."""
        names = [path for path in self.paths if not self._searches(path)]
        searched = [path for path in self.paths if self._searches(path)]
        for path in self._listed():
            (searched if self.recursive and os.path.isdir(path) else names).append(path)
        self._check_output(searched)
        is_only = len(names) + len(searched) == 1
        named, again = self._named(names)
        tops = {os.path.realpath(_split(path)[0]) for path in searched}
        later = {real: chosen for real, chosen in named.items() if not tops.isdisjoint(_above(real))} if tops else {}
        yield from _grouped({real: chosen for real, chosen in named.items() if real not in later})
        seen = set(named) - set(later)
        for path in searched:
            for entries in self._walk(path):
                group = [(each.real, self._found(each, is_only)) for each in entries if each.real not in seen]
                seen.update(real for real, _ in group)
                if group:
                    inner = len(entries) - 1
                    inside = {each.real for each in entries[:inner]}
                    yield tuple(replace(later.pop(real, chosen), inside=real in inside) for real, chosen in group)
        yield from _grouped(later)
        yield from ((each,) for each in again)

    def _named(self, names: Iterable[str]) -> tuple[dict[str, Chosen], list[Chosen]]:
        """Return the checkpoints that you named, by their paths without links, and further names for them."""
        found: dict[str, Chosen] = {}
        again: list[Chosen] = []
        excluded, real_of = _patterns(self.exclude), _real_paths()
        for path in dict.fromkeys(names):
            if url_of(path) is not None:
                found[path] = Chosen(path, path)
                continue
            if excluded.fit(path):
                continue
            size, changed = 0, math.inf
            with contextlib.suppress(OSError, ValueError):  # opening it will report that
                known = os.stat(path)
                size, changed = 0 if stat.S_ISDIR(known.st_mode) else known.st_size, _changed(path, known)
            if self.newer_than is not None and changed <= self.newer_than:
                continue
            chosen, real = Chosen(path, _below(path), size), real_of(path)
            if real in found:
                again.append(replace(chosen, same_as=found[real].path))
            else:
                found[real] = chosen
        return found, again

    def _found(self, entry: Entry, is_only: bool) -> Chosen:
        named = bool(self.include) and _patterns(self.include).fit(entry.path, entry.relative)
        relative = _below(entry.path)
        if is_only:
            relative = entry.relative or os.path.basename(os.path.abspath(entry.path))
        return Chosen(entry.path, relative, entry.size, named, entry.left, error=entry.error)

    def _placed(self, group: Group, places: dict[str, str]) -> Iterator[Chosen]:
        """Yield the checkpoints of a group, the outer ones first, unless another one has their place in the output."""
        for chosen in reversed(group):
            before = places.setdefault(chosen.relative, chosen.path)
            if chosen.same_as or before == chosen.path:
                yield chosen
            else:
                why = f"its place in --output is that of {shown_path(before)}; migrate it in a call of its own"
                yield replace(chosen, error=CannotWrite(why).about(chosen.path))

    def _check_output(self, searched: Iterable[str]) -> None:
        if self.output is not None:
            place = os.path.realpath(self.output)
            for path in searched:
                if os.path.realpath(path) == place:
                    raise UsageError(f"--output {self.output} is a folder to search; write to another one")

    def _searches(self, path: str) -> bool:
        """Return whether a path is one to search: a folder below which everything is meant, or a pattern."""
        if url_of(path) is not None:
            return False
        return (self.recursive and os.path.isdir(path)) or is_pattern(path)

    def _walk(self, path: str, backups: bool = False) -> Iterator[tuple[Entry, ...]]:
        """Yield the groups below a folder, or below that of a pattern."""
        from anemoi_ckpt_migrate.storage.find_checkpoints import Walk  # a call about a name needs no walk

        folder, pattern = _split(path)
        excluded, included = _patterns(self.exclude), _patterns(self.include)
        if os.path.basename(_tidy(folder)) not in (os.curdir, os.pardir) and excluded.fit(folder):
            return
        start = "" if folder == os.curdir else os.path.join(folder, "")

        def wants(relative: str, is_folder: bool) -> bool:
            if self.exclude and excluded.fit(f"{start}{relative}", relative):
                return False
            return not pattern or _matches(pattern, _names(relative), is_folder, self.recursive)

        def includes(relative: str) -> bool:
            return bool(self.include) and included.fit(f"{start}{relative}", relative)

        def is_meant(entry: Entry) -> bool:
            if entry.error is None and self.newer_than is not None and entry.modified <= self.newer_than:
                return False
            return not pattern or _matches(pattern, _names(entry.relative), False, self.recursive)

        walk = Walk(wants, includes, backups)
        if self.output is not None:
            walk.leave_out(self.output)
        for group in walk.below(folder):
            kept = tuple(filter(is_meant, group))
            if kept:
                yield kept

    def _listed(self) -> list[str]:
        return [] if self.from_file is None else read_list(self.from_file, self.null)

    def _shown(self) -> str:
        return ", ".join((*self.paths, *([] if self.from_file is None else [self.from_file]))) or "the list"


class _Patterns:
    """Patterns that fit a path or its last name."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._all = [fnmatch.translate(_tidy(each)) for each in patterns]
        self._fits = re.compile("|".join(self._all)).match

    def fit(self, *paths: str) -> bool:
        """Return whether a pattern fits one of the spellings of a path, or its last name."""
        if not self._all:
            return False
        spelled = [_tidy(path) for path in paths]
        return any(map(self._fits, (*spelled, spelled[0].rpartition("/")[2])))


_patterns = functools.lru_cache(maxsize=8)(_Patterns)


def read_list(path: str, null: bool = False) -> list[str]:
    """Return the paths in a file, or in standard input.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard input.
    null : bool
        Whether paths end in NUL bytes, as ``find -print0`` writes them, instead of lines. Every line is a path, even if
        it begins with ``#``; empty ones are passed by. Lines may end as on Windows.

    Raises
    ------
    CannotRead
        The file cannot be read.
    UsageError
        It has NUL bytes, but they are not said to end paths.
    """
    try:
        if path == _STDIN:
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as stream:
                content = stream.read()
    except OSError as error:
        raise CannotRead(f"the list cannot be read ({os.strerror(error.errno or 0).lower()})").about(path) from error
    if not null and b"\0" in content:
        raise UsageError(f"the list {path} has NUL bytes, which no path has; give --null if they end the paths")
    if null:
        return [os.fsdecode(each) for each in content.split(b"\0") if each]
    return [_without_return(os.fsdecode(each)) for each in content.removeprefix(codecs.BOM_UTF8).split(b"\n") if each]


def _without_return(line: str) -> str:
    """Return a path of a list whose lines may end as on Windows."""
    return line if not line.endswith("\r") or os.path.lexists(line) else line[:-1]


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


def _split(path: str) -> tuple[str, list[str]]:
    """Return the folder in front of the first name with a wildcard, and the names from there on; none for a folder."""
    if not is_pattern(path):
        return path, []
    names = path.split("/")
    first = next(at for at, name in enumerate(names) if any(letter in name for letter in _MAGIC))
    folder = "/".join(names[:first]) or ("/" if path.startswith("/") else os.curdir)
    pattern = [name for name in names[first:] if name not in ("", os.curdir)]
    return folder, [name for at, name in enumerate(pattern) if not (name == "**" == pattern[at - 1] and at)]


def _names(relative: str) -> list[str]:
    return relative.split("/") if relative else []


def _matches(pattern: Sequence[str], names: Sequence[str], is_folder: bool, below: bool) -> bool:
    """Return whether a path fits a pattern, in which ``**`` means any folders, or leads to one that does.

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


def _tidy(path: str) -> str:
    """Return a path or a pattern without a slash at its end, or ``./`` in front."""
    return (path.rstrip("/") or path).removeprefix("./")


def _is_in(part: tuple[int, int], last: Chosen) -> bool:
    import hashlib  # only parts need it

    digest = hashlib.sha256(os.fsencode(last.relative)).digest()
    return int.from_bytes(digest[:8], "big") % part[1] == part[0] - 1


def _below(path: str) -> str:
    """Return the place of a named path below another folder: that of `cp --parents`."""
    normal = os.path.normpath(path)
    if normal.startswith(os.pardir):
        normal = os.path.abspath(path)
    return normal.lstrip("/")


def _changed(path: str, found: os.stat_result) -> float:
    """Return when a file changed, or the latest file of a folder."""
    if not stat.S_ISDIR(found.st_mode):
        return found.st_mtime
    with os.scandir(path) as entries:
        return max((each.stat().st_mtime for each in entries if each.is_file()), default=found.st_mtime)


def _real_paths() -> Callable[[str], str]:
    """Return a function for paths without links, which looks at each folder only once."""
    folder_of = functools.cache(os.path.realpath)

    def real_path(path: str) -> str:
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            return os.path.realpath(path)
        return os.path.join(folder_of(folder), name)

    return real_path


def _above(real: str) -> Iterator[str]:
    """Yield a path and the folders above it."""
    while True:
        yield real
        real, before = os.path.dirname(real), real
        if real == before:
            return


def _grouped(named: Mapping[str, Chosen]) -> Iterator[Group]:
    """Yield checkpoints in their order, each after those that lie in its folder."""
    groups: dict[str, list[str]] = {}
    for real in named:
        outermost = [each for each in _above(real) if each in named] or [real]
        groups.setdefault(outermost[-1], []).append(real)
    for outermost_of, reals in groups.items():
        inner = sorted((real for real in reals if real != outermost_of), key=lambda real: -real.count("/"))
        yield (*(replace(named[real], inside=True) for real in inner), named[outermost_of])
