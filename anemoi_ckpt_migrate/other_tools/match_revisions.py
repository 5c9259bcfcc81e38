"""Match the migrations that another tool listed in a checkpoint to revisions. Pure: no files, no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import LedgerConflict
from anemoi_ckpt_migrate.revisions import planner

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.other_tools.interface import Entry
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision


class Adopted(NamedTuple):
    """The result of matching the migrations listed in a checkpoint.

    Attributes
    ----------
    revision : str or None
        The last revision that the scripts know; None if they know none.
    known : dict of str to Entry
        The migrations that the scripts know, by their names here.
    extra : tuple of Entry
        The migrations after those, which no script knows.
    """

    revision: str | None
    known: dict[str, Entry]
    extra: tuple[Entry, ...]


def revision_of(name: str) -> str:
    """Return the id of the revision for a migration, derived from its name so that it is the same everywhere."""
    import hashlib  # only files that another tool has migrated need it

    return hashlib.sha256(name.encode()).hexdigest()[:12]


def adopt(graph: Graph, entries: Sequence[Entry], key: str, whole: bool = True) -> Adopted:
    """Match the migrations listed in a checkpoint to revisions.

    A migration is matched by its name, or, if it had another name, by the signature of its script.

    Parameters
    ----------
    graph : Graph
        All revisions.
    entries : sequence of Entry
        The listed migrations.
    key : str
        The key of the list, for the message.
    whole : bool
        Whether a revision that stands for several migrations needs all of them.

    Raises
    ------
    LedgerConflict
        They do not match the scripts from base or from a barrier: one is missing, or the order differs.
    """
    if not entries:
        return Adopted(None, {}, ())
    called = _called(graph, entries)
    known = {name: entry for name, entry in zip(called, entries, strict=True) if name is not None}
    extra = tuple(entry for name, entry in zip(called, entries, strict=True) if name is None)
    # If no migration is known, the checkpoint may come from after an unknown barrier, so nothing can be matched.
    last = graph.known_as[next(reversed(known))] if known else None
    lineage = planner.lineage_of(graph, [last] if last else graph.heads)
    expected = [name for revision in lineage for name in revision.known_as]
    found = called[: len(called) - len(extra)]
    if last is None or found != expected[: len(found)] or (whole and len(found) < len(expected)):
        raise LedgerConflict([entry.name for entry in entries], expected, key)
    return Adopted(last, known, extra)


def noted_as(revision: Revision, known: dict[str, Entry]) -> dict[str, str]:
    """Return the migrations that a revision stands for in a checkpoint, by their names and signatures there."""
    there = {name: known.get(name) for name in revision.known_as}
    return {
        name if entry is None else entry.name: signature(revision.known_as[name]) if entry is None else entry.signature
        for name, entry in there.items()
    }


def signature(digests: Mapping[str, str]) -> str:
    """Return the digest of a script that this Python makes, or any other if that is missing; empty if there is none.

    Parameters
    ----------
    digests : mapping of str to str
        Digests by the first Python that makes each, as ``"3.12"``; a key that names no Python stands for all.
    """
    fitting = [python for python in digests if _version(python) <= sys.version_info[:2]]
    return digests[max(fitting, key=_version)] if fitting else next(iter(digests.values()), "")


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".") if part.isdecimal())


def _called(graph: Graph, entries: Sequence[Entry]) -> list[str | None]:
    """Return the name of each migration here; None for one that no script knows."""
    there = {entry.name for entry in entries}
    by_signature = {
        signature: name
        for revision in graph
        for name, digests in revision.known_as.items()
        if name not in there
        for signature in digests.values()
    }
    return [entry.name if entry.name in graph.known_as else by_signature.get(entry.signature) for entry in entries]
