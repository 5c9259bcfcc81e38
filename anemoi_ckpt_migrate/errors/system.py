"""Turn errors of the system into errors of this package."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from anemoi_ckpt_migrate.errors.base import MigrateError, OutOfMemory, SystemRefused

# Messages of the dynamic linker if there is no memory for a library.
_NO_MEMORY = ("cannot allocate", "failed to map segment")


@contextlib.contextmanager
def explain_system_errors(checkpoint: str | None = None) -> Iterator[None]:
    """Turn errors of the system (no memory, no access to a file) into one sentence that names the checkpoint.

    Raises
    ------
    MigrateError
        The system denied something.
    """
    try:
        yield
    except BrokenPipeError:  # the reader closed the pipe
        raise
    except (MemoryError, ImportError, OSError) as error:
        denied = _denied(error)
        if denied is None:
            raise
        raise denied.about(checkpoint) if checkpoint is not None else denied from error


def _denied(error: MemoryError | ImportError | OSError) -> MigrateError | None:
    """Return the error to raise instead; None for an import that failed for another reason."""
    if isinstance(error, MemoryError):
        return OutOfMemory()
    if getattr(error, "errno", None) == errno.ENOMEM or any(message in str(error).lower() for message in _NO_MEMORY):
        return OutOfMemory(str(error))
    if isinstance(error, ImportError):
        return None
    return SystemRefused(error.strerror or str(error), os.fsdecode(error.filename or ""))
