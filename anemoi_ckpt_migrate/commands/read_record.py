"""The record of a checkpoint, for commands that only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.storage import FileInfo, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.project import Project


class Standing(NamedTuple):
    """The record of a checkpoint, and facts about its file.

    Attributes
    ----------
    record : Record or None
        The record; None if there is none, and the checkpoint is not recognised.
    file : FileInfo
        Facts about the file.
    notes : tuple of str
        How it was recognised, if that was necessary.
    """

    record: Record | None
    file: FileInfo
    notes: tuple[str, ...] = ()


def read_record(checkpoint: StrPath, chain: str | None = None) -> Record | None:
    """Return the record of a checkpoint, for one chain or for all; None if it has none.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    return read_standing(checkpoint, chain).record


def read_standing(checkpoint: StrPath, chain: str | None = None) -> Standing:
    """Return the record of a checkpoint, for one chain or for all, and facts about its file.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    with annotate_errors(checkpoint), open_checkpoint(checkpoint) as file:
        record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
        found = record if record is None or chain is None else record.of_chain(chain)
        return Standing(found, file.facts())


def standing(checkpoint: StrPath, project: Project) -> Standing:
    """Return the record of a checkpoint for a project, or the one that commands which move it would assume.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project
        The project. Its `recognise` is run only if the checkpoint has no record of the project's revisions.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, `recognise` failed, or the list in the checkpoint contradicts the scripts.
    """
    config = project.config
    found = read_standing(checkpoint, config.chain)
    own = found.record
    if own is not None and (own.lineage or own.logs_any(project.graph, project.graph.replaced)):
        return found
    if not project.graph.known_as and config.recogniser is None:
        return found  # without imported scripts or a `recognise`, there is nothing to recognise by
    from anemoi_ckpt_migrate.runtime.recognise import recognised

    with annotate_errors(checkpoint), open_checkpoint(checkpoint, config.trusted) as file:
        tree, _ = embed.unrecorded(file)
        _, record, said = recognised(project, file, tree, own or Record().of_chain(config.chain, config.other_tool))
        return Standing(record, found.file, said) if said else found
