"""The metadata of a migration script, and the type of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.util.dataclass import dataclass, field

CkptType = dict[str, Any]
"""A checkpoint as a migration sees it: the dict that `torch.load` would return."""


@dataclass(frozen=True)
class MigrationMetadata:
    """Metadata of a migration script.

    Attributes
    ----------
    versions : mapping of str to str
        The version of the script format under ``"migration"``, and the installed version of the tracked package at
        the time of the script's creation under its name.
    final : bool
        Whether the revision is a barrier, which neither upgrades nor downgrades cross.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    final: bool = False
