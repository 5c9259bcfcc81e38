"""model output index of normalizers

The normalizers of anemoi-models 0.14.0 also know which variables the model puts out: those of the data's output without
targets, which the model never sees. It is an index into the data, as the other ones are, and saved.

Revision ID: e17ca3592fd0
Revises: 81f6a3d0c95b
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "e17ca3592fd0"
down_revision = "81f6a3d0c95b"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.14.0"})

OUTPUT = re.compile(r"model\.(?:pre|post)_processors(?:_tendencies)?\.([^.]+)\.(?:.+\.)?_output_idx")
MODEL_OUTPUT = re.compile(OUTPUT.pattern.replace("_output_idx", "_model_output_idx"))


def migrate(ckpt: CkptType) -> CkptType:
    """Add the index to each normalizer, behind that of the data's output."""
    if any(MODEL_OUTPUT.fullmatch(key) for key in ckpt["state_dict"]):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    for copy in copies(ckpt):
        items = []
        for key, value in copy.items():
            items.append((key, value))
            found = OUTPUT.fullmatch(key)
            if found is not None:
                new = key.removesuffix("_output_idx") + "_model_output_idx"
                items.append((new, without_targets(value, indices_of(ckpt, found[1]))))
        copy.clear()
        copy.update(items)
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Take it away: it follows from the others."""
    for copy in copies(ckpt):
        for key in [key for key in copy if MODEL_OUTPUT.fullmatch(key)]:
            del copy[key]
    return ckpt


def copies(ckpt: CkptType) -> list[dict[str, Any]]:
    """Return the state dict, and copies of it."""
    names = list(ckpt["state_dict"])
    return [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]


def indices_of(ckpt: CkptType, dataset: str) -> Any:
    """Return the data indices of a dataset."""
    indices = ckpt["hyper_parameters"]["data_indices"]
    return indices[dataset] if isinstance(indices, dict) else indices


def without_targets(output: Any, indices: Any) -> Any:
    """Return those indices whose variables the model puts out, in a tensor of their own."""
    known = indices.model.output.name_to_index
    wanted = {number for name, number in indices.data.output.name_to_index.items() if name in known}
    return output[[place for place, number in enumerate(output.tolist()) if number in wanted]]
