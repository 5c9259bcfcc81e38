"""Options of the commands that write a checkpoint, and the opening of the file that they share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.storage import FOLDER, Checkpoint, FolderOptions, check_whole, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.recover import recover
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.size_text import bytes_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime.output_options import OutputOptions
    from anemoi_ckpt_migrate.storage.url import Location


@dataclass(frozen=True)
class WriteOptions:
    """Options of a command that writes a checkpoint. Not every command has all of them.

    Attributes
    ----------
    output : Path, Url or None
        Write to this path, and leave the checkpoint unchanged.
    backup : bool
        Keep the old file.
    in_place : bool
        Write into the file, and do not move existing data.
    verify : bool
        Verify the whole file first.
    dry_run : bool
        Plan only; write nothing.
    check_model : bool
        Compare the result with the expected model before it is written.
    check_rollback : bool
        Try the rollbacks before anything is written.
    trust_checkpoint_code : bool
        Run code that the checkpoint carries, and allow names that can run code when the file is loaded.
    discard_changes : bool
        Let a rollback lose changes that were made after the upgrade.
    copy_shared : bool
        Write tensors that share memory one by one, if the format cannot share it.
    known_only : bool
        Refuse a checkpoint without a record that nothing ties to the project.
    outputs : OutputOptions or None
        Compare the outputs of the result with those before.
    folder : FolderOptions
        Options for folders of Hugging Face.
    progress : callable or None
        Called from time to time with the number of bytes copied.
    """

    output: Location | None = None
    backup: bool = True
    in_place: bool = False
    verify: bool = False
    dry_run: bool = False
    check_model: bool = True
    check_rollback: bool = False
    trust_checkpoint_code: bool = False
    discard_changes: bool = False
    copy_shared: bool = False
    known_only: bool = False
    outputs: OutputOptions | None = None
    folder: FolderOptions = FOLDER
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.in_place and self.output is not None:
            raise UsageError("--in-place writes to the checkpoint, --output to another file: leave out one")


def folder_options(hard_link: bool, max_shard_size: int | str | None) -> FolderOptions:
    """Return the options for folders of Hugging Face.

    Parameters
    ----------
    hard_link : bool
        See `FolderOptions`.
    max_shard_size : int, str or None
        The most bytes of tensors in a file: a number, or a text such as ``5GB`` or ``512MiB``.

    Raises
    ------
    UsageError
        The size is none.
    """
    size = None if max_shard_size is None else bytes_of(str(max_shard_size))
    if max_shard_size is not None and not size:
        raise UsageError(f"{max_shard_size!r:.40} is not the size of a shard; give one such as 5GB or 512MiB")
    return FolderOptions(hard_link, size)


@contextmanager
def open_to_write(checkpoint: StrPath, options: WriteOptions, trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint that is to be written. If it is to be replaced, an interrupted run is undone first.

    Parameters
    ----------
    checkpoint : path
        The file. All errors name it.
    options : WriteOptions
        The options of the command.
    trusted : collection of str
        Modules whose classes are built for real.

    Raises
    ------
    MigrateError
        The file is one of a set, cannot be opened, or is damaged.
    """
    with annotate_errors(checkpoint):
        check_whole(checkpoint)
        if options.output is None and not options.dry_run:
            recover(checkpoint)
        with open_checkpoint(checkpoint, trusted) as file:
            if options.verify:
                file.verify(options.progress)
            yield file
