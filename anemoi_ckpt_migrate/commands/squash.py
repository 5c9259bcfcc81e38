"""The command that replaces several scripts by one: squash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.revision import chosen_id, update_head_file
from anemoi_ckpt_migrate.errors import CannotWrite, FaultyScripts, Refused, UsageError
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import resolve, targets, validate
from anemoi_ckpt_migrate.scripts import create, hooks
from anemoi_ckpt_migrate.scripts.parse import read_script
from anemoi_ckpt_migrate.scripts.source import signature_of, source_of
from anemoi_ckpt_migrate.scripts.squash import render
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Squashed:
    """The result of `squash`.

    Attributes
    ----------
    revision, path : str
        The id and the path of the new script.
    replaced : tuple of str
        The revisions that it replaces, in order.
    removed : tuple of str
        Their scripts, which were removed.
    """

    revision: str
    path: str
    replaced: tuple[str, ...]
    removed: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {**asdict(self), "replaced": list(self.replaced), "removed": list(self.removed)}


def squash(stretch: str, name: str, *, rev_id: str | None = None, project: Project | StrPath | None = None) -> Squashed:
    """Replace a stretch of history by one script, which lists the revisions it replaces.

    A checkpoint with none of these revisions gets them as one step. One with some of them gets the others. One with
    all of them has the new revision. The old scripts are removed: the new one holds their code.

    Parameters
    ----------
    stretch : str
        ``A:B``: the first and the last revision. All revisions in between are squashed too.
    name : str
        The name of the new revision, in one line.
    rev_id : str, optional
        Its id; by default a new one.
    project : Project or path, optional
        The project; by default that of the current folder.

    Raises
    ------
    Refused
        The stretch holds a barrier, a squashed revision, a second head, or a revision before its end that one outside
        follows.
    UsageError
        There is no such stretch.
    MigrateError
        The project cannot be read, or the script cannot be written.
    """
    found = resolve_project(project)
    graph, config = found.graph, found.config
    create.check_name(name)
    revision = chosen_id(graph, rev_id)
    members = [graph[rev] for rev in _stretch(graph, stretch, config.package)]
    path = Path(members[-1].path)
    draft = create.Draft(revision, name, create.now(config.timezone))
    new = path.with_name(os.path.basename(create.file_name(config.file_template, draft, config.slug_length)))
    create.write_new(new, _squashed_text(draft, members))
    _check_squashed(new, graph, members)
    removed = tuple(member.path for member in members)
    for old in removed:
        _remove(old, new)
    update_head_file(config)
    hooks.run_hooks(config.hooks, new)
    return Squashed(revision, os.fspath(new), tuple(member.id for member in members), removed)


def _stretch(graph: Graph, text: str, package: str | None) -> list[str]:
    wanted = targets.parse_range(text)
    if targets.CURRENT in (wanted.start, wanted.end):
        raise UsageError("squash does not take `current`, because it changes scripts and not checkpoints")
    start = () if wanted.start is None else resolve.resolve(graph, wanted.start, package)
    end = None if wanted.end is None else resolve.state(graph, wanted.end, package)
    members = resolve.between(graph, start, end, resolve.line_of(graph, wanted.start))
    if len(members) < 2:
        held = f"{len(members)} revision{'s' * (len(members) != 1)}"
        raise UsageError(f"{text!r} holds {held}; squash needs two or more, the earlier end first")
    inside = set(members)
    for rev in members:
        _check_squashable(graph, graph[rev], inside, members[-1])
    return members


def _check_squashable(graph: Graph, revision: Revision, inside: set[str], last: str) -> None:
    if revision.final:
        raise Refused(f"{revision.id} ({revision.name}) is a barrier, which cannot be squashed; squash up to it")
    if revision.replaces:
        raise Refused(f"{revision.id} ({revision.name}) is already squashed; squash the revisions after it")
    outside = [child for child in graph.children[revision.id] if child not in inside]
    if outside and revision.id != last:
        raise Refused(f"{outside[0]} follows {revision.id} inside the range; rebase it, or squash up to {revision.id}")
    if not outside and revision.id != last and not graph.children[revision.id]:
        raise Refused(f"{revision.id} is a head beside {last}; merge the two, or squash one branch")


def _squashed_text(draft: create.Draft, members: list[Revision]) -> str:
    inside = {member.id for member in members}

    def outside(words: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for several in words for word in several if word not in inside))

    return render.squashed(
        draft.name,
        draft.revision,
        create.one_or_several(outside(member.parents for member in members)),
        [(_facts(member), source_of(member)) for member in members],
        dict(members[-1].versions),
        draft.created.isoformat(" ", "seconds"),
        branch_labels=create.one_or_several(outside(member.labels for member in members)),
        depends_on=create.one_or_several(outside(member.depends_on for member in members)),
    )


def _facts(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.id,
        "down_revision": create.one_or_several(revision.parents),
        "depends_on": revision.depends_on,
        "branch_labels": revision.labels,
        "name": revision.name,
        "reversible": revision.reversible,
        "versions": dict(revision.versions),
        "signature": signature_of(revision),
        **({"known_as": dict(revision.known_as)} if revision.known_as else {}),
    }


def _check_squashed(path: Path, graph: Graph, members: list[Revision]) -> None:
    """Check that the new script can replace the old ones; remove it if not."""
    script, wrong = read_script(os.path.abspath(path))
    old = {member.id for member in members}
    left = [revision for revision in graph if revision.id not in old]
    faults = [*wrong, *(validate.faults([*left, script]) if script else ())]
    if faults:
        path.unlink()
        raise FaultyScripts(faults)


def _remove(old: str, new: Path) -> None:
    try:
        os.remove(old)
    except OSError as error:
        raise CannotWrite(
            f"{new} replaces {old}, which could not be removed ({error.strerror}); remove it yourself"
        ) from error
