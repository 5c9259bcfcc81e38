"""Targets as the user writes them, parsed into values before any graph is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from anemoi_ckpt_migrate.errors import UsageError


@dataclass(frozen=True)
class Named:
    """A target that is one word: ``head``, ``heads``, ``base`` or ``barrier``."""

    word: str


@dataclass(frozen=True)
class Relative:
    """``+N`` or ``-N``: so many steps up (positive) or down (negative)."""

    steps: int


@dataclass(frozen=True)
class Id:
    """A full or partial revision id."""

    text: str


Target = Named | Relative | Id

WORDS = ("head", "heads", "base", "barrier")
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.]*"


def parse(text: str) -> Target:
    """Parse a target.

    Raises
    ------
    UsageError
        It cannot be a target.
    """
    if text in WORDS:
        return Named(text)
    if re.fullmatch(r"[+-][0-9]{1,9}", text):
        if int(text) == 0:
            raise UsageError(f"the target {text} asks for no step at all")
        return Relative(int(text))
    if re.fullmatch(ID_PATTERN, text):
        return Id(text)
    raise UsageError(f"{text!r} is no target; write {', '.join(WORDS)}, +N, -N, or a revision id (its start is enough)")
