"""number processor blocks through

anemoi-models 0.11.0 keeps the layers of a processor in one list, not in a list of chunks: of two chunks of two layers,
``proc.1.blocks.0`` is ``proc.2``. The embedding of edges stays in the first. Hierarchical models have such processors
at each level.

Revision ID: c91f4a7be036
Revises: 93d1f60c8a24
Create Date: 2026-11-25 00:00:00+00:00
"""

import re

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

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

PROCESSOR = r"(model\.model\.(?:processor|(?:down|up)_level_processor\.[^.]+)\.proc\.)"
CHUNKED = re.compile(PROCESSOR + r"(\d+)\.blocks\.(\d+)\.(.*)")
FLAT = re.compile(PROCESSOR + r"(\d+)\.(?!emb_edges\.)(.*)")

operations = [
    op.Derive("flat", "chunked"),
]


def flat(ckpt: CkptType) -> list[op.Operation]:
    """Count the layers through all chunks."""
    found = list(filter(None, map(CHUNKED.fullmatch, ckpt["state_dict"])))
    length: dict[str, int] = {}
    for _, processor, _, block, _ in map(parts_of, found):
        length[processor] = max(length.get(processor, 0), int(block) + 1)
    return [
        op.RenameEach(
            {
                key: f"{processor}{int(chunk) * length[processor] + int(block)}.{rest}"
                for key, processor, chunk, block, rest in map(parts_of, found)
            }
        )
    ]


def chunked(ckpt: CkptType) -> list[op.Operation]:
    """Cut the list of layers into chunks."""
    length = from_configuration(ckpt)
    names = {}
    for key, processor, layer, rest in map(parts_of, filter(None, map(FLAT.fullmatch, ckpt["state_dict"]))):
        chunk, block = divmod(int(layer), length[processor])
        names[key] = f"{processor}{chunk}.blocks.{block}.{rest}"
    return [op.RenameEach(names)]


def parts_of(found: "re.Match[str]") -> tuple[str, ...]:
    """Return a name, and the parts that it was found to have."""
    return (found[0], *found.groups())


def from_configuration(ckpt: CkptType) -> dict[str, int]:
    """Return how many layers a chunk has, as the configuration says: the model was made without chunks."""
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
