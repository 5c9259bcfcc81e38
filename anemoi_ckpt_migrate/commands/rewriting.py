"""The commands that change scripts that are there: edit, rebase, squash, release."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import manifests, resolving, soundness, targets
from anemoi_ckpt_migrate.commands.arguments import StrPath
from anemoi_ckpt_migrate.commands.authoring import chosen_id, update_head_file
from anemoi_ckpt_migrate.commands.project import Project, open_project, opened
from anemoi_ckpt_migrate.errors import CannotWrite, FaultyScripts, MigrateError, ReadOnly, Refused, UsageError
from anemoi_ckpt_migrate.graph import Graph, Revision
from anemoi_ckpt_migrate.scripts import editing, headfile, hooks, released, squashing, writer
from anemoi_ckpt_migrate.scripts.reader import read_script
from anemoi_ckpt_migrate.scripts.sources import signature_of, source_of


@dataclass(frozen=True)
class Rebased:
    """What `rebase` did.

    Attributes
    ----------
    revision, path : str
        Which script.
    before, after : tuple of str
        What it followed, and what it follows now; the same if there was nothing to do.
    forgotten : tuple of str
        Files that said what models are at revisions that moved, which is no longer so: they are gone.
    """

    revision: str
    path: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    forgotten: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        lists = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lists}


@dataclass(frozen=True)
class Squashed:
    """What `squash` did.

    Attributes
    ----------
    revision, path : str
        The new script.
    replaced : tuple of str
        The revisions that it stands for, in order.
    removed : tuple of str
        Their scripts, which are gone.
    """

    revision: str
    path: str
    replaced: tuple[str, ...]
    removed: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**asdict(self), "replaced": list(self.replaced), "removed": list(self.removed)}


@dataclass(frozen=True)
class Release:
    """What `release` did.

    Attributes
    ----------
    path : str
        The file that notes what was released.
    revisions : tuple of str
        Those that it notes now and did not before.
    """

    path: str
    revisions: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"path": self.path, "revisions": list(self.revisions)}


def edit(target: str = "head", *, project: Project | StrPath | None = None) -> Revision:
    """Open a script in the user's editor, ``$VISUAL`` or ``$EDITOR``, and return it as it is afterwards.

    Parameters
    ----------
    target : str
        The revision.
    project : Project or path, optional
        Where; by default that of the current folder.

    Raises
    ------
    MigrateError
        There is no such script, or no editor, or it failed.
    FaultyScripts
        The script is faulty now.
    """
    import subprocess

    found = opened(project)
    script = found.graph[resolving.one(found.graph, targets.parse(target))]
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not words:
        raise UsageError(f"no editor is set; set VISUAL or EDITOR, or open {script.path} yourself")
    try:
        code = subprocess.run([*words, script.path]).returncode  # noqa: S603  (the user's own editor)
    except OSError as error:
        raise MigrateError(f"the editor {words[0]} could not be started ({error.strerror})") from error
    if code:
        raise MigrateError(f"the editor {words[0]} ended with exit code {code}; the script is {script.path}")
    edited = _read_again(script.path)
    open_project(found.config.path)  # which says what is wrong with the graph by now
    return edited


def rebase(target: str, onto: str | None = None, *, project: Project | StrPath | None = None) -> Rebased:
    """Have a script follow another revision: ``down_revision`` is rewritten.

    What manifests said of earlier revisions, at those that move, is removed.

    What follows the script goes with it. Checkpoints that have it already and lack what it follows now are refused by
    `upgrade`, which says what to do with them.

    Parameters
    ----------
    target : str
        The revision.
    onto : str, optional
        What it is to follow; by default the one other head there is. ``base`` for nothing.
    project : Project or path, optional
        Where; by default that of the current folder.

    Raises
    ------
    Refused
        It was released; it is a merge, or something that another script stands for.
    UsageError
        It would come before itself; it is not clear what to follow.
    MigrateError
        The project cannot be read, or the script cannot be changed.
    """
    found = opened(project)
    graph, config = found.graph, found.config
    script = graph[resolving.one(graph, targets.parse(target))]
    parents = _onto(graph, script, onto)
    if parents == script.parents:
        return Rebased(script.id, script.path, parents, parents)
    _check_movable(graph, script, parents)
    noted = released.read(config.versions[0])
    for rev in (script.id, *(part.id for part in script.replaces)):
        if rev in noted:
            raise Refused(f"{rev} was released, and checkpoints have it where it is; merge the branches instead")
    stale = manifests.bridges_about(config.versions[0], _moving(graph, script))
    try:
        editing.set_parents(Path(script.path), parents)
    except ReadOnly:
        raise Refused(f"{script.path} is read-only; allow writing with `chmod u+w`") from None
    update_head_file(config)
    manifests.remove(stale)
    return Rebased(script.id, script.path, script.parents, parents, tuple(map(os.fspath, stale)))


def _moving(graph: Graph, script: Revision) -> set[str]:
    """Return a revision, what rests on it, and what these stand for."""
    moving = graph.above([script.id])
    return moving | {part.id for revision in moving for part in graph[revision].replaces}


def squash(stretch: str, name: str, *, rev_id: str | None = None, project: Project | StrPath | None = None) -> Squashed:
    """Replace a stretch of history by one script, which knows what it stands for.

    Checkpoints that have none of the stretch get it as one step; those that have some of it go on from there; those
    that have all of it have it. The old scripts are removed: the new one holds their code.

    Parameters
    ----------
    stretch : str
        ``A:B``: the first and the last revision. All that lies between is squashed too.
    name : str
        What the new revision is called, in a line.
    rev_id : str, optional
        Its id; by default a new one.
    project : Project or path, optional
        Where; by default that of the current folder.

    Raises
    ------
    Refused
        The stretch holds a barrier, or a revision that is squashed already, or one that something outside follows.
    UsageError
        There is no such stretch.
    MigrateError
        The project cannot be read, or does not take the script.
    """
    found = opened(project)
    graph, config = found.graph, found.config
    writer.check_name(name)
    revision = chosen_id(graph, rev_id)
    members = [graph[rev] for rev in _stretch(graph, stretch, config.package)]
    path = Path(members[-1].path)
    draft = writer.Draft(revision, name, writer.now(config.timezone))
    new = path.with_name(os.path.basename(writer.file_name(config.file_template, draft, config.slug_length)))
    writer.write_new(new, _squashed_text(draft, members))
    _check_squashed(new, graph, members)
    removed = tuple(member.path for member in members)
    for old in removed:
        _remove(old, new)
    update_head_file(config)
    hooks.run_hooks(config.hooks, new)
    return Squashed(revision, os.fspath(new), tuple(member.id for member in members), removed)


def release(*, project: Project | StrPath | None = None) -> Release:
    """Note all scripts as released: from now on `check` fails if one of them is changed, moved or removed.

    Raises
    ------
    Refused
        What was released before is not any more what it was.
    MigrateError
        The project cannot be read, or does not take the file.
    """
    found = opened(project)
    folder = found.config.versions[0]
    before = released.read(folder)
    wrong = [problem.sentence for problem in released.problems(folder, found.graph)]
    if wrong:
        raise Refused(wrong[0])
    path = released.write(folder, found.graph)
    return Release(os.fspath(path), tuple(rev for rev in released.read(folder) if rev not in before))


def write_head_file(*, project: Project | StrPath | None = None) -> str:
    """Write the file that names the heads, and return its path.

    Raises
    ------
    UsageError
        The project has none.
    MigrateError
        The project cannot be read, or does not take the file.
    """
    found = opened(project)
    if not found.config.head_file:
        raise UsageError(f"the project has no head file; set `head_file = true` in {found.config.path}")
    return os.fspath(headfile.write(found.config.versions[0], found.graph))


def _onto(graph: Graph, script: Revision, onto: str | None) -> tuple[str, ...]:
    if onto == "base":
        return ()
    if onto is not None:
        return (resolving.one(graph, targets.parse(onto)),)
    above = graph.above([script.id])
    others = [head for head in graph.heads if head not in above]
    if not others:
        raise UsageError(f"there is no other head for {script.id} to follow; say with --onto what it is to follow")
    if len(others) > 1:
        raise UsageError(f"there are {len(others)} other heads: {', '.join(others)}; say with --onto which to follow")
    return (others[0],)


def _check_movable(graph: Graph, script: Revision, parents: tuple[str, ...]) -> None:
    if len(script.parents) > 1:
        raise Refused(f"{script.id} is a merge of {', '.join(script.parents)}; rebase what it merges, then remove it")
    moved = [dataclasses.replace(rev, parents=parents) if rev.id == script.id else rev for rev in graph]
    if soundness.faults(moved):
        raise UsageError(f"{', '.join(parents)} needs {script.id}, which would come before itself")


def _stretch(graph: Graph, text: str, package: str | None) -> list[str]:
    wanted = targets.parse_range(text)
    if targets.CURRENT in (wanted.start, wanted.end):
        raise UsageError("squash works on scripts; current is about a checkpoint")
    start = () if wanted.start is None else resolving.resolve(graph, wanted.start, package)
    end = None if wanted.end is None else resolving.state(graph, wanted.end, package)
    members = resolving.between(graph, start, end, resolving.line_of(graph, wanted.start))
    if len(members) < 2:
        held = f"{len(members)} revision{'s' * (len(members) != 1)}"
        raise UsageError(f"{text!r} holds {held}; a stretch is at least two, the first one first")
    inside = set(members)
    for rev in members:
        _check_squashable(graph, graph[rev], inside, members[-1])
    return members


def _check_squashable(graph: Graph, revision: Revision, inside: set[str], last: str) -> None:
    if revision.final:
        raise Refused(f"{revision.id} ({revision.name}) is a barrier, which nothing can stand for; squash up to it")
    if revision.replaces:
        raise Refused(f"{revision.id} ({revision.name}) is squashed already; squash what follows it")
    outside = [child for child in graph.children[revision.id] if child not in inside]
    if outside and revision.id != last:
        raise Refused(f"{outside[0]} follows {revision.id}, in the middle; rebase it, or squash up to {revision.id}")
    if not outside and revision.id != last and not graph.children[revision.id]:
        raise Refused(f"{revision.id} is a head beside {last}; merge the two, or squash one branch")


def _squashed_text(draft: writer.Draft, members: list[Revision]) -> str:
    inside = {member.id for member in members}

    def outside(words: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for several in words for word in several if word not in inside))

    return squashing.squashed(
        draft.name,
        draft.revision,
        writer.one_or_several(outside(member.parents for member in members)),
        [(_facts(member), source_of(member)) for member in members],
        dict(members[-1].versions),
        draft.created.isoformat(" ", "seconds"),
        branch_labels=writer.one_or_several(outside(member.labels for member in members)),
        depends_on=writer.one_or_several(outside(member.depends_on for member in members)),
    )


def _facts(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.id,
        "down_revision": writer.one_or_several(revision.parents),
        "depends_on": revision.depends_on,
        "branch_labels": revision.labels,
        "name": revision.name,
        "reversible": revision.reversible,
        "versions": dict(revision.versions),
        "signature": signature_of(revision),
        **({"known_as": dict(revision.known_as)} if revision.known_as else {}),
    }


def _check_squashed(path: Path, graph: Graph, members: list[Revision]) -> None:
    """Check that the new script can take the place of the old ones; it goes again if not."""
    script, wrong = read_script(os.path.abspath(path))
    old = {member.id for member in members}
    left = [revision for revision in graph if revision.id not in old]
    faults = [*wrong, *(soundness.faults([*left, script]) if script else ())]
    if faults:
        path.unlink()
        raise FaultyScripts(faults)


def _remove(old: str, new: Path) -> None:
    try:
        os.remove(old)
    except OSError as error:
        raise CannotWrite(
            f"{new} stands for {old}, which could not be removed ({error.strerror}); remove it"
        ) from error


def _read_again(path: str) -> Revision:
    script, faults = read_script(path)
    if faults or script is None:
        raise FaultyScripts(faults)
    return script
