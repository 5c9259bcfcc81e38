"""noise conditioning

In anemoi-models 0.11.1, what injects noise into an ensemble's latent space (it has a projection) holds what conditions
by noise, where it was one itself. Other models have no such names.

Revision ID: e06b93d7f218
Revises: 7be41c05d9f3
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_begun

revision = "e06b93d7f218"
down_revision = "7be41c05d9f3"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.1"})

INJECTOR = "model.model.noise_injector."
INJECTS = INJECTOR + "projection."
OLD = INJECTOR + "noise_mlp."
NEW = INJECTOR + "_noise_conditioning.noise_mlp."


operations = [
    op.Derive("held", "bare"),
]


def held(ckpt: CkptType) -> list[op.Operation]:
    """Name the layers after what holds them."""
    return [op.RenamePrefix(OLD, NEW, optional=True)] if injects(ckpt) else []


def bare(ckpt: CkptType) -> list[op.Operation]:
    """Name them as before."""
    refuse_begun(ckpt, "0.11.1")
    return [op.RenamePrefix(NEW, OLD, optional=True)] if injects(ckpt) else []


def injects(ckpt: CkptType) -> bool:
    """Tell whether the model injects noise."""
    return any(key.startswith(INJECTS) for key in ckpt["state_dict"])
