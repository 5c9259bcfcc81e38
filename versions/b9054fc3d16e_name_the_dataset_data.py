"""name the dataset data

anemoi-models 0.12.0 keeps normalizers, node attributes, boundings, encoders, decoders and their edges in one dict for
each dataset; where there was one dataset, its name is "data", or what it was called before it came down here.

Revision ID: b9054fc3d16e
Revises: a28e6db4037f
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, op

revision = "b9054fc3d16e"
down_revision = "a28e6db4037f"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})
known_as = {
    "1767108147_move_to_multiple_datasets": {
        "3.9": "66a42ce81d38095063db8aac340e430881484b9abfa18dbd270dd72c65f9d3cd",
        "3.12": "22bd71c4784b47fe1f3933905232dcd18131f9715108e8bdb395b231198b048b",
        "3.13": "115ed1d0c5759f071256eafe4cb361282ecdc4e6242d3014d6a6a2e94016ac5d",
    },
}

PARTS = (
    "model.pre_processors.",
    "model.post_processors.",
    "model.pre_processors_tendencies.",
    "model.post_processors_tendencies.",
    "model.model.node_attributes.",
    "model.model.boundings.",
    "model.model.encoder.",
    "model.model.encoder_graph_provider.",
    "model.model.decoder.",
    "model.model.decoder_graph_provider.",
)
"""What is kept by dataset; some models have only some of it."""


def named(ckpt: CkptType) -> list[op.Operation]:
    """Insert the name of the dataset, wherever there is something."""
    name = dataset(ckpt)
    return [op.RenamePrefix(part, f"{part}{name}.", optional=True) for part in PARTS]


def unnamed(ckpt: CkptType) -> list[op.Operation]:
    """Take it out again."""
    name = dataset(ckpt)
    return [op.RenamePrefix(f"{part}{name}.", part, optional=True) for part in PARTS]


def dataset(ckpt: CkptType) -> str:
    """Return what the only dataset is called."""
    indices = ckpt["hyper_parameters"].get("data_indices")
    names = list(indices) if isinstance(indices, dict) else ["data"]
    if len(names) != 1:
        raise Refused(
            f"anemoi-models before 0.12.0 has one dataset, and this model has several ({', '.join(names)}): "
            "it cannot go back further than 0.12.0"
        )
    return names[0]


operations = [
    op.Derive(named, unnamed),
]
