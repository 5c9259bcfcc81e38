"""number processor blocks through

anemoi-models 0.11.0 keeps the layers of a processor in one list, not in a list of chunks: of two chunks of two layers,
``proc.1.blocks.0`` is ``proc.2``. The embedding of edges stays in the first. Hierarchical models have such processors
at each level.

Revision ID: c91f4a7be036
Revises: 93d1f60c8a24
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items

revision = "c91f4a7be036"
down_revision = "93d1f60c8a24"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"})
known_as = {
    "1762857428_chunking_fix": {
        "3.9": "61749a252385173eabe13e87ff1a699251cacf91607c84169c09c71939b3a9c9",
        "3.12": "17c82991f03ef738da175a9a17a4669f1366cb6f58443050d658125730f16277",
        "3.13": "350006f55d195fda0fa75c8fd0fec57d26d6957e921f0399546a580ce6f805b4",
    },
}

KEPT = "kept_by_anemoi_migrations"
PROCESSOR = r"(model\.model\.(?:processor|(?:down|up)_level_processor\.[^.]+)\.proc\.)"
CHUNKED = re.compile(PROCESSOR + r"(\d+)\.blocks\.(\d+)\.(.*)")
FLAT = re.compile(PROCESSOR + r"(\d+)\.(?!emb_edges\.)(.*)")


def migrate(ckpt: CkptType) -> CkptType:
    """Count the layers through all chunks, and remember how many there were in one."""
    length: dict[str, int] = {}
    for found in filter(None, map(CHUNKED.fullmatch, ckpt["state_dict"])):
        length[found[1]] = max(length.get(found[1], 0), int(found[3]) + 1)

    def flat(key: str) -> str:
        found = CHUNKED.fullmatch(key)
        return key if found is None else f"{found[1]}{int(found[2]) * length[found[1]] + int(found[3])}.{found[4]}"

    rename(ckpt, flat)
    ckpt.setdefault(KEPT, {})[revision] = length
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Cut the list of layers into chunks."""
    kept = ckpt.get(KEPT, {})
    length = kept.pop(revision) if revision in kept else from_configuration(ckpt)
    if not kept:
        ckpt.pop(KEPT, None)

    def chunked(key: str) -> str:
        found = FLAT.fullmatch(key)
        if found is None or found[1] not in length:
            return key
        chunk, block = divmod(int(found[2]), length[found[1]])
        return f"{found[1]}{chunk}.blocks.{block}.{found[3]}"

    rename(ckpt, chunked)
    return ckpt


def rename(ckpt: CkptType, renamed: Any) -> None:
    """Rename parameters in the state dict and in copies of it, and keep their order."""
    names = list(ckpt["state_dict"])
    for copy in [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]:
        for key in names:
            copy[renamed(key)] = copy.pop(key)  # every key in turn, so that the order stays


def from_configuration(ckpt: CkptType) -> dict[str, int]:
    """Return how many layers a chunk has where nobody remembers: in a model that was made without chunks."""
    length: dict[str, int] = {}
    for found in filter(None, map(FLAT.fullmatch, ckpt["state_dict"])):
        length[found[1]] = max(length.get(found[1], 0), int(found[2]) + 1)
    chunks = items.get(ckpt, "hyper_parameters.config.model.processor.num_chunks")
    if chunks is None:
        raise ValueError("the configuration does not say in how many chunks the processor is (num_chunks)")
    for processor, layers in length.items():
        if layers % chunks:
            raise ValueError(f"{processor} has {layers} layers, which make no {chunks} chunks (num_chunks)")
    return {processor: layers // chunks for processor, layers in length.items()}
