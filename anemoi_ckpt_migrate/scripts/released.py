"""The file of released scripts: the parents and the signature of each, which must not change any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import CannotWrite, ConfigurationError
from anemoi_ckpt_migrate.scripts.source import signature_of
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision

NAME = "RELEASED"
_HEADING = "# Released revisions: id, parents, signature. Written by `ckpt-migrate release`.\n"


@dataclass(frozen=True)
class Released:
    """The state of a script at its release.

    Attributes
    ----------
    parents : tuple of str
        The revisions it followed.
    signature : str
        The digest of its behaviour.
    """

    parents: tuple[str, ...]
    signature: str


def read(folder: Path) -> dict[str, Released]:
    """Return the released scripts by revision; an empty dict if the file does not exist.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or is malformed.
    """
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path}, the list of released scripts, cannot be read ({reason})") from error
    found = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if len(words) not in (0, 3):
            raise ConfigurationError(
                f"{path}:{number}: expected a revision, its parents and a signature; "
                "restore the file from version control"
            )
        if words:
            parents = () if words[1] == "base" else tuple(words[1].split(","))
            found[words[0]] = Released(parents, words[2])
    return found


def write(folder: Path, graph: Graph) -> Path:
    """Write all revisions to the file, and return its path. Earlier entries stay.

    Raises
    ------
    CannotWrite, ConfigurationError, MigrationFailed
        The file cannot be written, or the file or a script cannot be read.
    """
    path = folder / NAME
    noted = {revision.id: _note(revision) for found in graph for revision in (found.replaces or (found,))}
    noted |= {squashed.id: _note(squashed) for squashed in graph if squashed.replaces}
    released = read(folder) | noted
    lines = [
        f"{rev} {','.join(sorted(entry.parents)) or 'base'} {entry.signature}\n"
        for rev, entry in sorted(released.items())
    ]
    try:
        path.write_text("".join([_HEADING, *lines]), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{path} could not be written ({error.strerror})") from error
    return path


class Problem(NamedTuple):
    """A change to a released script.

    Attributes
    ----------
    script : Revision or None
        The script; None if it was removed.
    name : str
        The name in the script that the problem concerns.
    sentence : str
        A description of the problem.
    """

    script: Revision | None
    name: str
    sentence: str


def problems(folder: Path, graph: Graph) -> Iterator[Problem]:
    """Yield the released scripts that were changed, moved or removed.

    Raises
    ------
    ConfigurationError, MigrationFailed
        The file, or a script, cannot be read.
    """
    opened = graph.opened()
    for rev, then in read(folder).items():
        seen = graph if rev in graph else opened
        if rev not in seen:
            gone = f"{rev} was released, but its script is missing; restore it, or squash it"
            yield Problem(None, "revision", gone)
            continue
        now = seen[rev]
        if signature_of(now) != then.signature:
            what = "has changed since it was released; undo the change, and make a new revision"
            yield Problem(now, "migrate", f"{rev} ({now.name}) {what}")
        elif sorted(now.parents) != sorted({seen.standing(parent) for parent in then.parents}):
            parents = ", ".join(then.parents) or "nothing"
            moved = f"{rev} ({now.name}) no longer follows {parents}, as it did when it was released"
            yield Problem(now, "down_revision", moved)


def _note(revision: Revision) -> Released:
    return Released(revision.parents, signature_of(revision))
