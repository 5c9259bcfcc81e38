"""noise conditioning

In anemoi-models 0.11.1, what injects noise into an ensemble's latent space (it has a projection) holds what conditions
by noise, where it was one itself. Other models have no such names.

Revision ID: e06b93d7f218
Revises: 7be41c05d9f3
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "e06b93d7f218"
down_revision = "7be41c05d9f3"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.1"})

INJECTOR = "model.model.noise_injector."
INJECTS = INJECTOR + "projection."
OLD = INJECTOR + "noise_mlp."
NEW = INJECTOR + "_noise_conditioning.noise_mlp."


def migrate(ckpt: CkptType) -> CkptType:
    """Name the layers after what holds them."""
    return rename(ckpt, OLD, NEW)


def rollback(ckpt: CkptType) -> CkptType:
    """Name them as before."""
    return rename(ckpt, NEW, OLD)


def rename(ckpt: CkptType, old: str, new: str) -> CkptType:
    """Replace the start of names, in the state dict and in copies of it, and keep their order."""
    names = list(ckpt["state_dict"])
    if any(key.startswith(INJECTS) for key in names):
        for copy in [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]:
            for key in names:
                copy[new + key[len(old) :] if key.startswith(old) else key] = copy.pop(key)
    return ckpt
