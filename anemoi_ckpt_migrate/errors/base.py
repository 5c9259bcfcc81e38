"""What every error has: a sentence, an exit code, the file it is about."""

from __future__ import annotations

import copyreg
import os
from typing import Any

ERROR, USAGE, REFUSED, PENDING = 1, 2, 3, 4


def shown_path(path: str) -> str:
    """Return a path as messages show it: relative where that is shorter."""
    if path.startswith("<"):
        return path
    try:
        return min(path, os.path.relpath(path), key=len)
    except FileNotFoundError:  # the current folder was removed
        return path


class MigrateError(Exception):
    """Something is wrong that the user can put right.

    Attributes
    ----------
    exit_code : int
        What the command line exits with.
    sentence : str
        What happened and the way out.
    checkpoint : str or None
        The file it is about.
    lines : bool
        Whether the sentence goes on over several lines.
    """

    exit_code = ERROR
    lines = False

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.checkpoint: str | None = None

    def about(self, checkpoint: str | os.PathLike[str]) -> MigrateError:
        """Say which checkpoint the error is about, and return the error."""
        self.checkpoint = self.checkpoint or os.fspath(checkpoint)
        return self

    def __str__(self) -> str:
        return f"{self.checkpoint}: {self.sentence}" if self.checkpoint else self.sentence

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled and copied by fields: a process pool hands errors on, and a constructor wants other arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class OutOfMemory(MigrateError):
    """The system has no more memory for this process."""

    def __init__(self, why: str = "") -> None:
        self.why = why
        super().__init__(
            f"there is not enough memory{f' ({why})' if why else ''}; free some, or raise the limit of this process "
            "(`ulimit -v`), and run the command again"
        )


class SystemRefused(MigrateError):
    """A call of the system failed where that has no meaning of its own."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason, self.path = reason, path
        super().__init__(f"{f'{shown_path(path)}: ' if path else ''}the system refused ({reason})")


class CannotPrint(MigrateError):
    """The output does not take what is printed; the rest is done."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the output cannot be written ({reason}); the rest is done")


class UsageError(MigrateError):
    """The command line, or the arguments of a function, make no sense."""

    exit_code = USAGE


class BadTarget(UsageError):
    """A target that cannot be parsed; the sentence is followed by the target with the wrong part underlined.

    Parameters
    ----------
    text : str
        The target.
    begin, end : int
        Where in it the wrong part is.
    what : str
        What is wrong with it.
    """

    lines = True

    def __init__(self, text: str, begin: int, end: int, what: str) -> None:
        self.text, self.begin, self.end = text, begin, end
        pointed = f"{' ' * begin}{'^' * max(end - begin, 1)}"
        shown = text.replace("\n", " ")
        super().__init__(f"{what}\n    {shown}\n    {pointed}" if text else what)


class Refused(MigrateError):
    """Nothing is broken, but it must not be done."""

    exit_code = REFUSED


class ConfigurationError(MigrateError):
    """The project's configuration is wrong."""


class NoConfiguration(ConfigurationError):
    """There is no project here."""
