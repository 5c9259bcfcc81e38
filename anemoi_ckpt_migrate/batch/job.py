"""The work on one checkpoint of many, as a function that a process pool or a cluster can run."""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anemoi_ckpt_migrate.batch.select import Chosen
from anemoi_ckpt_migrate.errors import (
    ERROR,
    Crashed,
    ForeignFile,
    HasRecord,
    MigrateError,
    NoConfiguration,
    NotACheckpoint,
    Refused,
    Unrelated,
    explain_system_errors,
)
from anemoi_ckpt_migrate.project.project import Project, open_chain, open_project
from anemoi_ckpt_migrate.storage import FolderListings, folders_listed_once, remove_left

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


class Printable(Protocol):
    """The result of a command."""

    def to_data(self) -> Any:
        """Return the data that ``--json`` prints."""


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
        What scripts printed meanwhile.
    """

    checkpoint: str
    status: str
    result: Any = None
    error: MigrateError | None = None
    size: int = 0
    seconds: float = 0.0
    printed: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code of the command line for this checkpoint alone."""
        return self.error.exit_code if self.error is not None and self.status != UNRELATED else 0

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints: that of the command, or the error."""
        if self.error is None:
            return dict(self.result.to_data())
        kind = {"type": type(self.error).__name__, "message": self.error.sentence}
        return {"checkpoint": self.checkpoint, "status": self.status, "error": kind}


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
        if error is None:
            try:
                with (
                    _hearing(printed),
                    explain_system_errors(chosen.path),
                    _working_in(self.folder),
                    folders_listed_once(_LISTINGS),
                ):
                    result = self._run(chosen)
                status = MOVED if _has_moved(result) else SAME
            except MigrateError as raised:
                error = raised
            except Exception as raised:  # a fault of this package must not end the work on the other files
                error = Crashed(f"{type(raised).__name__}: {raised}", traceback.format_exc()).about(chosen.path)
        if error is not None:
            status = self._status_of(error, chosen)
        seconds = time.perf_counter() - begun
        return JobResult(chosen.path, status, result, error, chosen.size, seconds, printed.getvalue())

    def _run(self, chosen: Chosen) -> Any:
        command = getattr(importlib.import_module(f"anemoi_ckpt_migrate.commands.{self.command}"), self.command)
        options = dict(self.options)
        if self.command in _OF_PROJECT:
            options["project"] = self._project()
        if self.command in _KNOWS:
            options["known_only"] = not chosen.named
        if self.output is not None:
            options["output"] = place = os.path.join(self.output, chosen.relative)
            os.makedirs(os.path.dirname(place), exist_ok=True)
        found = command(chosen.path, **options)
        if chosen.left and self.command in _WRITES and self.output is None and not self.options.get("dry_run"):
            remove_left(Path(chosen.path))
        return found

    def _project(self) -> Project | None:
        try:
            return project_of(self.config, self.chain, self.call)
        except NoConfiguration:
            if self.needs_project:
                raise
            return None

    def _status_of(self, error: MigrateError, chosen: Chosen) -> str:
        if not chosen.named and (isinstance(error, (Unrelated, ForeignFile)) or _says_nothing(error, chosen.path)):
            return UNRELATED
        if isinstance(error, HasRecord) and not chosen.named:
            return SAME
        return REFUSED if error.exit_code not in (ERROR,) or isinstance(error, Refused) else FAILED


def run_job(job: Job, chosen: Chosen) -> JobResult:
    """Run a job on one checkpoint: a function that can be sent to another process."""
    return job.run(chosen)


@functools.lru_cache(maxsize=4)
def project_of(config: str | None, chain: str | None, call: str = "") -> Project:
    """Return the project of a configuration or a chain, whose scripts are read once in this process for each call."""
    return open_chain(chain) if chain is not None else open_project(config)


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


def _has_moved(result: Any) -> bool:
    """Return whether a command wrote the checkpoint, or would have without ``--dry-run``."""
    if getattr(result, "written", None) is None and not getattr(result, "dry_run", False):
        return False
    return bool(getattr(result, "steps", True)) or bool(getattr(result, "recorded", True))


def _says_nothing(error: MigrateError, path: str) -> bool:
    """Return whether a file is no checkpoint, and neither its name nor its content says that it should be one."""
    return type(error) is NotACheckpoint and not path.endswith(_TELLING)
