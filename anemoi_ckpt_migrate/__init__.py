"""Migrations for PyTorch checkpoints: what Alembic is for databases.

>>> from anemoi_ckpt_migrate import upgrade
>>> upgrade("runs/last.ckpt", "head")  # doctest: +SKIP
Result(checkpoint='runs/last.ckpt', start=(), end=('3f2a9c1b7d10',), ...)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate._lazy_exports import exports
from anemoi_ckpt_migrate._version import __version__

if TYPE_CHECKING:
    from anemoi_ckpt_migrate import op
    from anemoi_ckpt_migrate.batch.adopt import Adoption, adopt
    from anemoi_ckpt_migrate.batch.job import JobResult
    from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
    from anemoi_ckpt_migrate.batch.report import Report, report
    from anemoi_ckpt_migrate.batch.select import Selection
    from anemoi_ckpt_migrate.commands.adopt_result import AdoptedHistory, AdoptedState, AdoptedStep
    from anemoi_ckpt_migrate.commands.branches import (
        Branch,
        Branches,
        BranchPoint,
        Head,
        branches,
        heads,
        write_head_file,
    )
    from anemoi_ckpt_migrate.commands.check import check
    from anemoi_ckpt_migrate.commands.check_result import Checked, Problem
    from anemoi_ckpt_migrate.commands.clean import Cleaned, CleanedBackup, clean
    from anemoi_ckpt_migrate.commands.compact import Compacted, compact
    from anemoi_ckpt_migrate.commands.current import Current, current
    from anemoi_ckpt_migrate.commands.diff import Diff, diff
    from anemoi_ckpt_migrate.commands.downgrade import downgrade
    from anemoi_ckpt_migrate.commands.edit import edit
    from anemoi_ckpt_migrate.commands.history import History, draw, history
    from anemoi_ckpt_migrate.commands.import_scripts import Import, ImportedScript, import_scripts
    from anemoi_ckpt_migrate.commands.inspect import Inspection, inspect
    from anemoi_ckpt_migrate.commands.manifest import Manifest, manifest, update_manifest
    from anemoi_ckpt_migrate.commands.merge import merge
    from anemoi_ckpt_migrate.commands.prove_rollback import prove_rollback
    from anemoi_ckpt_migrate.commands.rebase import Rebased, rebase
    from anemoi_ckpt_migrate.commands.recover import Recovered, recover
    from anemoi_ckpt_migrate.commands.release import Release, release
    from anemoi_ckpt_migrate.commands.revision import NewRevision, revision
    from anemoi_ckpt_migrate.commands.show import Shown, show
    from anemoi_ckpt_migrate.commands.squash import Squashed, squash
    from anemoi_ckpt_migrate.commands.stamp import stamp
    from anemoi_ckpt_migrate.commands.sync import sync
    from anemoi_ckpt_migrate.commands.upgrade import upgrade
    from anemoi_ckpt_migrate.errors import MigrateError, Refused
    from anemoi_ckpt_migrate.operations.setup_context import MigrationContext
    from anemoi_ckpt_migrate.project.project import Project, init, open_chain, open_project
    from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
    from anemoi_ckpt_migrate.runtime.result import Result
    from anemoi_ckpt_migrate.scripts.metadata import CkptType, MigrationMetadata
    from anemoi_ckpt_migrate.storage.pickle.placeholders import PickledState, pickled_state
    from anemoi_ckpt_migrate.training.lightning import StampingCallback as StampingCallback
    from anemoi_ckpt_migrate.training.load_upgraded import load, upgraded
    from anemoi_ckpt_migrate.training.stamper import Stamper, stamped
    from anemoi_ckpt_migrate.tree import items

# Imported when first asked for: `ckpt-migrate --help` and a migration script need none of it.
_MODULES = {
    "batch.adopt": "Adoption adopt",
    "batch.job": "JobResult",
    "batch.migrate_all": "migrate_all",
    "batch.select": "Selection",
    "batch.report": "Report report",
    "commands.adopt_result": "AdoptedHistory AdoptedState AdoptedStep",
    "commands.branches": "Branch BranchPoint Branches Head branches heads write_head_file",
    "commands.check": "check",
    "commands.check_result": "Checked Problem",
    "commands.clean": "Cleaned CleanedBackup clean",
    "commands.compact": "Compacted compact",
    "commands.current": "Current current",
    "commands.diff": "Diff diff",
    "commands.downgrade": "downgrade",
    "commands.edit": "edit",
    "commands.history": "History draw history",
    "commands.import_scripts": "Import ImportedScript import_scripts",
    "commands.inspect": "Inspection inspect",
    "commands.manifest": "Manifest manifest update_manifest",
    "commands.merge": "merge",
    "commands.prove_rollback": "prove_rollback",
    "commands.rebase": "Rebased rebase",
    "commands.recover": "Recovered recover",
    "commands.release": "Release release",
    "commands.revision": "NewRevision revision",
    "commands.show": "Shown show",
    "commands.squash": "Squashed squash",
    "commands.stamp": "stamp",
    "commands.sync": "sync",
    "commands.upgrade": "upgrade",
    "errors": "MigrateError Refused",
    "operations.setup_context": "MigrationContext",
    "project.project": "Project init open_chain open_project",
    "revisions.history_entry": "HistoryEntry",
    "runtime.result": "Result",
    "scripts.metadata": "CkptType MigrationMetadata",
    "storage.pickle.placeholders": "PickledState pickled_state",
    "training.lightning": "StampingCallback",
    "training.load_upgraded": "load upgraded",
    "training.stamper": "Stamper stamped",
}

# All but StampingCallback, so that `import *` needs no Lightning.
__all__ = [
    "AdoptedHistory",
    "AdoptedState",
    "AdoptedStep",
    "Adoption",
    "Branch",
    "BranchPoint",
    "Branches",
    "Checked",
    "CkptType",
    "Cleaned",
    "CleanedBackup",
    "Compacted",
    "Current",
    "Diff",
    "Head",
    "History",
    "HistoryEntry",
    "Import",
    "ImportedScript",
    "Inspection",
    "JobResult",
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
    "Report",
    "Result",
    "Selection",
    "Shown",
    "Squashed",
    "Stamper",
    "__version__",
    "adopt",
    "branches",
    "check",
    "clean",
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
    "migrate_all",
    "op",
    "open_chain",
    "open_project",
    "pickled_state",
    "prove_rollback",
    "rebase",
    "recover",
    "release",
    "report",
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


_export = exports(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives, or one of the two modules that are public."""
    if name == "op":
        return import_module(f"{__name__}.op")
    if name == "items":
        return import_module(f"{__name__}.tree.items")
    return _export(name)
