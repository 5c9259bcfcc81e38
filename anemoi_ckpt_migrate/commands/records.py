"""What a checkpoint remembers, for commands that only read."""

from __future__ import annotations

from anemoi_ckpt_migrate import recorder
from anemoi_ckpt_migrate.checkpoints import open_checkpoint
from anemoi_ckpt_migrate.commands.arguments import StrPath, naming
from anemoi_ckpt_migrate.commands.project import Project
from anemoi_ckpt_migrate.record import Record


def read_record(checkpoint: StrPath, chain: str | None = None) -> Record | None:
    """Return what a checkpoint remembers, of one chain or of all; None if it carries no record.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read.
    """
    with naming(checkpoint), open_checkpoint(checkpoint) as file:
        record = recorder.find(file.load(), file.attachment(recorder.ATTACHMENT))
        return record if record is None or chain is None else record.of_chain(chain)


def adopted_record(checkpoint: StrPath, project: Project) -> tuple[Record | None, tuple[str, ...]]:
    """Return what a checkpoint remembers of a project's revisions, or is taken to by what is noted in it; no code runs.

    Parameters
    ----------
    checkpoint : path
        The file.
    project : Project
        Whose revisions.

    Returns
    -------
    tuple of Record or None and tuple of str
        The record, None if there is nothing to go by; and what the user should know.

    Raises
    ------
    MigrateError
        The checkpoint cannot be read, or what is noted in it is not how the scripts go on.
    """
    chain = project.config.chain
    with naming(checkpoint), open_checkpoint(checkpoint) as file:
        tree = file.load()
        record = recorder.find(tree, file.attachment(recorder.ATTACHMENT))
        if record is not None:
            return record.of_chain(chain), ()
        if not project.graph.known_as or project.config.recogniser is not None:
            return None, ()
        # Most scripts stand for nothing of another tool, and what moves checkpoints is not needed to look at one.
        from anemoi_ckpt_migrate.commands import adopting

        entries = adopting.noted(project.graph, tree)
        if not entries:
            return None, ()
        record, said = adopting.adopted(project, tree, Record().of_chain(chain), entries)
        return record, (said,)
