"""Revisions as they are listed and drawn: facts about each, beside what a checkpoint has. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class HistoryEntry:
    """A line of history.

    Attributes
    ----------
    revision, name : str
        Which.
    parents, depends_on : tuple of str
        What it follows; what must be applied before it without being a parent.
    labels : tuple of str
        Those that its script gives to its branch.
    head, final, reversible : bool
        Whether nothing follows it, it is a barrier, it can be undone.
    known : bool
        Whether there is a script for it here.
    applied : bool or None
        Whether the checkpoint has it; None where none was asked about.
    here : bool
        Whether it is one of the heads of the checkpoint.
    recognised : bool
        Whether the checkpoint does not record that it has it: it is recognised.
    path : str or None
        Its script, if there is one here.
    versions : mapping of str to str
        What it notes of versions.
    sets_up : bool
        Whether its script has a ``migrate_setup``.
    """

    revision: str
    name: str
    parents: tuple[str, ...]
    depends_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    head: bool = False
    final: bool = False
    reversible: bool = True
    known: bool = True
    applied: bool | None = None
    here: bool = False
    path: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    sets_up: bool = False
    recognised: bool = False

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
