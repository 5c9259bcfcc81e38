"""Write a report of a run: JSON lines, appended and synced while the run works."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.batch.report_lines import (
    FOUND,
    FOUND_ALL,
    MARK,
    check_format,
    header_line,
    result_line,
)
from anemoi_ckpt_migrate.errors import CannotWrite, NotAReport
from anemoi_ckpt_migrate.storage.atomic_replace import sync_folder
from anemoi_ckpt_migrate.storage.lock import locked
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult
    from anemoi_ckpt_migrate.batch.select import Chosen

_SEVERAL = 256  # paths in a line
_SYNC = 1.0  # seconds between two calls of fsync
_BLOCK = 1 << 16
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FIRST = lazy_regex(re.escape(MARK) + rb"(\d{1,6})[,}]")


@contextlib.contextmanager
def report_file(path: StrPath, header: Mapping[str, Any]) -> Iterator[ReportFile]:
    """Open a report and begin a run in it. The file is made, or appended to if it is a report.

    A last line that was not written to its end is removed first.

    Parameters
    ----------
    path : path
        The file.
    header : mapping
        What the run does: ``command``, ``target``, ``given`` (the choice of checkpoints) and ``part``, K and N.

    Yields
    ------
    ReportFile
        Takes the results.

    Raises
    ------
    NotAReport
        The file holds something else, or is no plain file. Nothing was changed.
    Busy
        Another run writes this report.
    CannotWrite
        The file cannot be written.

    Examples
    --------
    >>> with report_file("report.jsonl", {"command": "upgrade", "target": "head"}) as report:
    ...     for result in run_here(job, report.watch(selection.groups()), Attention()):
    ...         report.add(result)
    """
    place = Path(path)
    with contextlib.ExitStack() as held:
        with annotate_errors(place), _explained(place, "so nothing was begun; give --report another name"):
            _check_plain(place)
            held.enter_context(locked(place))
            descriptor = os.open(place, _FLAGS, 0o666)
            held.callback(os.close, descriptor)
            _remove_torn(descriptor, place)
            sync_folder(place.parent)
        report = ReportFile(place, descriptor, header)
        try:
            yield report
        finally:
            report.close()


class ReportFile:
    """A report to which a run adds lines. Each line is written at once, and synced at most once a second.

    Use `report_file` to open one.
    """

    def __init__(self, path: Path, descriptor: int, header: Mapping[str, Any]) -> None:
        self._path, self._descriptor = path, descriptor
        self._begun, self._synced = time.monotonic(), -math.inf
        self._end = os.fstat(descriptor).st_size  # of the last whole line
        self._waiting: list[str] = []
        self._count = 0
        self._failed = False
        self._put(header_line(header))

    def found(self, paths: Iterable[str]) -> None:
        """Note paths that the run is about, so that a reader knows which of them it never reached."""
        for path in paths:
            self._waiting.append(path)
            if len(self._waiting) == _SEVERAL:
                self._put_found()

    def found_all(self) -> None:
        """Note that there are no other paths. Without this, a reader has to assume that there are."""
        self._put_found()
        self._put({FOUND_ALL: self._count})

    def watch(self, groups: Iterable[tuple[Chosen, ...]]) -> Iterator[tuple[Chosen, ...]]:
        """Yield groups of checkpoints, and note their paths, and that there are no others."""
        for group in groups:
            self.found(chosen.path for chosen in group)
            yield group
        self.found_all()

    def add(self, result: JobResult) -> dict[str, Any]:
        """Write the result for a checkpoint, and return the line.

        Raises
        ------
        CannotWrite
            The line cannot be written; the report holds all lines before it. The run has to stop.
        """
        line = {**result_line(result), "after": round(time.monotonic() - self._begun, 3)}
        self._put(line)
        return line

    def close(self) -> None:
        """Write everything that waits, and sync the file."""
        if not self._failed:
            self._put_found()
            with self._noting():
                os.fsync(self._descriptor)

    def _put_found(self) -> None:
        if self._waiting:
            paths, self._waiting = self._waiting, []
            self._count += len(paths)
            self._put({FOUND: paths})

    def _put(self, data: Mapping[str, Any]) -> None:
        with self._noting():
            self._write(json.dumps(data).encode() + b"\n")
            now = time.monotonic()
            if now - self._synced >= _SYNC:
                os.fsync(self._descriptor)
                self._synced = now

    def _write(self, line: bytes) -> None:
        """Append a line as a whole, or not at all: also if the disk is full, or a signal comes."""
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            self._end += len(line)
        except BaseException:
            os.ftruncate(self._descriptor, self._end)
            raise

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Note that the file failed, and explain why."""
        try:
            with _explained(self._path, "so the run stopped; make room or give another name, and run it again"):
                yield
        except CannotWrite:
            self._failed = True
            raise


@contextlib.contextmanager
def _explained(path: Path, way: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise CannotWrite(f"the report cannot be written ({reason}), {way}").about(path) from error


def _check_plain(path: Path) -> None:
    """Refuse a name that means something else than a plain file: also a link, which could lead to any file."""
    if path.is_symlink():
        raise NotAReport("it is a symbolic link; give --report the path that it leads to")
    if path.exists() and not path.is_file():
        raise NotAReport("it is no plain file, so it cannot hold a report; give --report another name")


def _remove_torn(descriptor: int, path: Path) -> None:
    """Remove a last line that was not written to its end from a report; refuse another file."""
    start = os.pread(descriptor, 64, 0)
    end = _end_of_lines(descriptor) if MARK.startswith(start[: len(MARK)]) else -1
    first = _FIRST.match(start)
    if end < 0 or (end and first is None):
        raise NotAReport("it holds something else than a report, and nothing was changed; give --report another name")
    if first is not None:
        check_format(int(first[1]), os.fspath(path))
    os.ftruncate(descriptor, end)


def _end_of_lines(descriptor: int) -> int:
    """Return the offset after the last line of a file that has an end."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - _BLOCK)
        at = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
