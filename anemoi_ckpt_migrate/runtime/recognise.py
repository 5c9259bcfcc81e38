"""Recognise an unstamped checkpoint by its contents, or by the list that another tool left in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import MigrationFailed, RecogniseFailed
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.runtime import adopt_list
from anemoi_ckpt_migrate.scripts.load_functions import failure, load_source
from anemoi_ckpt_migrate.util.gc_pause import resumed as gc_resumed

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.record.record import Record
    from anemoi_ckpt_migrate.storage import Checkpoint


def recognised(project: Project, file: Checkpoint, tree: Any, record: Record) -> tuple[Any, Record, tuple[str, ...]]:
    """Return the record of a checkpoint, or a derived record if it has none and the scripts recognise it.

    A record of other chains alone counts as none: the checkpoint may be at any revision of this one.

    Parameters
    ----------
    project : Project
        The project that holds the scripts.
    file : Checkpoint
        The open checkpoint.
    tree : object
        Its tree.
    record : Record
        Its record.

    Returns
    -------
    tuple of object, Record and tuple of str
        The tree (a new one if it was loaded again), the record, and notes for the user.

    Raises
    ------
    MigrationFailed, Refused
        The `recognise` function refuses the checkpoint, or is faulty.
    LedgerConflict, DamagedLedger
        The list that another tool left does not match the scripts, or is not a list.
    """
    entries = adopt_list.noted(project, tree)
    if record.lineage or record.logs_any(project.graph, project.graph.replaced):
        adopt_list.check_noted(project, record, entries)
        return tree, record, ()
    path = project.config.recogniser
    revision = None
    if path is not None:
        revision = _asked(path, file)
        if revision is not None and revision not in project.graph and revision not in project.graph.replaced:
            what = f"`recognise` returned {revision!r:.60}, but no revision has this id"
            raise MigrationFailed(str(path), None, what)
        tree, _ = embed.unrecorded(file)  # stand-ins of the earlier tree no longer report requests for content
    if revision is None and not entries:
        return tree, record, ()
    record, note = adopt_list.adopted(project, tree, record, entries, revision)
    return tree, record, (note,)


def _asked(path: Path, file: Checkpoint) -> Any:
    """Run the function on a separate tree, so that its changes have no effect."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MigrationFailed(str(path), None, f"it cannot be read ({error})") from error
    function: Callable[[Any], Any] | None = getattr(load_source(source, "recognise", str(path)), "recognise", None)
    if not callable(function):
        raise MigrationFailed(str(path), None, "`recognise` is not a function")
    try:
        tree, _ = embed.unrecorded(file)
        with gc_resumed():
            found = function(tree)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the code is the user's
        raised = failure(error, str(path), "`recognise`", function)
        if isinstance(raised, MigrationFailed):
            raised = RecogniseFailed(raised.where, raised.line, raised.what)
        raise raised from error
    if file.touched:
        raise MigrationFailed(str(path), None, "`recognise` may read names, shapes and dtypes, but no values")
    return found
