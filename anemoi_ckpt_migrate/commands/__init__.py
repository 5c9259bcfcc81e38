"""What the command line does, as functions with typed results. Nothing here prints."""

from anemoi_ckpt_migrate.commands.moving import Result, downgrade, stamp, upgrade
from anemoi_ckpt_migrate.commands.project import NewRevision, Project, init, open_project, revision
from anemoi_ckpt_migrate.commands.reading import (
    Current,
    Head,
    History,
    HistoryEntry,
    Shown,
    current,
    heads,
    history,
    show,
)

__all__ = [
    "Current",
    "Head",
    "History",
    "HistoryEntry",
    "NewRevision",
    "Project",
    "Result",
    "Shown",
    "current",
    "downgrade",
    "heads",
    "history",
    "init",
    "open_project",
    "revision",
    "show",
    "stamp",
    "upgrade",
]
