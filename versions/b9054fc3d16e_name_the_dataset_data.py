"""name the dataset data

anemoi-models 0.12.0 keeps normalizers, node attributes, boundings, encoders, decoders and their edges in one dict for
each dataset; where there was one dataset, its name is "data".

Revision ID: b9054fc3d16e
Revises: a28e6db4037f
Create Date: 2026-11-25 00:00:00+00:00
"""

import re

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

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

# What only some models have.
WITHOUT = re.compile(
    r"(model\.(?:(?:pre|post)_processors_tendencies|model\.(?:boundings|(?:en|de)coder_graph_provider))\.)"
)
WITH = re.compile(WITHOUT.pattern + r"data\.")


def name_the_rest(ckpt: CkptType) -> CkptType:
    """Insert the name of the dataset, where there is something."""
    return rename(ckpt, WITHOUT, r"\1data.")


def unname_the_rest(ckpt: CkptType) -> CkptType:
    """Take it out again."""
    return rename(ckpt, WITH, r"\1")


def rename(ckpt: CkptType, old: "re.Pattern[str]", new: str) -> CkptType:
    """Replace the start of names, in the state dict and in copies of it, and keep their order."""
    names = list(ckpt["state_dict"])
    for copy in [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]:
        for key in names:
            found = old.match(key)
            copy[key if found is None else found.expand(new) + key[found.end() :]] = copy.pop(key)
    return ckpt


operations = [
    op.RenamePrefix("model.pre_processors.", "model.pre_processors.data."),
    op.RenamePrefix("model.post_processors.", "model.post_processors.data."),
    op.RenamePrefix("model.model.node_attributes.", "model.model.node_attributes.data."),
    op.RenamePrefix("model.model.encoder.", "model.model.encoder.data."),
    op.RenamePrefix("model.model.decoder.", "model.model.decoder.data."),
    op.Run("name_the_rest", "unname_the_rest"),
]
