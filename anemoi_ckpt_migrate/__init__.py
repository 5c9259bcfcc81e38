"""Migrations for PyTorch checkpoints: what Alembic is for databases.

>>> from anemoi_ckpt_migrate import upgrade
>>> upgrade("runs/last.ckpt", "head")  # doctest: +SKIP
Result(checkpoint='runs/last.ckpt', start=(), end=('3f2a9c1b7d10',), ...)
"""

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.commands import (
    Current,
    Head,
    History,
    HistoryEntry,
    NewRevision,
    Project,
    Result,
    Shown,
    current,
    downgrade,
    heads,
    history,
    init,
    open_project,
    revision,
    show,
    stamp,
    upgrade,
)
from anemoi_ckpt_migrate.errors import MigrateError, Refused
from anemoi_ckpt_migrate.metadata import CkptType, MigrationMetadata

__all__ = [
    "CkptType",
    "Current",
    "Head",
    "History",
    "HistoryEntry",
    "MigrateError",
    "MigrationMetadata",
    "NewRevision",
    "Project",
    "Refused",
    "Result",
    "Shown",
    "__version__",
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
