"""Post-write hooks (to be written)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hook:
    kind: str
    target: str


def parse_hooks(path: Path, value: object) -> tuple[Hook, ...]:
    return ()


def run_hooks(hooks: tuple[Hook, ...], script: Path) -> None:
    return
