"""The head file lists the heads, so that two people who each add one get a conflict in version control."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import CannotWrite

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph

NAME = "HEAD"


def write(folder: Path, graph: Graph) -> Path:
    """Write the head file into a folder of scripts, and return its path.

    Raises
    ------
    CannotWrite
        The file cannot be written.
    """
    path = folder / NAME
    try:
        path.write_text(_text(graph), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"the head file {path} could not be written ({error.strerror})") from error
    return path


def problem(folder: Path, graph: Graph) -> str | None:
    """Return a description of the fault in the head file; None if it is up to date."""
    path, way = folder / NAME, "`ckpt-migrate heads --write` writes it"
    try:
        found = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return f"the head file {path} is missing; {way}"
    except (OSError, ValueError) as error:
        return f"the head file {path} cannot be read ({getattr(error, 'strerror', None) or error}); {way}"
    if found == _text(graph):
        return None
    if "<<<<<<<" in found:
        return f"the head file {path} has a conflict: merge the heads, then {way}"
    return f"the head file {path} does not name the current heads; {way}"


def _text(graph: Graph) -> str:
    lines = [f"{head} {graph[head].name}" for head in graph.heads]
    return "".join(f"{' '.join(line.split())}\n" for line in lines)
