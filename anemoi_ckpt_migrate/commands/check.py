"""The command that looks for problems before they hurt: check."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.check_checkpoint import check_checkpoint, check_options
from anemoi_ckpt_migrate.commands.check_result import Checked, Problem
from anemoi_ckpt_migrate.errors import Fault, MigrateError, MigrationFailed, UsageError, shown_path
from anemoi_ckpt_migrate.manifests import drift, manifest_file
from anemoi_ckpt_migrate.manifests.known import known_of
from anemoi_ckpt_migrate.manifests.trace import UnknownState
from anemoi_ckpt_migrate.operations.tree_operation import functions
from anemoi_ckpt_migrate.project.config import Config, find_config
from anemoi_ckpt_migrate.project.project import Project, project_or_chain
from anemoi_ckpt_migrate.revisions import validate
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.runtime import step_actions
from anemoi_ckpt_migrate.scripts import discover, head_file, released
from anemoi_ckpt_migrate.scripts.load_functions import load_module
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime.output_options import Function
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def check(
    checkpoints: Sequence[StrPath] = (),
    *,
    rollback: bool = False,
    model: str | None = None,
    outputs: Function | None = None,
    save_outputs: StrPath | None = None,
    expect_outputs: StrPath | None = None,
    tolerance: float | None = None,
    project: Project | StrPath | None = None,
    chain: str | None = None,
) -> Checked:
    """Look for problems in the scripts, each of which is run, and in checkpoints.

    The history must have one head, unless the configuration allows several. Every script must load, and its
    `migrate_setup` must make sense. Released scripts must not have changed. A script without a rollback must declare
    that. The head file, if the project has one, must name the heads. Checkpoints must be at head. Configured models
    must match the manifest and the revisions after it; this check allocates no weights.

    Parameters
    ----------
    checkpoints : sequence of path
        The files.
    rollback : bool
        Instead, try the rollbacks on each checkpoint, as `prove_rollback` does. Nothing is written.
    model : str, optional
        Check only this model; an empty string means all models. All other checks are skipped.
    outputs : str or callable, optional
        A function that computes the outputs of a checkpoint, as for `upgrade`. Instead of the revision of each
        checkpoint, compare its outputs before and after an upgrade to the heads. Nothing is written.
    save_outputs : path, optional
        Compare nothing, but write the outputs of the one checkpoint as it is to this new file.
    expect_outputs : path, optional
        Compare the outputs of the one upgraded checkpoint with those in this file.
    tolerance : float, optional
        As for `upgrade`.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    ConfigurationError, UsageError
        The project cannot be read, or has no such model or function. Faults of scripts, models or checkpoints are
        problems, not errors.
    """
    _check_options(checkpoints, model, outputs, save_outputs, expect_outputs, tolerance)
    project = project_or_chain(project, chain)
    if isinstance(project, Project):
        config, revisions, faults = project.config, list(project.graph), list[Fault]()
    else:
        config = find_config(None if project is None else Path(project))
        revisions, faults = discover.read_folders(config.versions, config.recursive)
    broken = [Problem("script", fault.message, fault.path, fault.line, pending=False) for fault in sorted(faults)]
    if broken:
        return Checked(len(revisions), 0, tuple(broken))
    graph = project.graph if isinstance(project, Project) else Graph(revisions)
    found = Project(config, graph)
    if model is not None:
        names = drift.configured(config, model or None)
        return Checked(len(graph), 0, tuple(_of_models(config, graph, names)), len(names))
    problems = [*_of_scripts(config, graph), *_of_models(config, graph, sorted(config.models))]
    checked = [
        check_checkpoint(
            path,
            rollback=rollback,
            outputs=outputs,
            save_outputs=save_outputs,
            expect_outputs=expect_outputs,
            tolerance=tolerance,
            project=found,
        )
        for path in checkpoints
    ]
    return Checked(
        len(graph),
        len(checkpoints),
        (*problems, *(problem for one in checked for problem in one.problems)),
        len(config.models),
        tuple(proof for one in checked for proof in one.proofs),
        tuple(proof for one in checked for proof in one.outputs),
        tuple(file for one in checked for file in one.recorded),
        tuple(note for one in checked for note in one.notes),
    )


def _check_options(
    checkpoints: Sequence[StrPath],
    model: str | None,
    outputs: Function | None,
    saved: StrPath | None,
    expected: StrPath | None,
    tolerance: float | None,
) -> None:
    """Refuse options of a comparison of outputs that make no sense together."""
    if check_options(outputs, saved, expected, tolerance) is None:
        return
    if model is not None:
        raise UsageError("--model skips all checkpoints: leave out --outputs")
    from anemoi_ckpt_migrate.runtime.output_options import check_one_file

    check_one_file(len(checkpoints), saved, expected)


def _of_models(config: Config, graph: Graph, names: Sequence[str]) -> Iterator[Problem]:
    """Compare models with the manifest."""
    if not names:
        return
    path = os.fspath(config.versions[0] / manifest_file.NAME)
    try:
        known = known_of(config)
    except MigrateError as error:
        yield Problem("model", error.sentence, path, pending=False)
        return
    for name in names:
        try:
            found = drift.drift(config, graph, known, name)
        except MigrateError as error:
            yield Problem("model", f"the model {name}: {error.sentence}", os.fspath(config.path), pending=False)
            continue
        if not found.as_expected:
            fits = not isinstance(found.expected, UnknownState) or found.expected.fits
            yield Problem("model", found.trouble, path, pending=fits, details=found.operations)


def _of_scripts(config: Config, graph: Graph) -> Iterator[Problem]:
    if len(graph.heads) > 1 and not config.several_heads:
        yield Problem("heads", fork(graph, released.read(config.versions[0])))
    for revision in graph:
        yield from _loads(revision)
        if not (revision.final or revision.declared):
            line = None if revision.operations is None else revision.line("operations")
            yield Problem("rollback", _without_rollback(revision), revision.path, line)
    for found in released.problems(config.versions[0], graph):
        path, line = (found.script.path, found.script.line(found.name)) if found.script else (None, None)
        yield Problem("released", found.sentence, path, line)
    wrong = head_file.problem(config.versions[0], graph) if config.head_file else None
    if wrong is not None:
        yield Problem("head file", wrong)


def _without_rollback(revision: Revision) -> str:
    """Return the message about a script that cannot be undone and does not declare it."""
    title = f"{revision.id} ({revision.name})"
    if revision.operations is None:
        return f"{title} has no rollback; write one, or set `rollback = None`"
    leaves = [leaf for each in revision.operations for leaf in each.leaves() if not leaf.reversible]
    more = f" and {len(leaves) - 1} more" if len(leaves) > 1 else ""
    told = f"{title} cannot be undone: op.{leaves[0]!r:.80}{more} loses values"
    return f"{told}; give it {leaves[0].remedy}, or set `rollback = None` below `operations` if that is intended"


def fork(graph: Graph, noted: Collection[str] = ()) -> str:
    """Return the message that names several heads and the way to join them.

    Parameters
    ----------
    graph : Graph
        All revisions.
    noted : collection of str
        The released revisions, which must stay in place.
    """
    names = " and ".join(f"{head} ({graph[head].name}, {shown_path(graph[head].path)})" for head in graph.heads)
    aside = next((f", or `ckpt-migrate {way}` puts one after the other" for way in _rebases(graph, noted)), "")
    return f"there are {len(graph.heads)} heads: {names}; `ckpt-migrate merge heads NAME` joins them{aside}"


def _rebases(graph: Graph, noted: Collection[str]) -> Iterator[str]:
    """Yield the `rebase` commands that turn two heads into one."""
    for onto, head in permutations(graph.heads, 2) if len(graph.heads) == 2 else ():
        own = graph.order(graph.closure([head]) - graph.closure([onto]))
        if not own:
            continue  # the other one depends on it
        lowest, script = own[0], graph[own[0]]
        moved = [replace(script, parents=(onto,)) if rev is script else rev for rev in graph]
        fixed = {lowest, *(part.id for part in script.replaces)}.intersection(noted)
        if len(script.parents) < 2 and not fixed and not validate.faults(moved) and len(Graph(moved).heads) == 1:
            yield f"rebase {lowest} --onto {onto}"


def _loads(revision: Revision) -> Iterator[Problem]:
    """Run a script, and of its functions only `migrate_setup`, which just maps names."""
    try:
        module = load_module(revision)
        if revision.sets_up:
            step_actions.operations_of(revision)
    except MigrationFailed as error:
        yield Problem("script", error.what, error.where, error.line, pending=False)
        return
    if revision.operations is not None:
        yield from _runs(revision, module)
        return
    wanted = [*["migrate"] * revision.migrates, *["rollback"] * (revision.migrates and revision.reversible)]
    for name in wanted:
        if not callable(getattr(module, name, None)):
            yield Problem("script", f"`{name}` is not a function", revision.path, revision.line(name), pending=False)


def _runs(revision: Revision, module: Any) -> Iterator[Problem]:
    """Check that the functions exist that operations run."""
    for operation in functions(revision.operations or ()):
        for name in (operation.migrate, operation.rollback):
            if name is not None and not callable(getattr(module, name, None)):
                message = f"{operation!r}: `{name}` is not a function"
                yield Problem("script", message, revision.path, revision.line("operations"), pending=False)
