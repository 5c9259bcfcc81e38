"""Differences between two checkpoints beside the parameters, and operations that make them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.plan_operations import ProposedOperation
from anemoi_ckpt_migrate.tree.paths import shown
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

Path = tuple[Any, ...]
"""The keys to a value in a checkpoint."""


@dataclass(frozen=True)
class ItemChange:
    """One change beside the parameters.

    Attributes
    ----------
    kind : str
        ``class moved``, ``copy moved``, ``copy renamed``, ``item added``, ``item dropped``, ``item moved``,
        ``item converted`` or ``option changed``; of optimizers, ``untrained``, ``trained``, ``regrouped`` or
        ``class changed``.
    old, new : str
        The path or the class, before and after; empty if there is none.
    detail : str
        The values.
    confidence : float
        How likely it is.
    """

    kind: str
    old: str
    new: str
    detail: str = ""
    confidence: float = 1.0


@dataclass(frozen=True)
class TreeExplanation:
    """Differences beside the parameters.

    Attributes
    ----------
    changes : tuple of ItemChange
        The changes that the operations make.
    operations : tuple of ProposedOperation
        The operations, in order.
    """

    changes: tuple[ItemChange, ...] = ()
    operations: tuple[ProposedOperation, ...] = ()

    def then(self, other: TreeExplanation) -> TreeExplanation:
        """Return both, one after the other."""
        return TreeExplanation(self.changes + other.changes, self.operations + other.operations)

    def at_most(self, confidence: float) -> TreeExplanation:
        """Return it with no confidence above a limit: that of the guesses that it rests on."""
        changes = tuple(replace(each, confidence=min(each.confidence, confidence)) for each in self.changes)
        operations = tuple(replace(each, confidence=min(each.confidence, confidence)) for each in self.operations)
        return TreeExplanation(changes, operations)


def joined(parts: Iterable[TreeExplanation]) -> TreeExplanation:
    """Return several explanations as one, in order."""
    found = TreeExplanation()
    for part in parts:
        found = found.then(part)
    return found


def written(path: Sequence[Any]) -> Any:
    """Return a path as a script spells it: text, or a list of keys if one of them has dots."""
    plain = all(isinstance(key, int) or (isinstance(key, str) and "." not in key and key) for key in path)
    return shown(path) if plain else list(path)
