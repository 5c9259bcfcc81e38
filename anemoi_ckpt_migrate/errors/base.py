"""The base of all errors: a sentence, an exit code, and the checkpoint concerned."""

from __future__ import annotations

import copyreg
import errno
import os
from typing import Any

ERROR, USAGE, REFUSED, PENDING = 1, 2, 3, 4
# Messages of the dynamic linker if there is no memory for a library.
_NO_MEMORY = ("cannot allocate", "failed to map segment")
# Of others, the name to install may be another than the name to import.
_LIBRARIES = ("cloudpickle", "fsspec", "mako", "networkx", "packaging", "rich", "tomli", "torch")


def shown_path(path: str) -> str:
    """Return a path for messages: relative if that is shorter."""
    if path.startswith("<") or "://" in path:
        return path
    try:
        return min(path, os.path.relpath(path), key=len)
    except FileNotFoundError:  # the current folder was removed
        return path


class MigrateError(Exception):
    """An error that the user can fix.

    Attributes
    ----------
    exit_code : int
        The exit code of the command line.
    sentence : str
        The error and the way out.
    checkpoint : str or None
        The checkpoint concerned.
    lines : bool
        Whether the message has several lines.
    """

    exit_code = ERROR
    lines = False

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.checkpoint: str | None = None

    def about(self, checkpoint: str | os.PathLike[str]) -> MigrateError:
        """Set the checkpoint concerned, unless it is set, and return the error."""
        self.checkpoint = self.checkpoint or os.fspath(checkpoint)
        return self

    def __str__(self) -> str:
        return f"{self.checkpoint}: {self.sentence}" if self.checkpoint else self.sentence

    def to_data(self) -> dict[str, str]:
        """Return the data that ``--json`` prints."""
        return {"type": type(self).__name__, "message": self.sentence}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by fields, as a process pool needs: constructors take other arguments than the message."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class OutOfMemory(MigrateError):
    """The system has no more memory for this process."""

    def __init__(self, why: str = "") -> None:
        self.why = why
        super().__init__(
            f"not enough memory{f' ({why})' if why else ''}; free some, or raise the limit of this process "
            "(`ulimit -v`), and run the command again"
        )


class NoLibrary(MigrateError):
    """A library that a command needs cannot be imported."""

    def __init__(self, library: str, why: str) -> None:
        self.library, self.why = library, why
        way = f"run `pip install {library}`" if library in _LIBRARIES else "install it"
        super().__init__(f"this needs {library}, which cannot be imported ({why}); {way}")


class SystemRefused(MigrateError):
    """A system call failed, for a reason without an error class of its own."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason, self.path = reason, path
        super().__init__(f"{f'{shown_path(path)}: ' if path else ''}a system call failed ({reason})")


class CannotPrint(MigrateError):
    """The output cannot be written; all other work is done."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cannot write the output ({reason}); everything else is done")


class UsageError(MigrateError):
    """Arguments of the command line or of a function make no sense."""

    exit_code = USAGE


class BadTarget(UsageError):
    """A target cannot be parsed. The message shows the target with the wrong part underlined.

    Parameters
    ----------
    text : str
        The target.
    begin, end : int
        The range of the wrong part.
    what : str
        The fault.
    """

    lines = True

    def __init__(self, text: str, begin: int, end: int, what: str) -> None:
        self.text, self.begin, self.end = text, begin, end
        pointed = f"{' ' * begin}{'^' * max(end - begin, 1)}"
        shown = text.replace("\n", " ")
        super().__init__(f"{what}\n    {shown}\n    {pointed}" if text else what)


class Refused(MigrateError):
    """Nothing is broken, but the action is not allowed."""

    exit_code = REFUSED


class ConfigurationError(MigrateError):
    """The project's configuration is wrong."""


class NoConfiguration(ConfigurationError):
    """There is no configuration, so there is no project."""


class Crashed(MigrateError):
    """A fault of this package."""

    def __init__(self, what: str, trace: str = "") -> None:
        self.what, self.trace = what, trace
        super().__init__(f"a fault of ckpt-migrate ({what}); the file is unchanged; please report it, with -v")


class CannotStart(MigrateError):
    """Processes for the work cannot be started."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f'processes end before they begin ({why}); call this from a file, under `if __name__ == "__main__"`, or '
            "with one process (nothing was changed)"
        )


class WorkerDied(MigrateError):
    """The process that worked on a checkpoint died."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the process that worked on it died ({why}); the file is the old one or the new one, whole")


class ExecutorFailed(MigrateError):
    """An executor gave no result: its workers died, or it takes no more work."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the executor gave no result ({why}); the file is the old one or the new one, whole: run it again"
        )


class Interrupted(MigrateError):
    """The run was interrupted before the checkpoint was done."""

    def __init__(self, _: str = "") -> None:
        super().__init__("the run was interrupted; the file is the old one or the new one, whole: run it again")


class NoClusterLibrary(MigrateError):
    """The library of a cluster is not installed."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"--dask needs {what}, which cannot be imported; run `pip install 'ckpt-migrate[dask]'`")


class NoCluster(MigrateError):
    """A cluster cannot be used, and nothing was begun."""

    def __init__(self, address: str, why: str) -> None:
        self.address, self.why = address, why
        super().__init__(f"the Dask cluster at {address} cannot be used: {why} (nothing was changed)")


def denied(error: MemoryError | ImportError | OSError, library: str = "") -> MigrateError:
    """Return the error to raise instead of one of the system.

    Parameters
    ----------
    error : MemoryError, ImportError or OSError
        An error of the system.
    library : str
        The library that was imported, if `error` is about an import and may not name it.
    """
    said = str(error).strip()
    if isinstance(error, MemoryError):
        return OutOfMemory()
    if getattr(error, "errno", None) == errno.ENOMEM or any(words in said.lower() for words in _NO_MEMORY):
        return OutOfMemory(said)
    if isinstance(error, ImportError) or library:
        name = library or (getattr(error, "name", None) or "a library").partition(".")[0]
        return NoLibrary(name, said.partition("\n")[0])
    return SystemRefused(error.strerror or said, os.fsdecode(error.filename or ""))
