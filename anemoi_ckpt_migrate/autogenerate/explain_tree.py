"""Explain the differences between two checkpoints beside the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.autogenerate.explain_optimizers import explain_optimizers
from anemoi_ckpt_migrate.autogenerate.match_classes import explain_classes
from anemoi_ckpt_migrate.autogenerate.match_items import explain_items
from anemoi_ckpt_migrate.autogenerate.match_places import explain_places
from anemoi_ckpt_migrate.autogenerate.tree_changes import TreeExplanation, joined


def explain_tree(old: Any, new: Any, main: str | None, names: Mapping[str, str]) -> TreeExplanation:
    """Explain classes, hyper-parameters, optimizers, schedulers, and the places of copies.

    Parameters
    ----------
    old, new : object
        The trees of two checkpoints, without their records.
    main : str or None
        The path of the state dict, if the project configures it.
    names : mapping of str to str
        The new names of parameters that are in both, by the old ones.

    Returns
    -------
    TreeExplanation
        The changes, and operations that make them, to be applied after those on the parameters.
    """
    parts = (explain_classes(old, new), explain_items(old, new), explain_optimizers(old, new))
    return joined((*parts, explain_places(old, new, main, names)))
