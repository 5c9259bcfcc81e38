"""Migrations for PyTorch checkpoints: what Alembic is for databases.

>>> from anemoi_ckpt_migrate import upgrade
>>> upgrade("runs/last.ckpt", "head")  # doctest: +SKIP
Result(checkpoint='runs/last.ckpt', start=(), end=('3f2a9c1b7d10',), ...)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.metadata import CkptType, MigrationMetadata

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.inspecting import Inspection, inspect
    from anemoi_ckpt_migrate.commands.mending import Compacted, Recovered, compact, recover
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
    from anemoi_ckpt_migrate.errors import MigrateError, Refused

# Imported when first asked for: `ckpt-migrate --help` and a migration script need none of it.
_HOMES = {
    "commands.inspecting": ("Inspection", "inspect"),
    "commands.mending": ("Compacted", "Recovered", "compact", "recover"),
    "commands.moving": ("Result", "downgrade", "stamp", "upgrade"),
    "commands.project": ("NewRevision", "Project", "init", "open_project", "revision"),
    "commands.reading": ("Current", "Head", "History", "HistoryEntry", "Shown", "current", "heads", "history", "show"),
    "errors": ("MigrateError", "Refused"),
}

__all__ = [
    "CkptType",
    "Compacted",
    "Current",
    "Head",
    "History",
    "HistoryEntry",
    "Inspection",
    "MigrateError",
    "MigrationMetadata",
    "NewRevision",
    "Project",
    "Recovered",
    "Refused",
    "Result",
    "Shown",
    "__version__",
    "compact",
    "current",
    "downgrade",
    "heads",
    "history",
    "init",
    "inspect",
    "open_project",
    "recover",
    "revision",
    "show",
    "stamp",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
