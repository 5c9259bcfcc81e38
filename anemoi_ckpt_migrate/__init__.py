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
    from anemoi_ckpt_migrate import items, op
    from anemoi_ckpt_migrate.callbacks import StampingCallback as StampingCallback
    from anemoi_ckpt_migrate.checkpoints.placeholders import PickledState, pickled_state
    from anemoi_ckpt_migrate.commands.authoring import (
        NewRevision,
        merge,
        revision,
    )
    from anemoi_ckpt_migrate.commands.checking import (
        Checked,
        Problem,
        check,
    )
    from anemoi_ckpt_migrate.commands.differing import (
        Diff,
        diff,
    )
    from anemoi_ckpt_migrate.commands.histories import (
        History,
        draw,
        history,
    )
    from anemoi_ckpt_migrate.commands.importing import Import, ImportedScript, import_scripts
    from anemoi_ckpt_migrate.commands.inspecting import (
        Inspection,
        inspect,
    )
    from anemoi_ckpt_migrate.commands.loading import load, upgraded
    from anemoi_ckpt_migrate.commands.manifesting import Manifest, manifest, update_manifest
    from anemoi_ckpt_migrate.commands.mending import (
        Compacted,
        Recovered,
        compact,
        recover,
    )
    from anemoi_ckpt_migrate.commands.moving import downgrade, prove_rollback, upgrade
    from anemoi_ckpt_migrate.commands.project import (
        Project,
        init,
        open_chain,
        open_project,
    )
    from anemoi_ckpt_migrate.commands.reading import (
        Branch,
        Branches,
        BranchPoint,
        Current,
        Head,
        Shown,
        branches,
        current,
        heads,
        show,
    )
    from anemoi_ckpt_migrate.commands.rewriting import (
        Rebased,
        Release,
        Squashed,
        edit,
        rebase,
        release,
        squash,
        write_head_file,
    )
    from anemoi_ckpt_migrate.commands.saving import Stamper, stamped
    from anemoi_ckpt_migrate.commands.stamping import stamp
    from anemoi_ckpt_migrate.commands.syncing import sync
    from anemoi_ckpt_migrate.commands.writing import Result
    from anemoi_ckpt_migrate.context import MigrationContext
    from anemoi_ckpt_migrate.entries import (
        HistoryEntry,
    )
    from anemoi_ckpt_migrate.errors import (
        MigrateError,
        Refused,
    )

# Imported when first asked for: `ckpt-migrate --help` and a migration script need none of it.
_HOMES = {
    "callbacks": ("StampingCallback",),
    "checkpoints.placeholders": ("PickledState", "pickled_state"),
    "commands.authoring": ("NewRevision", "merge", "revision"),
    "commands.checking": ("Checked", "Problem", "check"),
    "commands.differing": ("Diff", "diff"),
    "commands.histories": ("History", "draw", "history"),
    "commands.importing": ("Import", "ImportedScript", "import_scripts"),
    "commands.inspecting": ("Inspection", "inspect"),
    "commands.loading": ("load", "upgraded"),
    "commands.manifesting": ("Manifest", "manifest", "update_manifest"),
    "commands.mending": ("Compacted", "Recovered", "compact", "recover"),
    "commands.moving": ("downgrade", "prove_rollback", "upgrade"),
    "commands.project": ("Project", "init", "open_chain", "open_project"),
    "commands.reading": (
        "Branch",
        "BranchPoint",
        "Branches",
        "Current",
        "Head",
        "Shown",
        "branches",
        "current",
        "heads",
        "show",
    ),
    "commands.rewriting": ("Rebased", "Release", "Squashed", "edit", "rebase", "release", "squash", "write_head_file"),
    "commands.saving": ("Stamper", "stamped"),
    "commands.stamping": ("stamp",),
    "commands.syncing": ("sync",),
    "commands.writing": ("Result",),
    "context": ("MigrationContext",),
    "entries": ("HistoryEntry",),
    "errors": ("MigrateError", "Refused"),
}

# All but StampingCallback, so that `import *` needs no Lightning.
__all__ = [
    "Branch",
    "BranchPoint",
    "Branches",
    "Checked",
    "CkptType",
    "Compacted",
    "Current",
    "Diff",
    "Head",
    "History",
    "HistoryEntry",
    "Import",
    "ImportedScript",
    "Inspection",
    "Manifest",
    "MigrateError",
    "MigrationContext",
    "MigrationMetadata",
    "NewRevision",
    "PickledState",
    "Problem",
    "Project",
    "Rebased",
    "Recovered",
    "Refused",
    "Release",
    "Result",
    "Shown",
    "Squashed",
    "Stamper",
    "__version__",
    "branches",
    "check",
    "compact",
    "current",
    "diff",
    "downgrade",
    "draw",
    "edit",
    "heads",
    "history",
    "import_scripts",
    "init",
    "inspect",
    "items",
    "load",
    "manifest",
    "merge",
    "op",
    "open_chain",
    "open_project",
    "pickled_state",
    "prove_rollback",
    "rebase",
    "recover",
    "release",
    "revision",
    "show",
    "squash",
    "stamp",
    "stamped",
    "sync",
    "update_manifest",
    "upgrade",
    "upgraded",
    "write_head_file",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name in ("items", "op"):
        return import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
