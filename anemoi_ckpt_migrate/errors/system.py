"""Turn errors of the system into errors of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from anemoi_ckpt_migrate.errors.base import denied


@contextlib.contextmanager
def explain_system_errors(checkpoint: str | None = None) -> Iterator[None]:
    """Turn errors of the system (no memory, no access to a file, no library) into a sentence that names the checkpoint.

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
        explained = denied(error)
        raise explained.about(checkpoint) if checkpoint is not None else explained from error
