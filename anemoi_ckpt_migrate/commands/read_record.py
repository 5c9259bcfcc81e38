"""The record of a checkpoint, for commands that only read."""

from __future__ import annotations

from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors


def read_record(checkpoint: StrPath, chain: str | None = None) -> Record | None:
    """Return the record of a checkpoint, for one chain or for all; None if it has none.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    with annotate_errors(checkpoint), open_checkpoint(checkpoint) as file:
        record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
        return record if record is None or chain is None else record.of_chain(chain)


def standing(checkpoint: StrPath, project: Project) -> tuple[Record | None, tuple[str, ...]]:
    """Return the record of a checkpoint for a project, or the one that commands which move it would assume.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project
        The project. Its `recognise` is run only if the checkpoint has no record of the project's revisions.

    Returns
    -------
    tuple of Record or None and tuple of str
        The record; None if there is none and the checkpoint is not recognised. Then, if it was recognised, a sentence
        about the way.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, `recognise` failed, or the list in the checkpoint contradicts the scripts.
    """
    config = project.config
    found = read_record(checkpoint, config.chain)
    if found is not None and (found.lineage or found.log):
        return found, ()
    if not project.graph.known_as and config.recogniser is None:
        return found, ()  # without imported scripts or a `recognise`, there is nothing to recognise by
    from anemoi_ckpt_migrate.runtime.recognise import recognised

    with annotate_errors(checkpoint), open_checkpoint(checkpoint, config.trusted) as file:
        tree, _ = embed.unrecorded(file)
        _, record, said = recognised(project, file, tree, found or Record().of_chain(config.chain, config.other_tool))
        return (record, said) if said else (found, ())
