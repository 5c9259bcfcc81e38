"""Adopt checkpoints whose history was never written down: write the history, then stamp all that fit it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.batch.select import Selection
from anemoi_ckpt_migrate.commands.adopt_history import adopt_history
from anemoi_ckpt_migrate.commands.stamp import AUTO
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.batch.job import JobResult
    from anemoi_ckpt_migrate.commands.adopt_result import AdoptedHistory
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Adoption:
    """The result of `adopt`.

    Attributes
    ----------
    history : AdoptedHistory
        The states, and the revisions between them. If it has `doubts`, no checkpoint was stamped.
    stamped : tuple of JobResult
        The result for each checkpoint; ``result.end`` has the revisions of one that fits a state.
    """

    history: AdoptedHistory
    stamped: tuple[JobResult, ...] = ()


def adopt(
    examples: Sequence[StrPath],
    stamp: StrPath | Iterable[StrPath] | Selection = (),
    *,
    names: Sequence[str] = (),
    rev_ids: Sequence[str] = (),
    model: str | None = None,
    at: str | None = None,
    version_path: StrPath | None = None,
    accept_guesses: bool = False,
    accept_losses: bool = False,
    dry_run: bool = False,
    project: Project | StrPath | None = None,
    jobs: int = 1,
    **options: Any,
) -> Adoption:
    """Write the history of checkpoints from an example of each state, and stamp all checkpoints that fit one of them.

    First it writes a revision for each step between examples, proves it in memory on the earlier one, and records the
    parameters of each state in the manifest. Then it stamps, unless a script has doubts. The same call completes
    an interrupted one.

    Parameters
    ----------
    examples : sequence of path
        A checkpoint of each state, the oldest first.
    stamp : path, iterable of path, or Selection
        The checkpoints to stamp. Those that fit no state, or several, stay as they are.
    names, rev_ids : sequence of str
        The name and the id of the revision of each step; by default made from the examples, and random.
    model : str, optional
        The model in the manifest; by default the only one of the project, or ``model``.
    at : str, optional
        The revision of the first example; by default that of its record, or the one that the manifest finds, or base.
    version_path : path, optional
        The folder for new scripts, if the project has several.
    accept_guesses : bool
        Go on although operations are guesses or add zeros. Otherwise an author has to check them in the scripts, and
        remove the comments above them.
    accept_losses : bool
        Go on although operations lose values, so that there is no rollback.
    dry_run : bool
        Write nothing. Checkpoints are compared if the history is written already.
    project : Project or path, optional
        The project; by default that of the current folder. `init` makes one.
    jobs : int
        The number of processes that stamp, as for `migrate_all`.
    **options
        Other arguments of `stamp`, such as ``backup`` or ``in_place``.

    Returns
    -------
    Adoption
        The history, and the result for each checkpoint.

    Raises
    ------
    UsageError
        There are too few examples, two of the same state, or arguments that do not go together.
    Refused
        The first example is at no revision of the project; or a script does not lead from one example to the next, or
        not back.
    MigrateError
        An example or the project cannot be read, a script cannot be written, or nothing was found to stamp.

    Examples
    --------
    >>> runs = Selection(("runs",), recursive=True)
    >>> adopted = adopt(["old.ckpt", "middle.ckpt", "new.ckpt"], runs)
    >>> adopted.history.doubts
    ('versions/3f2a9c1b7d10_old_to_middle.py: 2 operations to check, which are guesses or add zeros: ...',)
    """
    history = adopt_history(
        examples,
        names=names,
        rev_ids=rev_ids,
        model=model,
        at=at,
        version_path=version_path,
        accept_guesses=accept_guesses,
        accept_losses=accept_losses,
        dry_run=dry_run,
        project=project,
    )
    if isinstance(stamp, (str, os.PathLike)):
        stamp = (stamp,)
    chosen = stamp if isinstance(stamp, Selection) else tuple(stamp)
    if history.doubts or not history.written or not chosen:
        return Adoption(history)
    where = history.config  # opened anew, since it has new scripts
    results = migrate_all(
        chosen, AUTO, command="stamp", project=where, jobs=jobs, dry_run=dry_run, keep_record=True, **options
    )
    return Adoption(history, tuple(results))
