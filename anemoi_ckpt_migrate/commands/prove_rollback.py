"""The rollbacks of a checkpoint, tried in memory: `prove_rollback`, and `check --rollback` on the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime.executor import Settings
from anemoi_ckpt_migrate.runtime.session import open_session
from anemoi_ckpt_migrate.runtime.verify_rollback import Skipped, check_reversible, prove, prove_down, why_skipped
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Proof:
    """The result of a successful verification.

    Attributes
    ----------
    checkpoint : str
        The file.
    up, down : tuple of str
        Revisions that were applied and undone; revisions that were undone and applied again.
    skipped : tuple of Skipped
        Revisions that were not verified.
    """

    checkpoint: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def prove_rollback(
    checkpoint: StrPath, target: str = "barrier", *, project: Project | StrPath | None = None, chain: str | None = None
) -> Proof:
    """Verify the rollbacks of a checkpoint in memory; writes nothing.

    Upgrades to a target and back, and downgrades from the current revision and back. Compares with the original each
    time.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        As for `upgrade`; by default the highest revisions that can be reached, on all branches.
    project : Project or path, optional
        The project that holds the scripts.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Returns
    -------
    Proof
        The revisions that were verified, and those that were skipped because they are declared irreversible.

    Raises
    ------
    NotProven
        A rollback does not restore the original.
    MigrateError
        As for `upgrade` and `downgrade`.
    """
    found, wanted = resolve_project(project, chain), targets.parse(target)
    parameters = found.config.parameters
    with open_session(checkpoint, found, WriteOptions(dry_run=True)) as session:
        file, record, graph = session.file, session.record, session.graph([wanted])
        plan = planner.plan_upgrade(graph, record, wanted, found.config.package)
        revisions = [graph[step.revision] for step in plan.steps]
        down, skipped = prove_down(file, graph, record, parameters)
        prove(file, graph, record, revisions, Settings(parameters, optimizers=record.optimizers))
        check_reversible(revisions, but_declared=True)
        behind = planner.behind_barriers(graph, record, plan) if wanted == targets.Named("barrier") else []
        unproven = [Skipped(each.id, each.name, why_skipped(each)) for each in revisions]
        unproven += [Skipped(each.id, each.name, "it is a barrier, or above one") for each in behind]
        up = tuple(revision.id for revision in revisions if revision.reversible)
        return Proof(os.fspath(checkpoint), up, down, (*skipped, *(each for each in unproven if each.why)))
