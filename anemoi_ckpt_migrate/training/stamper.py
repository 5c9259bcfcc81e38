"""What training records in the checkpoints that it saves."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from anemoi_ckpt_migrate.errors import NotAtTarget
from anemoi_ckpt_migrate.project.project import Project, opened_all
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import planner, resolve, targets
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime import step_actions
from anemoi_ckpt_migrate.runtime.session import log_entry, seen_from
from anemoi_ckpt_migrate.storage.path_arguments import StrPath

_LOGGER = logging.getLogger(__name__)
_Tree = TypeVar("_Tree")


class Stamper:
    """Records revisions in checkpoints before they are saved.

    Make one when training starts. The scripts are read then, and not again: a run saves what it is, whatever becomes of
    them meanwhile. And what is wrong with them ends the run before it has begun.

    Parameters
    ----------
    target : str
        What the code is at: ``head``, ``heads``, a revision, or a release, as ``"package==1.2"``.
    project : Project or path, optional
        Whose scripts; by default those of the current folder's project, unless there is a chain.
    chain : str or iterable of str
        Chains that installed packages bring, beside the project or in its place.

    Attributes
    ----------
    target : str
        As it was given.
    projects : tuple of Project
        The project, and the chains.

    Raises
    ------
    MigrateError
        There is no project, it is wrong, or the target means nothing in it.
    """

    def __init__(
        self, target: str = "head", *, project: Project | StrPath | None = None, chain: str | Iterable[str] = ()
    ) -> None:
        self.target, self._wanted = target, targets.parse(target)
        self.projects = opened_all(project, chain)
        self._record = self._fresh = self._continued(Record())

    def resume(self, checkpoint: Any) -> None:
        """Go on from a checkpoint: what is saved from here on keeps its log, and what undoes its revisions.

        Parameters
        ----------
        checkpoint : object
            What was loaded. One without a record is taken to be of this code.

        Raises
        ------
        NotAtTarget
            It is of older code, or of newer: the run would save it as something that it never became.
        MigrateError
            It has revisions that no script knows, or its record is damaged.
        """
        found = embed.read(checkpoint)
        if found is None:
            _LOGGER.warning(
                "the checkpoint that training goes on from has no record of revisions, and is taken to be at %s; "
                "if it is older, start again from what `ckpt-migrate upgrade %s CKPT` makes of it",
                self.target,
                self.target,
            )
        self._record = self._fresh if found is None else self._continued(found)

    def stamped(self, checkpoint: _Tree) -> _Tree:
        """Return a checkpoint with the record, to be saved.

        It never raises: a run of weeks is worth more than a record. What has no place for one is logged as a warning,
        and returned as it is.

        Parameters
        ----------
        checkpoint : object
            A dict; stays as it is. If it has a record, of a checkpoint that was loaded, that one is kept.

        Returns
        -------
        object
            A copy, one level deep. A plain dict of tensors comes back as an `OrderedDict`.
        """
        try:
            found = embed.read(checkpoint)
            record = self._record if found is None else self._continued(found)
            stamped: _Tree = embed.with_record(checkpoint, record)
            return stamped
        except Exception as error:
            _LOGGER.warning("the checkpoint is saved as it is, without the revisions of this run: %s", error)
            return checkpoint

    def _continued(self, record: Record) -> Record:
        """Return a record as a checkpoint has it that the code saves which goes on from there."""
        follow = self._checked if record.lineage or record.log else self._told
        for found in self.projects:
            record = follow(found, record.of_chain(found.config.chain)).of_all()
        return replace(record, migrations_list=None)  # what another tool notes in what is saved is its own affair

    def _told(self, found: Project, record: Record) -> Record:
        package, parameters = found.config.package, found.config.parameters
        graph = seen_from(found.graph, record, [self._wanted], package)
        revisions = planner.plan_stamp(graph, record, [self._wanted], package)
        lineage = tuple(step_actions.told(revision, parameters, by_value=True) for revision in revisions)
        plan = Plan((), graph.tips(revision.id for revision in revisions), ())
        return record.logged(log_entry("stamp", self.target, plan), lineage)

    def _checked(self, found: Project, record: Record) -> Record:
        package = found.config.package
        graph = seen_from(found.graph, record, [self._wanted], package)
        missing = [step.revision for step in planner.plan_upgrade(graph, record, self._wanted, package).steps]
        state = resolve.state(graph, self._wanted, package)
        later = graph.above(_ends(graph, state, self._wanted)) - state
        beyond = [entry.revision for entry in record.lineage if entry.revision in later]
        if missing or beyond:
            raise NotAtTarget(missing, beyond, self.target, found.config.chain)
        return record


def _ends(graph: Graph, state: set[str], target: targets.Target) -> set[str]:
    """Return the revisions of a target whose children the code lacks.

    These are all heads that a release had. Any other target may include a revision only because another one depends on
    it, and a checkpoint may have more of that branch.
    """
    return set(graph.tips(state) if isinstance(target, targets.Released) else graph.highest(state))


def stamped(
    checkpoint: _Tree,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    chain: str | Iterable[str] = (),
    resumed: Any = None,
) -> _Tree:
    """Return a checkpoint with a record, to be saved once; a run that saves more often makes a `Stamper`.

    Parameters
    ----------
    checkpoint : object
        As for `Stamper.stamped`.
    target, project, chain
        As for `Stamper`.
    resumed : object, optional
        The checkpoint that was loaded before, as for `Stamper.resume`.

    Returns
    -------
    object
        As for `Stamper.stamped`.

    Raises
    ------
    MigrateError
        As for `Stamper` and `Stamper.resume`.
    """
    stamper = Stamper(target, project=project, chain=chain)
    if resumed is not None:
        stamper.resume(resumed)
    return stamper.stamped(checkpoint)
