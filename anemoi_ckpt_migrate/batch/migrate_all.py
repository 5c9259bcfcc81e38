"""Migrate many checkpoints in one call: the function behind the options of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.batch.job import Job, JobResult
from anemoi_ckpt_migrate.batch.pool import Attention, check_repeatable, runner
from anemoi_ckpt_migrate.batch.select import Selection
from anemoi_ckpt_migrate.errors import AmbiguousTarget, MigrateError, NoRelease, SeveralHeads, UnknownTarget
from anemoi_ckpt_migrate.project.config import find_config
from anemoi_ckpt_migrate.project.project import Project, project_or_chain
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.revisions.expand_squashed import expand_squashed_for
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def migrate_all(
    paths: Iterable[StrPath] | Selection,
    target: str = "head",
    *,
    command: str = "upgrade",
    project: Project | StrPath | None = None,
    chain: str | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    output: StrPath | None = None,
    **options: Any,
) -> Iterator[JobResult]:
    """Bring many checkpoints to a target, and yield what became of each as soon as it is done.

    A checkpoint that fails, or a process that dies, does not stop the others.

    Parameters
    ----------
    paths : iterable of path, or Selection
        Checkpoints, or a `Selection`: everything below folders, for example.
    target : str
        The target, as the command takes it.
    command : str
        ``upgrade``, ``downgrade``, ``sync`` (which needs no target) or ``stamp``.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.
    jobs : int
        The number of processes; 0 for as many as there are processors. With more than one, call this from a script
        under ``if __name__ == "__main__"``, as `multiprocessing` asks for.
    executor : Executor, optional
        Runs the work instead: that of a process pool, of Dask, of MPI... It sends functions of this package to its
        workers, which have to have it installed and see the same files.
    output : path, optional
        A folder, made if needed, in which results get the same relative paths; checkpoints stay unchanged. A result
        that is there already, at the end of its plan, stays.
    **options
        Other arguments of the command, such as ``backup`` or ``dry_run``.

    Yields
    ------
    JobResult
        In the order in which they are done.

    Raises
    ------
    MigrateError
        Nothing was begun: there is no project, its scripts are faulty, or no checkpoint was found.

    Examples
    --------
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> for each in migrate_all(Selection(("runs",), recursive=True), executor=ProcessPoolExecutor(8)):
    ...     print(each.checkpoint, each.status)
    """
    selection = paths if isinstance(paths, Selection) else Selection(tuple(os.fspath(path) for path in paths))
    arguments = options if command == "sync" else {"target": target, **options}
    config, chain = _place_of(project_or_chain(project, chain))
    place = None if output is None else os.path.abspath(output)
    selection = replace(selection, output=place)
    job = Job(command, arguments, config, chain, output=place)
    found = job.project()  # so that faulty scripts are one error, and not one for each checkpoint
    if executor is not None:
        check_repeatable(job)
    if command == "upgrade":
        check_target(target, found)
    yield from runner(jobs, executor)(job, selection.groups(), Attention())


def check_target(text: str, project: Project | None) -> None:
    """Refuse a target of an upgrade that no checkpoint can have, before one is opened.

    Raises
    ------
    BadTarget, UnknownTarget, AmbiguousTarget, SeveralHeads, NoRelease
        The target makes no sense in this project. Other errors depend on the checkpoint.
    """
    wanted = targets.parse(text)
    if project is None:
        return
    try:
        graph = expand_squashed_for(project.graph, Record(), [wanted], project.config.package)
        planner.plan_upgrade(graph, Record(), wanted, project.config.package)
    except (UnknownTarget, AmbiguousTarget, SeveralHeads, NoRelease):
        raise
    except MigrateError:
        return


def _place_of(project: Project | StrPath | None) -> tuple[str | None, str | None]:
    """Return the configuration or the chain from which another process opens a project."""
    if isinstance(project, Project):
        chain = project.config.chain
        return (None, chain) if chain else (os.fspath(project.config.path), None)
    return os.path.abspath(find_config(None if project is None else Path(project)).path), None
