"""What a record says of where parameters are, and what copies of them are called, where a checkpoint does not tell."""

from __future__ import annotations

from typing import Any

from anemoi_ckpt_migrate.operations.base import Operation, operation
from anemoi_ckpt_migrate.operations.copies import Copy


@operation
class Lacks(Operation):
    """Say what stands before the names in the state dict and not in a copy, of which no name changes."""

    written = False
    lacking: str

    def apply(self, copy: Copy) -> list[Any]:
        """Call what the copy has as the state dict does."""
        if copy.place is not None:
            keys = {name: copy.place.key(name) for name in copy.table}
            copy.place.lead, copy.place.lacking = "", self.lacking
            copy.table.rename({name: self.lacking + key for name, key in keys.items()})
        return []
