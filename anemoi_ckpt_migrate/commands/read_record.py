"""What a checkpoint remembers, for commands that only read."""

from __future__ import annotations

from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, naming


def read_record(checkpoint: StrPath, chain: str | None = None) -> Record | None:
    """Return what a checkpoint remembers, of one chain or of all; None if it carries no record.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    with naming(checkpoint), open_checkpoint(checkpoint) as file:
        record = embed.find(file.load(), file.attachment(embed.ATTACHMENT))
        return record if record is None or chain is None else record.of_chain(chain)


def standing(checkpoint: StrPath, project: Project) -> tuple[Record | None, tuple[str, ...]]:
    """Return what a checkpoint remembers of a project's revisions, or is taken to by commands that move it.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project
        Whose revisions. Only if the checkpoint has no record of them, its `recognise` is run.

    Returns
    -------
    tuple of Record or None and tuple of str
        The record, None if there is nothing to go by; and, where it is not recorded but recognised, how.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, or not recognised; or what is noted in it is not how the scripts go on.
    """
    config = project.config
    found = read_record(checkpoint, config.chain)
    if found is not None and (found.lineage or found.log):
        return found, ()
    if not project.graph.known_as and config.recogniser is None:
        return found, ()  # most scripts know of nothing else, and what recognises is not needed
    from anemoi_ckpt_migrate.runtime.recognise import recognised

    with naming(checkpoint), open_checkpoint(checkpoint, config.trusted) as file:
        tree, _ = embed.unrecorded(file)
        _, record, said = recognised(project, file, tree, found or Record().of_chain(config.chain))
        return (record, said) if said else (found, ())
