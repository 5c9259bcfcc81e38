"""Records in the checkpoints that a training run saves."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from anemoi_ckpt_migrate.errors import NotAtTarget
from anemoi_ckpt_migrate.project.project import Project, opened_all
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import planner, resolve, targets
from anemoi_ckpt_migrate.revisions.expand_squashed import expand_squashed_for
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime.record_entries import log_entry, stamped_entry
from anemoi_ckpt_migrate.storage.path_arguments import StrPath
from anemoi_ckpt_migrate.util.dataclass import replace

_LOGGER = logging.getLogger(__name__)
_Tree = TypeVar("_Tree")


class Stamper:
    """Records revisions in checkpoints before they are saved.

    Make one when training starts. It reads the scripts then, and not again: later changes to them do not affect the
    run, and faulty scripts end it before it has begun.

    Parameters
    ----------
    target : str
        The state of the code: ``head``, ``heads``, a revision, or a release, as ``"package==1.2"``.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder, unless a chain is given.
    chain : str or iterable of str
        Chains of installed packages, besides the project or in its place.

    Attributes
    ----------
    target : str
        The value of the parameter.
    projects : tuple of Project
        The project and the chains.

    Raises
    ------
    MigrateError
        There is no project, it is faulty, or the target means nothing in it.
    """

    def __init__(
        self, target: str = "head", *, project: Project | StrPath | None = None, chain: str | Iterable[str] = ()
    ) -> None:
        self.target, self._wanted = target, targets.parse(target)
        self.projects = opened_all(project, chain)
        self._record = self._fresh = self._continued(Record())

    def resume(self, checkpoint: Any) -> None:
        """Continue from a checkpoint: checkpoints saved from now on keep its log and its rollbacks.

        Parameters
        ----------
        checkpoint : object
            The loaded checkpoint. Without a record, it is assumed to be of this code.

        Raises
        ------
        NotAtTarget
            It is of older or newer code: the run would save it with revisions that were never applied to it.
        MigrateError
            It has revisions that no script knows, or its record is damaged.
        """
        found = embed.read(checkpoint)
        if found is None:
            _LOGGER.warning(
                "the checkpoint to resume has no record and is taken to be at %s; "
                "if it is older, run `ckpt-migrate upgrade %s CKPT` and resume from the result",
                self.target,
                self.target,
            )
        self._record = self._fresh if found is None else self._continued(found)

    def stamped(self, checkpoint: _Tree) -> _Tree:
        """Return a copy of a checkpoint with the record, ready to be saved.

        It never raises: a run of weeks is worth more than a record. If a checkpoint has no place for a record, it logs
        a warning and returns the checkpoint unchanged.

        Parameters
        ----------
        checkpoint : object
            A dict, which stays unchanged. If it has the record of a loaded checkpoint, that record is continued.

        Returns
        -------
        object
            A shallow copy. A plain dict of tensors comes back as an `OrderedDict`.
        """
        try:
            found = embed.read(checkpoint)
            record = self._record if found is None else self._continued(found)
            stamped: _Tree = embed.with_record(checkpoint, record)
            return stamped
        except Exception as error:
            _LOGGER.warning("the checkpoint is saved without a record of its revisions: %s", error)
            return checkpoint

    def _continued(self, record: Record) -> Record:
        """Return the record for checkpoints that a run saves after it continued from one with this record."""
        follow = self._checked if record.lineage or record.log else self._told
        for found in self.projects:
            record = follow(found, record.of_chain(found.config.chain, found.config.other_tool)).of_all()
        # Other tools keep their own lists in saved checkpoints.
        return replace(record, migrations_list=None, other_lists={})

    def _told(self, found: Project, record: Record) -> Record:
        package, parameters = found.config.package, found.config.parameters
        graph = expand_squashed_for(found.graph, record, [self._wanted], package)
        revisions = planner.plan_stamp(graph, record, [self._wanted], package)
        lineage = tuple(stamped_entry(revision, parameters, by_value=True) for revision in revisions)
        plan = Plan((), graph.tips(revision.id for revision in revisions), ())
        return record.logged(log_entry("stamp", self.target, plan), lineage)

    def _checked(self, found: Project, record: Record) -> Record:
        package = found.config.package
        graph = expand_squashed_for(found.graph, record, [self._wanted], package)
        missing = [step.revision for step in planner.plan_upgrade(graph, record, self._wanted, package).steps]
        state = resolve.state(graph, self._wanted, package)
        later = graph.above(_ends(graph, state, self._wanted)) - state
        beyond = [entry.revision for entry in record.lineage if entry.revision in later]
        if missing or beyond:
            raise NotAtTarget(missing, beyond, self.target, found.config.chain)
        return record


def _ends(graph: Graph, state: set[str], target: targets.Target) -> set[str]:
    """Return the revisions of a target whose children the code lacks.

    For a release, these are all heads it had. Any other target may include a revision only because another one depends
    on it, and a checkpoint may have more of that branch.
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
    """Return a copy of a checkpoint with a record, to be saved once; if a run saves more often, make a `Stamper`.

    Parameters
    ----------
    checkpoint : object
        As for `Stamper.stamped`.
    target, project, chain
        As for `Stamper`.
    resumed : object, optional
        The checkpoint that the run loaded, as for `Stamper.resume`.

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
