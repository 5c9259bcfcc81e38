"""Shrink a checkpoint that was changed in place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.record import embed, record_copy
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, open_to_write
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage import Checkpoint


@dataclass(frozen=True)
class Compacted:
    """The result of `compact`.

    Attributes
    ----------
    checkpoint : str
        The file.
    before, after : int
        Its length in bytes, before and after.
    written, backup : str or None
        The new file, and the backup of the old one; None if there was nothing to gain or no backup was kept.
    """

    checkpoint: str
    before: int
    after: int
    written: str | None
    backup: str | None

    @property
    def changes(self) -> bool:
        """Whether the file was written."""
        return self.written is not None

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return asdict(self)


def compact(
    checkpoint: StrPath,
    *,
    output: StrPath | None = None,
    backup: bool = True,
    verify: bool = False,
    progress: Progress | None = None,
) -> Compacted:
    """Rewrite a checkpoint without the unused bytes of in-place changes, and with a true copy of its record.

    These bytes hold the earlier states of the file, which `downgrade` could restore directly; they are lost. Rollbacks
    stay.

    Parameters
    ----------
    checkpoint : path
        The file.
    output : path, optional
        Write to this path, and leave the checkpoint unchanged.
    backup : bool
        Keep the old file beside the new one.
    verify : bool
        First check the CRC of every entry of the file.
    progress : callable, optional
        Called from time to time with the number of bytes copied.

    Raises
    ------
    MigrateError
        The checkpoint cannot be rewritten; nothing was changed.
    """
    options = WriteOptions(output=checked_output(output), backup=backup, verify=verify, progress=progress)
    with open_to_write(checkpoint, options) as file:
        before, copy = file.length, _copy(file)
        if options.output is None and not file.dead and copy is None:
            return Compacted(os.fspath(checkpoint), before, before, None, None)
        written = file.rewrite(options.output, backup, progress, copy)
        backup_path = None if written.backup is None else os.fspath(written.backup)
        with open_checkpoint(written.path) as new:
            after = new.length
        return Compacted(os.fspath(checkpoint), before, after, os.fspath(written.path), backup_path)


def _copy(file: Checkpoint) -> bytes | None:
    """Return a new copy of the record if the one in the file tells something else than the record; else None."""
    if file.record_copy is None:
        return None
    record = embed.take(file.load(), file.attachment(embed.ATTACHMENT))
    return record_copy.spelled(record) if record_copy.differs(file, record) else None
