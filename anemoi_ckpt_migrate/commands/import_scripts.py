"""The command that imports the scripts of another migration command: import-scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.revision import to_follow, update_head_file, versions_of
from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, Fault, FaultyScripts, Refused
from anemoi_ckpt_migrate.other_tools.find import code_of, find_tool
from anemoi_ckpt_migrate.other_tools.match_revisions import revision_of
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import validate
from anemoi_ckpt_migrate.scripts import create, hooks
from anemoi_ckpt_migrate.scripts.parse import read_text
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.other_tools import ForeignScript, OtherTool
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class ImportedScript:
    """The import of one script.

    Attributes
    ----------
    name : str
        Its old name.
    revision : str
        Its revision id in this project.
    path : str
        Its script in this project.
    done : str
        ``created``; ``kept``, if it was imported before; ``renamed`` or ``changed``, if it differs since then. Only
        ``created`` writes a script.
    notes : tuple of str
        Notes for the user.
    """

    name: str
    revision: str
    path: str
    done: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Import:
    """The result of `import_scripts`.

    Attributes
    ----------
    scripts : tuple of ImportedScript
        All scripts of the folder, in order.
    """

    scripts: tuple[ImportedScript, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {"scripts": [{**asdict(script), "notes": list(script.notes)} for script in self.scripts]}


def import_scripts(
    folder: StrPath, *, next_version: str | None = None, project: Project | StrPath | None = None
) -> Import:
    """Import a folder of scripts of another migration command, as a linear chain of revisions.

    The command is that of the configured `other_tool`, by default that of anemoi-models.

    They follow each other in the order of their names; the first follows the head, if there is one. Ids are derived
    from the names, so they are the same everywhere. Scripts imported before stay unchanged; only new ones are added.

    Parameters
    ----------
    folder : path
        The folder of scripts.
    next_version : str, optional
        The version of the next release, for scripts that are not released yet; by default the version of the tracked
        package, if it is installed.
    project : Project or path, optional
        The project to import into; by default that of the current folder.

    Raises
    ------
    CannotRead
        The folder does not exist or holds no scripts.
    FaultyScripts
        Some scripts are faulty; the error lists all faults. Nothing was written.
    Refused
        A new script comes before one that was imported already.
    UsageError
        There are several heads, so it is not clear which one to follow.
    ConfigurationError, CannotWrite, MigrateError
        The project cannot be read; the scripts cannot be written; or a hook failed after they were written.
    """
    found = resolve_project(project)
    tool = find_tool(found.config.other_tool)
    scripts = _read(tool, Path(folder))
    states = [_state(found.graph, script, {each.name for each in scripts}) for script in scripts]
    _check_order(states)
    new = [script for script, state in zip(scripts, states, strict=True) if state.done == "created"]
    if next_version is None:
        next_version = versions_of(found.config.package)[0].get(found.config.package or "")
    drafts = _drafts(found, tool, new, next_version) if new else []
    _check(found.graph, new, drafts)
    _write(drafts)
    if drafts:
        update_head_file(found.config)
    for draft in drafts:
        hooks.run_hooks(found.config.hooks, draft.path)
    made = {draft.done.name: draft.done for draft in drafts}
    return Import(tuple(made.get(state.name, state) for state in states))


@dataclass(frozen=True)
class _Draft:
    path: Path
    text: str
    done: ImportedScript


def _read(tool: OtherTool, folder: Path) -> list[ForeignScript]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.name[0] not in "_.")
    except OSError as error:
        raise CannotRead(f"the folder {folder} cannot be read ({error.strerror})") from error
    if not paths:
        raise CannotRead(f"the folder {folder} holds no scripts (*.py); give the folder of the package's migrations")
    with code_of(tool):
        read = [tool.script(os.fspath(path)) for path in paths]
    faults = [fault for _, wrong in read for fault in wrong]
    if faults:
        raise FaultyScripts(faults)
    return [script for script, _ in read if script is not None]


def _state(graph: Graph, script: ForeignScript, names: set[str]) -> ImportedScript:
    """Compare a script with the earlier import, and return its state."""
    own = graph.get(graph.known_as.get(script.name, ""))
    if own is None:
        return _unknown(graph, script, names)
    noted = dict(own.known_as[script.name])
    found = ImportedScript(script.name, own.id, own.path, "kept")
    if not noted or set(script.digests.values()) <= set(noted.values()):  # of one of the texts that it had in releases
        return found
    version = script.released_as(noted)
    if version is not None:
        return replace(
            found, notes=(f"it was released with {version} since: write that to the metadata of {own.path}",)
        )
    note = f"it has changed since it was imported; {own.path} was not changed: check if it needs the same change"
    return replace(found, done="changed", notes=(note,))


def _unknown(graph: Graph, script: ForeignScript, names: set[str]) -> ImportedScript:
    """Return the state of a script with a new name: renamed since its import, or to be created."""
    for revision in graph:
        before = [name for name, noted in revision.known_as.items() if dict(noted) == script.digests]
        if before and before[0] not in names:
            note = f"it was called {before[0]} when it was imported; {revision.path} was not changed"
            return ImportedScript(script.name, revision.id, revision.path, "renamed", (note,))
    return ImportedScript(script.name, revision_of(script.name), "", "created")


def _check_order(states: Sequence[ImportedScript]) -> None:
    new: str | None = None
    for state in states:
        if state.done == "created":
            new = new or state.name
        elif new is not None:
            raise Refused(
                f"{new} is new and comes before {state.name}, which was imported already, so checkpoints may have "
                f"{state.name} without it; rename it so that it comes last, or write the revision by hand"
            )


def _drafts(
    project: Project, tool: OtherTool, scripts: Sequence[ForeignScript], next_version: str | None
) -> list[_Draft]:
    config, graph = project.config, project.graph
    parents, drafts = to_follow(graph), list[_Draft]()
    for script in scripts:
        rev = revision_of(script.name)
        with code_of(tool):
            text, notes = script.converted(rev, parents, next_version)
        path = _folder(config, graph) / _file_name(config, script, rev, parents)
        done = ImportedScript(script.name, rev, os.fspath(path), "created", tuple(notes))
        drafts.append(_Draft(path, text, done))
        parents = (rev,)
    return drafts


def _folder(config: Config, graph: Graph) -> Path:
    """Return the project's folder that holds the newest script; by default the first folder."""
    newest = Path(graph[graph.heads[0]].path) if graph.heads else None
    return next((each for each in config.versions if newest and each.absolute() in newest.parents), config.versions[0])


def _file_name(config: Config, script: ForeignScript, revision: str, parents: tuple[str, ...]) -> str:
    draft = create.Draft(revision, script.title, script.created, parents)
    return create.file_name(config.file_template, draft, config.slug_length)


def _check(graph: Graph, scripts: Sequence[ForeignScript], drafts: Sequence[_Draft]) -> None:
    """Check the new scripts before any is written; faults are reported for the original script."""
    revisions: list[Revision] = []
    faults: list[Fault] = []
    for script, draft in zip(scripts, drafts, strict=True):
        revision, wrong = read_text(draft.text.encode(), script.path)
        faults += [Fault(script.path, 1, fault.message) for fault in wrong]
        revisions += [revision] if revision else []
    faults += validate.faults([*graph, *revisions]) if not faults else []
    if faults:
        raise FaultyScripts(faults)


def _write(drafts: Sequence[_Draft]) -> None:
    """Write all scripts, or none."""
    written: list[Path] = []
    try:
        for draft in drafts:
            create.write_new(draft.path, draft.text)
            written.append(draft.path)
    except CannotWrite:
        for path in written:
            path.unlink(missing_ok=True)
        raise
