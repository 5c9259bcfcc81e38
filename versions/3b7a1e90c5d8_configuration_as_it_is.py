"""the model takes the configuration as it is

Until anemoi-models 0.15.0, validated configurations said of the model that what it is given becomes plain dicts (``_convert_``), which
went past its configuration; from then on that would become a dict, and cannot.

Revision ID: 3b7a1e90c5d8
Revises: 2d9c40e7fb16
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_begun

revision = "3b7a1e90c5d8"
down_revision = "2d9c40e7fb16"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.15.0"})
known_as = {
    "1776237003_rename_swa_to_weight_averaging": {
        "3.9": "505e24fa60f7b932a7556791256b85283392d0b42a208e14d85ea80f76cec358",
        "3.12": "8431dcc0c7b20b82cce8bae3883d309caa44fdfa6cb7b81c53a25d87739b4139",
        "3.13": "4aa0ac0ec6532552d77fdb319b22e56c6d950f920aeca2d1fbf203b8758b8fa7",
    },
}


def known(ckpt: CkptType) -> list[op.Operation]:
    """Refuse nothing: no class ends here."""
    return []


def known_before(ckpt: CkptType) -> list[op.Operation]:
    """Refuse models of classes that begin here."""
    refuse_begun(ckpt, "0.15.0")
    return []


operations = [
    op.Derive("known", "known_before"),
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MapItem("model.model._convert_", {"all": "none"}, optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
