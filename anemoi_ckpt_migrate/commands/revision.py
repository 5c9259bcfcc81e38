"""The command that makes new scripts: revision."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotWrite, UsageError
from anemoi_ckpt_migrate.manifests import manifest_file
from anemoi_ckpt_migrate.project.project import Project, open_project, resolve_project
from anemoi_ckpt_migrate.project.scaffold import read_template
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.scripts import create, head_file, hooks
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.propose_operations import Generated
    from anemoi_ckpt_migrate.manifests.drift import Drift
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

SCRIPT_FORMAT = "1.0.0"
GUESSES = "operations are guesses; comments in the script mark them"
"""The end of the warning that some operations of a new script are guesses."""


@dataclass(frozen=True)
class NewRevision:
    """A new script.

    Attributes
    ----------
    revision : str
        Its id.
    path : str
        The file.
    parents : tuple of str
        The revisions that it follows.
    warnings : tuple of str
        Warnings for the author.
    """

    revision: str
    path: str
    parents: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def revision(
    name: str,
    *,
    final: bool = False,
    rev_id: str | None = None,
    head: str | None = None,
    splice: bool = False,
    branch_labels: Sequence[str] = (),
    depends_on: Sequence[str] = (),
    version_path: StrPath | None = None,
    autogenerate: tuple[StrPath, StrPath] | tuple[()] | None = None,
    model: str | None = None,
    with_setup: bool = False,
    project: Project | StrPath | None = None,
) -> NewRevision:
    """Make a new script that follows the head.

    Parameters
    ----------
    name : str
        A description of the change, in one line.
    final : bool
        Make a barrier.
    rev_id : str, optional
        The id; by default a new one.
    head : str, optional
        The revision to follow, if there are several heads; ``base`` to begin a new root.
    splice : bool
        Follow a revision that is not a head: begin a new branch there.
    branch_labels : sequence of str
        Labels for the branch of the script.
    depends_on : sequence of str
        Revisions that must be applied first, besides the one it follows.
    version_path : path, optional
        The folder for the script, one of the project's; by default the only one, or that of the revision it follows.
    autogenerate : pair of path, optional
        Two checkpoints, or a checkpoint and a model as ``package.module:factory``: the script gets operations that
        turn the parameters of the first into those of the second. An empty tuple compares the manifest with the
        project's models, and then rewrites the manifest.
    model : str, optional
        The model to compare; by default all models.
    with_setup : bool
        Add a ``migrate_setup`` to fill in, for moved or removed classes and modules.
    project : Project or path, optional
        The project; by default that of the current folder.

    Raises
    ------
    UsageError
        An argument is not usable, or there are several heads to follow.
    UnknownTarget, AmbiguousTarget, SeveralHeads, NotOnBranch, NotThatMany
        `head` or `depends_on` does not name a revision.
    ConfigurationError, FaultyScripts, CannotWrite, MigrateError
        The project cannot be read; the script cannot be written; or a hook failed after it was written.
    """
    found = resolve_project(project)
    parents = _parents(found.graph, head, splice)
    needed = [resolve.one(found.graph, targets.parse(text)) for text in depends_on]
    if with_setup and (final or autogenerate is not None):
        beside = "a barrier has no functions" if final else "a script has operations or functions, not both"
        raise UsageError(f"{beside}: leave out --with-setup, or {'--final' if final else '--autogenerate'}")
    if model is not None and autogenerate is None:
        raise UsageError("--model needs --autogenerate")
    if final and autogenerate is not None:
        raise UsageError("a barrier has no operations: leave out --final or --autogenerate")
    draft = replace(_draft(found, name, parents, rev_id, branch_labels), depends_on=tuple(dict.fromkeys(needed)))
    draft = replace(draft, final=final, setup=with_setup)
    if autogenerate is None:
        return _make(found, draft, version_path)
    made, drifts = _generated(found, autogenerate, model, None if head is None else parents)
    new = _make(found, replace(draft, operations=made.lines), version_path)
    if drifts:
        _write_manifest(found, drifts, new)
    guesses = [f"{made.uncertain} of {made.count} {GUESSES}"] if made.uncertain else []
    return replace(new, warnings=(*new.warnings, *guesses, *made.warnings))


def _generated(
    project: Project,
    sides: tuple[StrPath, StrPath] | tuple[()],
    model: str | None,
    parents: tuple[str, ...] | None,
) -> tuple[Generated, list[Drift]]:
    """Return operations for a new script, and the changed models, if it is made for models."""
    from anemoi_ckpt_migrate.commands import propose_operations
    from anemoi_ckpt_migrate.manifests import drift
    from anemoi_ckpt_migrate.manifests.known import known_of

    if sides:
        if model is not None:
            raise UsageError("--model and OLD NEW exclude each other: leave out one of them")
        return propose_operations.generate(*sides, project), []
    config, known = project.config, known_of(project.config)
    names = drift.configured(config, model)
    drifts = [drift.drift(config, project.graph, known, name, parents) for name in names]
    made = propose_operations.generate_of_models(drifts, os.fspath(config.versions[0] / manifest_file.NAME))
    return made, [each for each in drifts if not each.as_expected]


def _write_manifest(project: Project, drifts: Sequence[Drift], new: NewRevision) -> None:
    """Rewrite the manifest after a revision was made for changed models."""
    from anemoi_ckpt_migrate.commands.manifest import write_manifest
    from anemoi_ckpt_migrate.manifests.known import heads_of, known_of

    config, graph = project.config, open_project(project.config.path).graph
    known = known_of(config)
    there = tuple(head for head in graph.heads if head in graph.above([new.revision]))
    moved = [
        # A branch of its own ends at the new revision; the heads of other branches do not matter.
        replace(each, heads=there if each.heads == new.parents else heads_of(graph, known.models.get(each.name)))
        for each in drifts
    ]
    try:
        write_manifest(config, graph, known, moved)
    except CannotWrite as error:
        way = "the script is complete; once that is fixed, run `ckpt-migrate manifest --update`"
        raise CannotWrite(f"{error.sentence}; {way}") from error.__cause__


def update_head_file(config: Config) -> str | None:
    """Rewrite the head file, if the project has one, and return its path; errors as of `open_project`."""
    if not config.head_file:
        return None
    try:
        return os.fspath(head_file.write(config.versions[0], open_project(config.path).graph))
    except CannotWrite as error:
        way = "the scripts are complete; once that is fixed, run `ckpt-migrate heads --write`"
        raise CannotWrite(f"{error.sentence}; {way}") from error.__cause__


def versions_of(package: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the versions that a new script notes, and warnings for its author."""
    from importlib import metadata

    versions = {"migration": SCRIPT_FORMAT}
    if package is None:
        return versions, ()
    try:
        versions[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
        return versions, (f"{package} is not installed here, so the script does not note its version",)
    return versions, ()


def to_follow(graph: Graph, way: str = "") -> tuple[str, ...]:
    """Return the parents of a new script: the head, if there is one.

    Raises
    ------
    UsageError
        There are several heads.
    """
    if len(graph.heads) > 1:
        names = ", ".join(graph.heads)
        raise UsageError(f"there are {len(graph.heads)} heads: {names}; {way}join them with `ckpt-migrate merge NAME`")
    return graph.heads


def chosen_id(graph: Graph, rev_id: str | None) -> str:
    """Return the id of a new revision.

    Raises
    ------
    UsageError, CannotWrite
        The chosen id is not valid, or already taken.
    """
    if rev_id is None:
        return create.new_id()
    create.check_id(rev_id)
    if rev_id in graph:
        raise CannotWrite(f"revision {rev_id} already exists: {graph[rev_id].path}")
    if rev_id in graph.replaced or rev_id in graph.labels:
        raise UsageError(f"{rev_id!r} cannot be a revision id: it is the id of a squashed revision, or a label")
    return rev_id


def _draft(
    project: Project, name: str, parents: tuple[str, ...], rev_id: str | None, labels: Sequence[str]
) -> create.Draft:
    """Return the contents of a new script, checked."""
    create.check_name(name)
    for label in labels:
        _check_label(project.graph, label)
    revision, created = chosen_id(project.graph, rev_id), create.now(project.config.timezone)
    return create.Draft(revision, name, created, parents, tuple(dict.fromkeys(labels)))


def _make(project: Project, draft: create.Draft, version_path: StrPath | None) -> NewRevision:
    """Write a script, with the installed version of the package in it."""
    config, graph = project.config, project.graph
    versions, warnings = versions_of(config.package)
    draft = replace(draft, versions=versions)
    folder = _folder(config, graph, draft.parents, version_path)
    path = folder / create.file_name(config.file_template, draft, config.slug_length)
    create.write_new(path, create.render(read_template(config.template), draft))
    update_head_file(config)
    hooks.run_hooks(config.hooks, path)
    return NewRevision(draft.revision, os.fspath(path), draft.parents, warnings)


def _parents(graph: Graph, head: str | None, splice: bool) -> tuple[str, ...]:
    if head is None:
        return to_follow(graph, "choose one with --head, or ")
    if head == "base":
        return ()
    parents = (resolve.one(graph, targets.parse(head)),)
    if not splice:
        _check_heads(graph, parents, "a new revision follows a head", "; --splice begins a new branch there")
    return parents


def _check_heads(graph: Graph, revisions: Iterable[str], rule: str, way: str = "") -> None:
    for rev in revisions:
        if graph.children[rev]:
            after = ", ".join(graph.children[rev])
            raise UsageError(f"{rule}, but {rev} is not one: {after} follows it{way}")


def _check_apart(graph: Graph, revisions: Collection[str]) -> None:
    for rev in sorted(revisions):
        after = sorted(graph.followers(rev).intersection(revisions) - {rev})
        if after:
            raise UsageError(f"{rev} already comes before {after[0]}, so there is nothing to join; leave out {rev}")


def _check_label(graph: Graph, label: str) -> None:
    create.check_label(label)
    if label in graph.labels:
        other = graph[graph.labels[label]].path
        raise UsageError(f"the label {label} is already used by {other}; a label names one branch")
    if label in graph or label in graph.replaced:
        raise UsageError(f"{label!r} cannot be a label: it is the id of a revision")


def _folder(config: Config, graph: Graph, parents: Sequence[str], given: StrPath | None) -> Path:
    """Return the folder for a new script."""
    if given is not None:
        return _given_folder(config, Path(given))
    if len(config.versions) == 1:
        return config.versions[0]
    for parent in parents:
        for folder in config.versions:
            if folder.absolute() in Path(graph[parent].path).parents:
                return folder
    raise UsageError(f"there are {len(config.versions)} folders of scripts; choose one with --version-path")


def _given_folder(config: Config, given: Path) -> Path:
    for base in (Path.cwd(), config.folder):
        path = (base / given).absolute()
        known = [folder.absolute() for folder in config.versions]
        if path in known or (config.recursive and path.is_dir() and any(folder in path.parents for folder in known)):
            return path
    folders = ", ".join(os.fspath(folder) for folder in config.versions)
    raise UsageError(f"{given} is not a folder of scripts of this project; the folders are {folders}")
