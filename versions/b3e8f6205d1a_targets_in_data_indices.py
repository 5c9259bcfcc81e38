"""targets in data indices

anemoi-models 0.9.6 knows target variables, and says which ones are prognostic. Its indices list all variables that they
include, where those before listed what is special to them.

Revision ID: b3e8f6205d1a
Revises: a7d1c04e9b52
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, items, op

revision = "b3e8f6205d1a"
down_revision = "a7d1c04e9b52"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.9.6"})

SIDES = ("input", "output")


operations = [
    op.Rewrite("with_targets", "without_targets", "hyper_parameters.data_indices", optional=True, objects=True),
]


def with_targets(collection: Any, ckpt: CkptType) -> Any:
    """Add the prognostic variables, and targets, of which there are none."""
    if collection is None:
        return None
    if isinstance(collection, dict) or hasattr(collection, "prognostic"):
        raise ValueError("these data indices are of a later release: stamp the checkpoint with that")
    special = {*collection.forcing, *collection.diagnostic}
    collection.target = []
    collection.prognostic = [name for name in collection.name_to_index if name not in special]
    for part, names in parts(collection):
        part._target = []
        part._prognostic = [name for name in names if name not in special]
        for side in SIDES:
            change(getattr(part, side))
    return collection


def without_targets(collection: Any, ckpt: CkptType) -> Any:
    """Take them away; what indices listed before follows from forcing and diagnostic variables."""
    if "PointWiseMLPProcessor" in str(items.get(ckpt, "hyper_parameters.config.model.processor._target_")):
        raise Refused("its processor is a pointwise one, which releases before 0.9.6 do not have")
    if collection is None:
        return None
    if collection.target:
        raise Refused(f"before 0.9.6 there were no target variables, and this model has {collection.target}")
    del collection.target, collection.prognostic
    for (part, _), whole in zip(parts(collection), (True, False), strict=True):
        del part._target, part._prognostic
        forcing, diagnostic = part._forcing, part._diagnostic
        change_back(part.input, forcing, diagnostic if whole else [], "forcing", "diagnostic")
        change_back(part.output, diagnostic, forcing if whole else [], "diagnostic", "forcing")
    return collection


def parts(collection: Any) -> list[tuple[Any, Any]]:
    """Return the indices of data and of the model, with the names among which the prognostic ones are."""
    return [(collection.data, collection.name_to_index), (collection.model, collection.model.input.name_to_index)]


def change(index: Any) -> None:
    """Have an index list what it includes, and know targets."""
    import torch

    excluded = set(index.excludes)
    del index._only, index._removed
    index.includes = sorted(name for name in index.name_to_index if name not in excluded)
    index.excludes = sorted(excluded)
    index.target = torch.empty(0, dtype=torch.int32)


def change_back(index: Any, includes: Any, excludes: Any, only: str, removed: str) -> None:
    """Have an index list what is special to it."""
    del index.target
    index.includes, index.excludes = includes, excludes
    index._only, index._removed = getattr(index, only), getattr(index, removed)
