"""Other tools that list their own migrations in checkpoints: what such a tool is, and which one a project follows."""

from anemoi_ckpt_migrate.other_tools.interface import Done, Entry, ForeignScript, OtherTool
from anemoi_ckpt_migrate.record.record import Undo

__all__ = ["Done", "Entry", "ForeignScript", "OtherTool", "Undo"]
