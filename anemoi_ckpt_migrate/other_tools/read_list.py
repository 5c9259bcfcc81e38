"""Read the list of another tool in a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedLedger
from anemoi_ckpt_migrate.other_tools.find import code_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.text import first_repeated

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.other_tools.interface import Done, Entry, OtherTool


def listed(tool: OtherTool, tree: Any) -> tuple[Entry, ...] | None:
    """Return the migrations that a tool listed in a checkpoint; None if there is no list.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    with code_of(tool):
        found = tool.find(tree)
        if found is None:
            return None
        if not is_a(found, list):
            raise DamagedLedger(f"it is a {type(found).__name__}", tool.key)
        entries = tuple(tool.entry(value)._replace(found=value) for value in found)
    if (twice := first_repeated(entry.name for entry in entries)) is not None:
        raise DamagedLedger(f"{twice} is in it twice", tool.key)
    return entries


def history(tool: OtherTool, tree: Any) -> tuple[Done, ...] | None:
    """Return the history that a tool keeps beside its list; None if there is none."""
    with code_of(tool):
        return tool.history(tree)
