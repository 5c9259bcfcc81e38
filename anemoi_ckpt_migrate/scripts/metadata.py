"""What a migration script says about itself, and the type that it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CkptType = dict[str, Any]
"""A checkpoint as a migration sees it: what `torch.load` would return."""


@dataclass(frozen=True)
class MigrationMetadata:
    """Metadata of a migration script.

    Attributes
    ----------
    versions : mapping of str to str
        ``"migration"``, the version of the script format, and the version of the tracked package that was installed
        when the script was made, by its name.
    final : bool
        Whether the revision is a barrier: nothing crosses it, upwards or downwards.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    final: bool = False
