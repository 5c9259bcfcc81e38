"""The record of a checkpoint, for commands that only read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.record import record_copy
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.storage import ZIP, FileSize, is_interrupted, read_copy
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.url import url_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.project import Project


class Standing(NamedTuple):
    """The record of a checkpoint, and facts about its file.

    Attributes
    ----------
    record : Record or None
        The record; None if there is none, and the checkpoint is not recognised.
    file : FileSize
        Format and size of the file.
    notes : tuple of str
        How it was recognised, if that was necessary.
    """

    record: Record | None
    file: FileSize
    notes: tuple[str, ...] = ()


def read_record(checkpoint: StrPath, chain: str | None = None) -> Record | None:
    """Return the record of a checkpoint, for one chain or for all; None if it has none.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    return read_standing(checkpoint, chain).record


def read_standing(checkpoint: StrPath, chain: str | None = None, in_short: bool = False) -> Standing:
    """Return the record of a checkpoint, for one chain or for all, and the size of its file.

    Parameters
    ----------
    checkpoint : path
        The file.
    chain : str, optional
        The chain.
    in_short : bool
        Whether heads, revisions without rollbacks, and the log are enough: for these, the structure of a torch file
        need not be read.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    if in_short and (standing := _from_copy(checkpoint, chain)) is not None:
        return standing
    from anemoi_ckpt_migrate.record import embed
    from anemoi_ckpt_migrate.storage import open_checkpoint

    with annotate_errors(checkpoint), open_checkpoint(checkpoint) as file:
        record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
        found = record if record is None or chain is None else record.of_chain(chain)
        return Standing(found, file.facts().in_short)


def _from_copy(checkpoint: StrPath, chain: str | None) -> Standing | None:
    """Return what the copy of the record tells; None if there is none that counts."""
    if url_of(checkpoint) is not None:
        return None
    with annotate_errors(checkpoint):
        path = Path(checkpoint)
        if not path.is_file() or is_interrupted(path):
            return None
        copy = read_copy(path)
        record = None if copy is None else record_copy.parsed(copy.record)
    if copy is None or record is None:
        return None
    found = record if chain is None else record.of_chain(chain)
    return Standing(found, FileSize(ZIP, copy.size, copy.dead))


def standing(checkpoint: StrPath, project: Project, in_short: bool = False) -> Standing:
    """Return the record of a checkpoint for a project, or the one that commands which move it would assume.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project
        The project. Its `recognise` is run only if the checkpoint has no record of the project's revisions.
    in_short : bool
        As for `read_standing`.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, `recognise` failed, or the list in the checkpoint contradicts the scripts.
    """
    config = project.config
    found = read_standing(checkpoint, config.chain, in_short)
    own = found.record
    if own is not None and (own.lineage or own.logs_any(project.graph, project.graph.replaced)):
        return found
    if not project.graph.known_as and config.recogniser is None:
        return found  # without imported scripts or a `recognise`, there is nothing to recognise by
    from anemoi_ckpt_migrate.record import embed
    from anemoi_ckpt_migrate.runtime.recognise import recognised
    from anemoi_ckpt_migrate.storage import open_checkpoint

    with annotate_errors(checkpoint), open_checkpoint(checkpoint, config.trusted) as file:
        tree, _ = embed.unrecorded(file)
        _, record, said = recognised(project, file, tree, own or Record().of_chain(config.chain, config.other_tool))
        return Standing(record, found.file, said) if said else found
