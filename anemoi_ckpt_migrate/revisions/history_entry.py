"""Revisions as listed and drawn: facts about each, and its state in a checkpoint. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, field


@dataclass(frozen=True)
class HistoryEntry:
    """A line of history.

    Attributes
    ----------
    revision, name : str
        The revision's id and its name.
    parents, depends_on : tuple of str
        Its parents; revisions that must be applied first without being parents.
    labels : tuple of str
        Branch labels that its script gives.
    head, final, reversible : bool
        Whether it has no children, is a barrier, can be undone.
    known : bool
        Whether a script for it exists here.
    applied : bool or None
        Whether the checkpoint has it; None without a checkpoint.
    here : bool
        Whether it is one of the heads of the checkpoint.
    recognised : bool
        Whether the checkpoint does not record it, but was recognised to have it.
    checkpoints : int or None
        How many of several checkpoints have it as a head; None if nobody counted them.
    path : str or None
        Its script, if there is one here.
    versions : mapping of str to str
        The versions it notes.
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
    checkpoints: int | None = None

    def to_data(self) -> dict[str, Any]:
        """Return the data for ``--json``."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
