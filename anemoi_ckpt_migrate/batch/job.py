"""The work on one checkpoint of many, as a function that a process pool or a cluster can run."""

from __future__ import annotations

import contextlib
import filecmp
import functools
import importlib
import io
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import (
    ERROR,
    CannotWrite,
    Crashed,
    ForeignFile,
    HasRecord,
    MigrateError,
    NoConfiguration,
    Refused,
    UnknownContent,
    Unrelated,
    explain_system_errors,
    shown_path,
)
from anemoi_ckpt_migrate.project.project import Project, open_chain, open_project
from anemoi_ckpt_migrate.scripts.source import scripts_read_once
from anemoi_ckpt_migrate.storage import FolderListings, folders_listed_once, remove_left
from anemoi_ckpt_migrate.util.dataclass import dataclass, field, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.select import Chosen

MOVED, SAME, UNRELATED, REFUSED, FAILED, INTERRUPTED = "moved", "same", "unrelated", "refused", "failed", "interrupted"
"""What became of a checkpoint: it was written, had nothing to do, is not of the project, was refused, failed; or the
run was interrupted before it was done."""
STATUSES = (MOVED, SAME, UNRELATED, REFUSED, FAILED, INTERRUPTED)
_WRITES = frozenset({"upgrade", "downgrade", "sync", "stamp", "compact"})
_KNOWS = frozenset({"upgrade", "downgrade", "sync", "stamp", "check_checkpoint"})
_OF_PROJECT = _KNOWS | {"current", "inspect"}
_TELLING = (".ckpt", ".pt", ".pth", ".safetensors")
_LISTINGS = FolderListings(seconds=10.0)  # of this process
_TURN = threading.Lock()


@dataclass(frozen=True)
class JobResult:
    """What became of one checkpoint.

    Attributes
    ----------
    checkpoint : str
        Its path.
    status : str
        One of `STATUSES`.
    result : object or None
        The result of the command, for example a `Result`.
    error : MigrateError or None
        Why there is none.
    size : int
        Bytes of the file or folder; 0 if unknown.
    seconds : float
        How long the work took.
    printed : str
        The text that scripts printed meanwhile.
    same_as : str
        The other path by which it is in the call; nothing was done under this one, so there is no result.
    """

    checkpoint: str
    status: str
    result: Any = None
    error: MigrateError | None = None
    size: int = 0
    seconds: float = 0.0
    printed: str = ""
    same_as: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code of the command line for this checkpoint alone."""
        return self.error.exit_code if self.error is not None and self.status not in (UNRELATED, SAME) else 0

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints: that of the command, or the error."""
        if self.same_as:
            return {"checkpoint": self.checkpoint, "status": self.status, "same_as": self.same_as}
        if self.error is None:
            return dict(self.result.to_data())
        return {"checkpoint": self.checkpoint, "status": self.status, "error": self.error.to_data()}


@dataclass(frozen=True)
class Job:
    """A command with its arguments, to be run on one checkpoint after the other, perhaps in another process.

    Attributes
    ----------
    command : str
        The name of a command that takes one checkpoint: ``upgrade``, ``downgrade``, ``sync``, ``stamp``, ``compact``,
        ``current``...
    options : mapping
        Its arguments by name, without ``checkpoint`` and ``project``.
    config, chain : str or None
        Where the scripts are: the configuration, or a published chain. Each process reads them once.
    needs_project : bool
        Whether there has to be a project.
    output : str or None
        A folder in which results have the same relative paths; nothing else is written.
    folder : str
        The current folder of the caller, which relative paths are below.
    call : str
        Tells this call from others: a process that serves several reads the scripts anew for each.
    """

    command: str
    options: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    chain: str | None = None
    needs_project: bool = True
    output: str | None = None
    folder: str = field(default_factory=lambda: _current_folder())
    call: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def needed(self) -> list[str]:
        """The files that every process has to see."""
        return [] if self.config is None else [self.config]

    def run(self, chosen: Chosen) -> JobResult:
        """Run the command on one checkpoint. Every error is part of the result.

        The current folder, the recursion limit and the filters of warnings belong to a whole process, so its threads
        take turns.
        """
        with _TURN:
            return self._result(chosen)

    def _result(self, chosen: Chosen) -> JobResult:
        begun, printed = time.perf_counter(), io.StringIO()
        status, result, error = SAME, None, chosen.error
        if chosen.same_as:
            return JobResult(chosen.path, SAME, size=chosen.size, same_as=chosen.same_as)
        if error is None:
            try:
                with (
                    _hearing(printed),
                    explain_system_errors(chosen.path),
                    _working_in(self.folder),
                    folders_listed_once(_LISTINGS),
                    scripts_read_once(_sources_of(self.call)),
                ):
                    result = self._run(chosen)
                status = MOVED if getattr(result, "changes", False) else SAME
            except MigrateError as raised:
                error = raised
            except Exception as raised:  # a fault of this package must not end the work on the other files
                error = Crashed(f"{type(raised).__name__}: {raised}", traceback.format_exc())
        if error is not None:
            status = self._status_of(error.about(chosen.path), chosen)
        seconds = time.perf_counter() - begun
        return JobResult(chosen.path, status, result, error, chosen.size, seconds, printed.getvalue())

    def _run(self, chosen: Chosen) -> Any:
        options: dict[str, Any] = {"known_only": not chosen.named} if self.command in _KNOWS else {}
        if self.output is not None:
            return self._into_output(chosen, os.path.join(self.output, chosen.relative), options)
        found = self._call(chosen.path, **options)
        if chosen.left and self.command in _WRITES and not self.options.get("dry_run"):
            remove_left(Path(chosen.path))
        return found

    def project(self) -> Project | None:
        """Return the project, whose scripts this process reads once; None if there is none, and none is needed."""
        try:
            return _project_of(self.config, self.chain, self.call)
        except NoConfiguration:
            if self.needs_project:
                raise
            return None

    def _call(self, path: str, **options: Any) -> Any:
        """Run the command on a path, with further options."""
        command = getattr(importlib.import_module(f"anemoi_ckpt_migrate.commands.{self.command}"), self.command)
        project = {"project": self.project()} if self.command in _OF_PROJECT else {}
        return command(path, **{**self.options, **project, **options})

    def _into_output(self, chosen: Chosen, place: str, options: Mapping[str, Any]) -> Any:
        """Write the result to its place, unless it is there already.

        Raises
        ------
        CannotWrite
            There is something else.
        MigrateError
            As for the command.
        """
        if not os.path.lexists(place):
            if self.options.get("dry_run"):
                return self._call(chosen.path, **options)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            return self._call(chosen.path, output=place, **options)
        # A dry run tells the end of the plan for the checkpoint, and whether its place needs a step.
        wanted = self._call(chosen.path, **options, dry_run=True)
        there = self._at_place(place)
        if there is not None and there.start == wanted.end and not there.steps:
            if os.stat(place).st_nlink > 1 and not self.options.get("dry_run"):
                remove_left(Path(place))  # a run ended before it removed its temporary name
            return replace(wanted, start=there.start, steps=(), recorded=False, dry_run=False)
        if chosen.inside and same_content(chosen.path, place):  # the outer checkpoint was copied with all in its folder
            return replace(self._call(place, **options, backup=False), checkpoint=chosen.path)
        raise CannotWrite(f"{shown_path(place)} exists already, and is something else; remove it, or write elsewhere")

    def _at_place(self, place: str) -> Any:
        """Return the plan for an earlier result; None if it is no checkpoint, or none for this project."""
        try:
            return self._call(place, dry_run=True)
        except MigrateError:
            return None

    def _status_of(self, error: MigrateError, chosen: Chosen) -> str:
        if not chosen.named and (isinstance(error, (Unrelated, ForeignFile)) or _says_nothing(error, chosen.path)):
            return UNRELATED
        if isinstance(error, HasRecord) and not chosen.named:
            return SAME
        return REFUSED if error.exit_code not in (ERROR,) or isinstance(error, Refused) else FAILED


@functools.lru_cache(maxsize=4)
def _project_of(config: str | None, chain: str | None, call: str) -> Project:
    """Return the project of a configuration or a chain, whose scripts are read once in this process for each call."""
    return open_chain(chain) if chain is not None else open_project(config)


@functools.lru_cache(maxsize=4)
def _sources_of(call: str) -> dict[str, str]:
    """Return the scripts that this process has read for a call."""
    return {}


class _Stdout:
    """A standard output that collects what this thread writes; what others write goes where it went."""

    def __init__(self, collected: io.StringIO, others: Any) -> None:
        self._thread, self._collected, self._others = threading.get_ident(), collected, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collected if threading.get_ident() == self._thread else self._others, name)


@contextlib.contextmanager
def _hearing(collected: io.StringIO) -> Iterator[None]:
    """Collect what this thread prints."""
    before = sys.stdout
    sys.stdout = ours = _Stdout(collected, before)
    try:
        yield
    finally:
        if sys.stdout is ours:  # else another thread has redirected it meanwhile
            sys.stdout = before


def _current_folder() -> str:
    """Return the current folder; nothing if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _working_in(folder: str) -> Iterator[None]:
    """Make a folder the current one. A process of the same call is there already."""
    before = _current_folder()
    if folder in (before, ""):
        yield
        return
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before or os.sep)


def _says_nothing(error: MigrateError, path: str) -> bool:
    """Return whether a file is no checkpoint, and neither its name nor its content says that it should be one."""
    return isinstance(error, UnknownContent) and not path.endswith(_TELLING)


def same_content(one: str, other: str) -> bool:
    """Return whether two files have the same bytes, or two folders the same files."""
    if not os.path.isdir(one):
        return os.path.isfile(other) and filecmp.cmp(one, other, shallow=False)
    compared = filecmp.dircmp(one, other, ignore=[], hide=[os.curdir, os.pardir])
    if not os.path.isdir(other) or compared.left_only or compared.right_only:
        return False
    return all(same_content(os.path.join(one, name), os.path.join(other, name)) for name in compared.common)
