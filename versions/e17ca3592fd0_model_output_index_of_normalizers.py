"""model output index of normalizers

The normalizers of anemoi-models 0.14.0 also know which variables the model puts out: those of the data's output without
targets, which the model never sees. It is an index into the data, as the other ones are, and saved.

Revision ID: e17ca3592fd0
Revises: 81f6a3d0c95b
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

revision = "e17ca3592fd0"
down_revision = "81f6a3d0c95b"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.14.0"})

OUTPUT = re.compile(r"model\.(?:pre|post)_processors(?:_tendencies)?\.([^.]+)\.(?:.+\.)?_output_idx")
MODEL_OUTPUT = re.compile(OUTPUT.pattern.replace("_output_idx", "_model_output_idx"))


operations = [
    op.Derive("known", "unknown"),
]


def known(ckpt: CkptType) -> list[op.Operation]:
    """Add the index to each normalizer, behind that of the data's output."""
    if any(MODEL_OUTPUT.fullmatch(key) for key in ckpt["state_dict"]):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    added = []
    for found in filter(None, map(OUTPUT.fullmatch, ckpt["state_dict"])):
        key, output = found[0], ckpt["state_dict"][found[0]]
        index = without_targets(output.tolist(), indices_of(ckpt, found[1]))
        new = key.removesuffix("_output_idx") + "_model_output_idx"
        kind = str(output.dtype).removeprefix("torch.")
        added.append(op.Add(new, [len(index)], kind, index, after=key, buffer=True))
    return list(added)


def unknown(ckpt: CkptType) -> list[op.Operation]:
    """Take it away: it follows from the others."""
    names = [key for key in ckpt["state_dict"] if MODEL_OUTPUT.fullmatch(key)]
    return [op.Drop(names)] if names else []


def indices_of(ckpt: CkptType, dataset: str) -> Any:
    """Return the data indices of a dataset."""
    indices = ckpt["hyper_parameters"]["data_indices"]
    return indices[dataset] if isinstance(indices, dict) else indices


def without_targets(output: list[int], indices: Any) -> list[int]:
    """Return those indices whose variables the model puts out."""
    named = indices.model.output.name_to_index
    wanted = {number for name, number in indices.data.output.name_to_index.items() if name in named}
    return [number for number in output if number in wanted]
